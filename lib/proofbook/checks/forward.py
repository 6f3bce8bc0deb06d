"""Does a forward call give what its class documents, on the target, and the same each time?"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from proofbook.checks.compare import differing
from proofbook.checks.integers import holding_of
from proofbook.checks.plain import call, eager, same
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.reproduction import reproduces
from proofbook.checks.shapes import documented_shapes
from proofbook.checks.trial import Trial


@check(graphs=True)
def finite(trial: Trial) -> Observation:
    """Every output value is finite, or masked with an infinity where truth is as well."""
    wrong = {}
    for name, tensor in trial.outputs.items():
        true = trial.truth.outputs.get(name)
        allowed = ~true.isfinite() if true is not None and true.shape == tensor.shape else False
        count = int((~tensor.isfinite() & ~torch.as_tensor(allowed)).sum())
        if count or tensor.isnan().any():
            wrong[name] = count
    total = sum(tensor.numel() for tensor in trial.outputs.values())
    return Observation(
        passed=bool(trial.outputs) and not wrong,
        observed=f"{sum(wrong.values())} of {total} values are NaN or infinite",
        allowed="0",
        detail="; ".join(f"{count} in {name}" for name, count in wrong.items()),
        executions=trial.beside_truth,
    )


@reproduces(finite)
def no_value_is_nan(model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Every output value is finite where float64 is."""
    true = eager(model, inputs, torch.float64)
    for name, tensor in call(model, inputs, dtype).items():
        known = name in true and true[name].shape == tensor.shape
        wrong = int((~tensor.isfinite() & (true[name].isfinite() if known else True)).sum())
        assert not wrong, f"{name}: observed {wrong} values that are NaN or infinite, allowed 0"


@check(graphs=True)
def output_shapes(trial: Trial) -> Observation:
    """Outputs have the shapes that the model class documents for these inputs and this configuration."""
    documented = documented_shapes(trial.spec.model_class, trial.config, trial.inputs)
    found = {name: tuple(tensor.shape) for name, tensor in trial.outputs.items()}
    judged = {name: shape for name, shape in documented.items() if name in found}
    if not judged:
        raise NotApplicable(f"no documented shape is known for {trial.spec.model_class} ({', '.join(found)})")
    wrong = {
        name: shape
        for name, shape in judged.items()
        if len(shape) != len(found[name])
        or any(should is not None and should != size for should, size in zip(shape, found[name], strict=True))
    }
    show = {name: "×".join("?" if size is None else str(size) for size in shape) for name, shape in judged.items()}
    return Observation(
        passed=not wrong,
        observed=", ".join(f"{name} {'×'.join(map(str, found[name]))}" for name in judged),
        allowed=", ".join(f"{name} {shape}" for name, shape in show.items()),
        detail=f"wrong: {', '.join(wrong)}" if wrong else "",
        evidence={"documented": wrong},
    )


@reproduces(output_shapes)
def shapes_are_documented(
    model: nn.Module,
    inputs: Mapping[str, Any],
    dtype: torch.dtype,
    documented: Mapping[str, tuple[int | None, ...]],
) -> None:
    """Outputs have the shapes that the class documents; None stands for a size that it leaves open."""
    outputs = call(model, inputs, dtype)
    for name, shape in documented.items():
        found = tuple(outputs[name].shape)
        fits = len(found) == len(shape) and all(want in (None, have) for want, have in zip(shape, found, strict=True))
        assert fits, f"{name}: observed shape {found}, allowed {shape}"


@check(graphs=True)
def deterministic(trial: Trial) -> Observation:
    """The same inputs give the same bits: at once again, after a time in train mode, and from another seed."""
    again = differing(trial.outputs, trial.run())
    trial.model.train().eval()
    toggled = differing(trial.outputs, trial.run())
    noise = trial.spec.noise
    random = trial.draws_noise
    said = f"draws noise, by design: {noise}" if noise else ", ".join((again or toggled or random)[:5])
    return Observation(
        passed=not again and not toggled and bool(random) == bool(noise),
        observed=f"{len(again)} of {len(trial.outputs)} outputs differ at once, {len(toggled)} after train mode, "
        f"{len(random)} from another seed",
        allowed="0, 0, 1 or more" if noise else "0",
        detail=said,
    )


@reproduces(deterministic)
def two_calls_give_the_same(model: nn.Module, inputs: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Two calls with the same inputs give the same bits."""
    same(call(model, inputs, dtype), call(model, inputs, dtype))


@check(graphs=True)
def ran_on_target(trial: Trial) -> Observation:
    """All of it ran as the target promises: nothing fell back in silence, to what it does not allow by name."""
    target, proof = trial.target, trial.session.proof(trial.inputs)
    there, total = proof.ran.get((proof.where, target.dtype), 0), sum(proof.ran.values())
    holding = holding_of(trial) if target.weight_dtype else None
    fallbacks = (*proof.fallbacks, *(holding.fallbacks if holding else ()))
    wrong = [one for one in fallbacks if one.kind not in target.allows]
    observed = [
        f"{there} of {total} {proof.unit} on {proof.where} in {target.dtype}",
        *([holding.observed] if holding else []),
        *(dict.fromkeys(one.kind for one in wrong) or ["no fallback"]),
    ]
    told = [
        *(f"{one.kind}: {one.detail}" for one in wrong),
        *([holding.detail] if holding else []),
        ", ".join(f"{count / total:.1%} {where} {dtype}" for (where, dtype), count in sorted(proof.ran.items())),
        ", ".join(f"{count} {kernel}" for kernel, count in sorted(proof.kernels.items())),
        *(
            f"{one.kind} ({one.detail}), allowed: {target.allows[one.kind]}"
            for one in fallbacks
            if one.kind in target.allows
        ),
    ]
    return Observation(
        passed=not wrong and there > 0 and (holding is None or bool(holding.held)),
        observed=", ".join(observed),
        allowed=f"more than 0 on {proof.where} in {target.dtype}, "
        + "more than 0 layers, " * (holding is not None)
        + "no fallback"
        + " but those allowed by name" * bool(target.allows),
        detail="; ".join(filter(None, told)),
    )
