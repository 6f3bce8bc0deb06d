"""How fast is it, and are the numbers timed the numbers checked?"""

import torch

from proofbook.checks.registry import Observation, check
from proofbook.checks.trial import Trial


@check
def timed_outputs(trial: Trial) -> Observation:
    """After the timed calls a call still gives the outputs that were checked: nothing was timed that is not right."""
    checked = trial.outputs
    calls = len(trial.latency.calls_ms)
    again = trial.run()
    differing = [
        name
        for name, tensor in checked.items()
        if name not in again or not torch.equal(tensor.nan_to_num(), again[name].nan_to_num())
    ]
    return Observation(
        passed=not differing,
        observed=f"{len(differing)} of {len(checked)} outputs differ after {calls} timed calls",
        allowed="0",
        detail=", ".join(differing[:5]),
    )
