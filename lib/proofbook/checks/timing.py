"""How fast is it, and are the numbers timed the numbers checked?"""

from proofbook.checks.compare import differing
from proofbook.checks.registry import Observation, check
from proofbook.checks.trial import Trial
from proofbook.runtimes.graph import ANOTHER_GRAPH


@check(graphs=True)
def timed_outputs(trial: Trial) -> Observation:
    """After the timed calls a call still gives the outputs that were checked: nothing was timed that is not right."""
    checked = trial.outputs
    calls = len(trial.latency.calls_ms)
    again = trial.run()
    changed = differing(checked, again)
    if changed and any(one.kind == ANOTHER_GRAPH for one in trial.session.proof(trial.inputs).fallbacks):
        # one made since for other sizes may serve these as well, and rounds in its own way
        return Observation.of(
            trial.agree(again, checked), f"1 in each output after {calls} timed calls of another graph"
        )
    return Observation(
        passed=not changed,
        observed=f"{len(changed)} of {len(checked)} outputs differ after {calls} timed calls",
        allowed="0",
        detail=", ".join(changed[:5]),
    )
