"""How fast is it, and are the numbers timed the numbers checked?"""

from proofbook.checks.compare import differing
from proofbook.checks.registry import Observation, check
from proofbook.checks.trial import Trial


@check(graphs=True)
def timed_outputs(trial: Trial) -> Observation:
    """After the timed calls a call still gives the outputs that were checked: nothing was timed that is not right."""
    checked = trial.outputs
    calls = len(trial.latency.calls_ms)
    changed = differing(checked, trial.run())
    return Observation(
        passed=not changed,
        observed=f"{len(changed)} of {len(checked)} outputs differ after {calls} timed calls",
        allowed="0",
        detail=", ".join(changed[:5]),
    )
