"""Do the two towers of a model of pictures and text give alone what they give together, and is their likeness one?"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from proofbook.checks.compare import Comparison
from proofbook.checks.plain import agree, call, eager, placed, rounding
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.reproduction import reproduces
from proofbook.checks.trial import Trial
from proofbook.runtimes.outputs import flatten

# what a tower beside that of the text reads
SEEN = ("image", "video", "audio")
# a vector of length one, after rounding to 8 bits
UNIT = 0.02


@check
def towers_alone(trial: Trial) -> Observation:
    """What each tower gives alone, by ``get_text_features`` and its like, is what the joint call makes of it."""
    comparisons, elsewhere = [], []
    for kind in _Towers(trial).kinds:
        name, alone = f"{kind}_embeds", _features(trial, kind)
        together = trial.outputs[name]
        if alone.shape != together.shape:
            elsewhere.append(f"{name} are of both towers")
            continue
        comparisons += trial.agree({name: _normal(alone) if _is_normal(together) else alone}, {name: together})
    if not comparisons:
        raise NotApplicable("; ".join(elsewhere))
    seen = Observation.of(comparisons, f"1 in each of {len(comparisons)} towers", "; ".join(elsewhere))
    towers = {kind: list(_Towers(trial).inputs_of(kind)) for kind in _Towers(trial).kinds}
    return replace(seen, evidence={"towers": towers})


@reproduces(towers_alone)
@torch.no_grad()
def towers_give_alone_what_they_give_together(
    model: Any,
    inputs: Mapping[str, Any],
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    towers: Mapping[str, list[str]],
) -> None:
    """What each tower gives alone is what the joint call makes of it."""
    outputs, noise = call(model, inputs, dtype), rounding(model, inputs, dtype)
    for kind, names in towers.items():
        own = placed(model, {name: inputs[name] for name in names}, dtype)
        found = flatten(getattr(model, f"get_{kind}_features")(**own))
        alone, together = found.get("pooler_output", found.get("output")), outputs[f"{kind}_embeds"]
        assert alone is not None, f"{kind}: observed no features, allowed {tuple(together.shape)}"
        if alone.shape == together.shape:
            alone = _normal(alone.cpu()).to(together.dtype) if _is_normal(together) else alone.cpu()
            agree({f"{kind}_embeds": alone}, {f"{kind}_embeds": together}, tolerance, noise)


@check
def similarity(trial: Trial) -> Observation:
    """Likeness is symmetric, and the scaled product of the two towers' vectors, each of length one."""
    names = [name for name in trial.outputs if name.startswith("logits_per_")]
    if "logits_per_text" not in names or len(names) != 2:
        raise NotApplicable("it returns no likeness of two sides")
    scale = likeness_scale(trial.model)
    if scale is None:
        raise NotApplicable("it has no one scale of likeness for both sides")
    expected = likeness(trial.outputs, *scale)
    comparisons = trial.agree({name: trial.outputs[name] for name in expected}, expected)
    found = Observation.of(comparisons, "1 in each direction")
    return replace(found, evidence={"scale": scale[0], "shift": scale[1]})


@reproduces(similarity)
def likeness_is_a_product(
    model: nn.Module,
    inputs: Mapping[str, Any],
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    scale: float,
    shift: float,
) -> None:
    """Likeness is symmetric, and the scaled product of the two towers' vectors."""
    outputs, true, floor = call(model, inputs, dtype), eager(model, inputs, torch.float64), eager(model, inputs, dtype)
    expected = likeness(outputs, scale, shift)
    wanted = {name: one.to(outputs[name].dtype) for name, one in expected.items()}
    agree(outputs, wanted, tolerance, (floor, true))


def likeness(outputs: Mapping[str, Tensor], scale: float, shift: float) -> dict[str, Tensor]:
    """The likeness that the vectors among outputs amount to, seen × texts and texts × seen, in float64.

    Vectors of the text are texts × size, or seen × texts × size where what is seen prompts them. Where the vectors
    are none of one side, the likeness is that in the other direction.
    """
    side = next(name for name in outputs if name.startswith("logits_per_") and name != "logits_per_text")
    kind = side.removeprefix("logits_per_")
    seen, text = outputs.get(f"{kind}_embeds"), outputs.get("text_embeds")
    if seen is None or text is None or seen.dim() != 2 or text.dim() not in (2, 3):
        return {"logits_per_text": outputs[side].t()}
    seen, text = (torch.nn.functional.normalize(one.double(), dim=-1) for one in (seen, text))
    product = torch.einsum("sd,std->st" if text.dim() == 3 else "sd,td->st", seen, text) * scale + shift
    return {side: product, "logits_per_text": product.t()}


