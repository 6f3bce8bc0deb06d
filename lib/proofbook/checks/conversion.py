"""Does the target's runtime take the model, and does each step on the way there keep its numbers?"""

from itertools import pairwise

from proofbook.checks.hidden import without_padding
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.trial import Trial
from proofbook.runtimes import Refused


@check(graphs=True)
def prepared(trial: Trial) -> Observation:
    """The target's runtime takes the model; where it does not, the step that refused and the cause are named."""
    _converted(trial)
    if isinstance(trial.prepared, Refused):
        raise trial.prepared
    steps = [f"{step} {seconds:.2g} s" for step, seconds in trial.session.prepare_s.items()]
    return Observation(True, "ready: " + ", ".join(steps), "no step refuses")


@check(graphs=True)
def stages(trial: Trial) -> Observation:
    """Each step on the way to the target gives the numbers of the step before it."""
    _converted(trial)
    steps = list(trial.session.stages(trial.inputs).items())
    comparisons = []
    for (_, before), (name, after) in pairwise(steps):
        actual, expected = (without_padding(one, trial.inputs) for one in (after, before))
        comparisons += trial.agree(actual, expected, f", {name}")
    return Observation.of(comparisons, f"1 in each output of {len(steps) - 1} steps: " + ", ".join(n for n, _ in steps))


def _converted(trial: Trial) -> None:
    """Raises NotApplicable where there are no steps."""
    if trial.runtime.runs_module:
        raise NotApplicable(f"{trial.target.runtime} runs the module of torch itself")
