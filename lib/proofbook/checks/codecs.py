"""Are the codes of a sound right, and is the sound that comes back of them?"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proofbook.checks.compare import Comparison
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.trial import Trial
from proofbook.checks.truth import computing_in, in_dtype, reference_model
from proofbook.runtimes.outputs import flatten

# a code is sure when changes of the sound by this share of it, far above rounding, leave it as it is
SHARE = 1e-3
# how many codes of each sound are held against others
FEW = 16


@check
def codes(trial: Trial) -> Observation:
    """Codes are whole numbers, each an entry of its codebook; sounds alone and together are coded the same."""
    codec = _Codec.of(trial)
    inputs = codec.beginning
    together = codec.encode(inputs)
    size = int(trial.config.codebook_size)
    outside = int(((together < 0) | (together >= size)).sum())
    wrong = [f"{outside} codes outside of 0 to {size - 1}"] if outside else []
    if together.is_floating_point():
        wrong.append(f"codes of {together.dtype}")
    sure, differ = codec.sure(), 0
    for row in range(codec.rows):
        alone = codec.encode({name: value[row : row + 1] for name, value in inputs.items()})
        own, seen = together.narrow(codec.along, row, 1), sure.narrow(codec.along, row, 1)
        differ += int(((alone != own) & seen).sum()) if alone.shape == own.shape else alone.numel()
    wrong += [f"{differ} of {int(sure.sum())} codes differ in a row alone"] if differ else []
    if not sure.any():
        raise NotApplicable("no code is sure")
    return Observation(not wrong, f"{outside} outside, {differ} differ", "0 and 0", "; ".join(wrong))


@check
def round_trip(trial: Trial) -> Observation:
    """A sound has a code a hop, and decoded is as long as it was, up to one hop, and is what forward gives."""
    codec = _Codec.of(trial)
    back, length = codec.round_trip(trial.inputs), codec.samples.shape[-1]
    hop = codec.hop
    count = trial.outputs["audio_codes"].shape[-1]
    wrong = []
    if count != math.ceil(length / hop):
        wrong.append(f"{count} codes of {length} samples, with a hop of {hop}")
    if not length - hop < back.shape[-1] <= math.ceil(length / hop) * hop:
        wrong.append(f"{back.shape[-1]} samples of {length}, with a hop of {hop}")
    if not bool(back.isfinite().all()):
        wrong.append("values that are NaN or infinite")
    shared = min(back.shape[-1], trial.outputs["audio_values"].shape[-1])
    comparisons: list[Comparison] = trial.agree(
        {"audio_values": back[..., :shared]}, {"audio_values": trial.outputs["audio_values"][..., :shared]}
    )
    found = Observation.of(comparisons, f"1, and as long within {hop} samples")
    if not wrong:
        return found
    return Observation(False, found.observed, found.allowed, "; ".join([*wrong, found.detail]), found.comparisons)


@dataclass(frozen=True)
class _Codec:
    """A model that encodes sound and decodes it again."""

    trial: Trial
    samples: Tensor

    @classmethod
    def of(cls, trial: Trial) -> "_Codec":
        if not {"audio_codes", "audio_values"} <= set(trial.outputs):
            raise NotApplicable(f"{trial.spec.model_class} gives no codes of sound and no sound of codes")
        samples = trial.inputs.get("input_values")
        if samples is None or not hasattr(trial.model, "encode") or not hasattr(trial.config, "codebook_size"):
            raise NotApplicable(f"{trial.spec.model_class} encodes no samples by codebooks of one size")
        codes = trial.outputs["audio_codes"]
        if codes.is_floating_point() or len(samples) not in codes.shape[:2]:
            raise NotApplicable("its codes have no entry a row")
        return cls(trial, samples)

    @property
    def rows(self) -> int:
        """How many sounds the batch has."""
        return len(self.samples)

    @property
    def along(self) -> int:
        """The dimension of the codes that counts the rows."""
        return int(self.trial.outputs["audio_codes"].shape[:2].index(self.rows))

    @property
    def hop(self) -> int:
        """Samples a code, as the configuration says."""
        config = self.trial.config
        stated = [getattr(config, name, None) for name in ("hop_length", "frame_size")]
        if not any(stated):
            raise NotApplicable("its configuration does not say how many samples a code stands for")
        return int(next(filter(None, stated)))

    @property
    def beginning(self) -> dict[str, Tensor]:
        """The inputs that are as long as the sounds, up to some codes."""
        length = self.samples.shape[-1]
        whole = {name: value for name, value in self.trial.inputs.items() if value.shape[-1:] == (length,)}
        return {name: value[..., : FEW * self.hop] for name, value in whole.items()}

    def encode(self, inputs: Mapping[str, Any]) -> Tensor:
        """The codes of sounds on the target."""
        with torch.no_grad():
            return _codes(_coded(self.trial.model, self.trial.session.place(inputs))).cpu()

    def round_trip(self, inputs: Mapping[str, Any]) -> Tensor:
        """What decoding makes of the codes of sounds on the target."""
        model, placed = self.trial.model, self.trial.session.place(inputs)
        with torch.no_grad():
            coded = _coded(model, placed)
            takes = inspect.signature(model.decode).parameters
            given = {name: getattr(coded, name) for name in takes if getattr(coded, name, None) is not None}
            given |= {name: placed[name] for name in takes if name in placed and name not in given}
            return flatten(model.decode(**given))["audio_values"].cpu()

    def sure(self) -> Tensor:
        """Which codes stay as they are under small changes of the sound; booleans in the shape of the codes."""
        reference = reference_model(self.trial.model, torch.float64)
        inputs = self.beginning
        samples = inputs["input_values"]
        noise = torch.randn(samples.shape, generator=torch.Generator().manual_seed(0))
        found = []
        for sign in (-1, 0, 1):
            changed = samples * (1 + sign * SHARE * noise)
            with torch.no_grad(), computing_in(torch.float64):
                wide = in_dtype({**inputs, "input_values": changed}, torch.float64)
                found.append(_codes(_coded(reference, wide)))
        same = (found[0] == found[1]) & (found[2] == found[1])
        return same.cpu()


def _coded(model: Any, inputs: Mapping[str, Any]) -> Any:
    takes = inspect.signature(model.encode).parameters
    return model.encode(**{name: value for name, value in inputs.items() if name in takes})


def _codes(coded: Any) -> Tensor:
    return torch.as_tensor(coded.audio_codes)
