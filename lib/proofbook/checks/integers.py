"""What a target holds in integers: which layers, how much of the model that is, and what is left out."""

from collections import Counter
from dataclasses import dataclass

import torch
from torch import nn

from proofbook.checks.trial import Trial
from proofbook.checks.truth import reference_model, run_reference
from proofbook.runtimes.quantised import Quantised, linear_layers
from proofbook.runtimes.runtime import Fallback

# the kinds of fallback that a layer in floating point is; of the second, one whose inputs no number of groups holds
LEFT = "linear layers in floating point"
PARTIAL = "linear layers of no whole groups in floating point"


@dataclass(frozen=True)
class Holding:
    """What is held in integers of the layers that a call of the model computes."""

    held: dict[str, Quantised]
    # linear layers that are called and not held
    left: dict[str, nn.Linear]
    dtype: str
    # inputs that share a scale; 1 where all of an output do
    group: int
    # of all parameters, those held
    share: float
    # bytes a weight
    size: float
    # classes of what holds further matrices, and how many there are
    others: Counter[str]

    @property
    def observed(self) -> str:
        """How many layers, in words."""
        return f"{len(self.held)} of {len(self.held) + len(self.left)} linear layers in {self.dtype}"

    @property
    def detail(self) -> str:
        """How much of the model that is."""
        grids = {one.grid for one in self.held.values()}
        groups = ", ".join(sorted(f"{one.levels} levels for each {one.group}" for one in grids))
        rest = ", ".join(f"{count} {kind}" for kind, count in self.others.most_common())
        held = f"{self.share:.0%} of all parameters in {self.dtype}, {self.size:.2f} bytes each with scales ({groups})"
        return held + f"; matrices elsewhere stay as they are: {rest}" * bool(rest)

    @property
    def fallbacks(self) -> tuple[Fallback, ...]:
        """Linear layers that stay in floating point."""
        named: dict[str, list[str]] = {}
        for path, layer in self.left.items():
            kind = PARTIAL if layer.in_features % self.group else LEFT
            named.setdefault(kind, []).append(f"{path} ({layer.in_features} → {layer.out_features})")
        return tuple(Fallback(kind, ", ".join(paths[:5])) for kind, paths in named.items())


def holding_of(trial: Trial) -> Holding:
    """What the target holds in integers of what a call of the batch computes."""
    held = dict(trial.session.held())
    called = _called(trial)
    weights = sum(one.codes.numel() for one in held.values())
    sizes = {id(one): one.numel() for one in trial.called.parameters()}
    return Holding(
        held,
        {path: layer for path, layer in called.items() if path not in held},
        str(trial.target.weight_dtype),
        trial.target.weight_group or 1,
        weights / sum(sizes.values()),
        sum(one.nbytes for one in held.values()) / max(1, weights),
        Counter(
            type(module).__name__
            for module in trial.called.modules()
            if not isinstance(module, nn.Linear) and any(one.dim() > 1 for one in module.parameters(recurse=False))
        ),
    )


def _called(trial: Trial) -> dict[str, nn.Linear]:
    """The linear layers that a call of the batch computes, by their paths."""
    model = reference_model(trial.called, torch.float32)
    layers, seen = linear_layers(model), set[str]()
    for path, layer in layers.items():
        layer.register_forward_pre_hook(lambda *_, path=path: seen.add(path))
    run_reference(model, trial.inputs, torch.float32)
    return {path: layer for path, layer in layers.items() if path in seen}