def likeness_scale(model: Any) -> tuple[float, float] | None:
    """What a model multiplies likeness with, and what it adds: by its parameter ``logit_scale``, the logarithm of the
    factor, or ``temperature``, its inverse, and ``logit_bias``. None where it has neither."""
    shift = float(torch.as_tensor(getattr(model, "logit_bias", None) or 0.0).detach())
    if isinstance(scale := getattr(model, "logit_scale", None), Tensor):
        return float(scale.detach().double().exp()), shift
    if isinstance(temperature := getattr(model, "temperature", None), Tensor):
        return 1 / float(temperature.detach()), shift
    return None


@check(graphs=True)
def one_beside_many(trial: Trial) -> Observation:
    """One picture with many texts, and one text with many pictures, are as like as in the whole batch."""
    towers = _Towers(trial)
    names = [name for name in trial.outputs if name.startswith("logits_per_")]
    if not names:
        raise NotApplicable("it returns no likeness")
    comparisons: list[Comparison] = []
    for kind in towers.kinds:
        own = towers.inputs_of(kind)
        for row in range(len(next(iter(own.values())))):
            one = {**trial.inputs, **{name: value[row : row + 1] for name, value in own.items()}}
            outputs = trial.run(one)
            for name in names:
                along = 0 if name == f"logits_per_{kind}" else 1
                expected = trial.outputs[name].narrow(along, row, 1)
                comparisons += trial.agree({name: outputs[name]}, {name: expected}, f", {kind} {row} alone")
    read = {kind: list(towers.inputs_of(kind)) for kind in towers.kinds}
    return replace(Observation.of(comparisons, "1 for each picture and each text alone"), evidence={"towers": read})


@reproduces(one_beside_many)
def one_is_as_like_as_among_many(
    model: nn.Module,
    inputs: Mapping[str, Any],
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    towers: Mapping[str, list[str]],
) -> None:
    """One picture with many texts, and one text with many pictures, are as like as in the whole batch."""
    batch, noise = call(model, inputs, dtype), rounding(model, inputs, dtype)
    for kind, names in towers.items():
        for row in range(len(inputs[names[0]])):
            found = call(model, {**inputs, **{name: inputs[name][row : row + 1] for name in names}}, dtype)
            for name in [name for name in batch if name.startswith("logits_per_")]:
                along = 0 if name == f"logits_per_{kind}" else 1
                agree({name: found[name]}, {name: batch[name].narrow(along, row, 1)}, tolerance, noise)


@dataclass(frozen=True)
class _Towers:
    """The two towers of a model, by what they read."""

    trial: Trial

    def __post_init__(self) -> None:
        if len(self.kinds) != 2:
            raise NotApplicable("it has no two towers that give their features alone and together")
        shared = set(self.inputs_of(self.kinds[0])) & set(self.inputs_of(self.kinds[1]))
        if shared:
            raise NotApplicable(f"both towers read {', '.join(sorted(shared))}")

    @property
    def kinds(self) -> list[str]:
        """What the towers read: text, and another."""
        trial = self.trial
        return [
            kind
            for kind in ("text", *SEEN)
            if hasattr(trial.model, f"get_{kind}_features") and f"{kind}_embeds" in trial.outputs
        ]

    def inputs_of(self, kind: str) -> dict[str, Tensor]:
        """The inputs that one of them takes."""
        takes = inspect.signature(getattr(self.trial.model, f"get_{kind}_features")).parameters
        return {name: value for name, value in self.trial.inputs.items() if name in takes}


class _Features(nn.Module):
    """One tower of a model as a module of its own."""

    def __init__(self, model: nn.Module, kind: str) -> None:
        super().__init__()
        self.model = model
        self.kind = kind

    def forward(self, **inputs: Tensor) -> Any:
        return getattr(self.model, f"get_{self.kind}_features")(**inputs)


def _features(trial: Trial, kind: str) -> Tensor:
    """What a tower gives alone on the target, before it is brought to length one: items × size."""
    outputs = trial.run_module(_Features(trial.model, kind), _Towers(trial).inputs_of(kind))
    return outputs["pooler_output"] if "pooler_output" in outputs else outputs["output"]


def _normal(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors.double(), dim=-1)


def _is_normal(vectors: Tensor) -> bool:
    return bool(((vectors.double().norm(dim=-1) - 1).abs() < UNIT).all())
