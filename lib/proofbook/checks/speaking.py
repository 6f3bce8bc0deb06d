"""Is the sound that a model makes of text whole, and made again by the same seed?"""

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.trial import Trial
from proofbook.checks.truth import CALL_SEED
from proofbook.subject.tasks.audio import TextToAudio, TextToSpeech

# frames that are written of each token of a text, so that random weights come to an end
_FRAMES = 1.0
# samples that the vocoder writes a frame
_UPSAMPLED = (4, 2)


@check
def made_again(trial: Trial) -> Observation:
    """Sound made of text is finite and not silent, and the same bits once more under the same seed."""
    if not isinstance(trial.task, TextToSpeech | TextToAudio):
        raise NotApplicable(f"the task is {trial.spec.task}, which makes no sound of text")
    first, second = ([torch.as_tensor(one) for one in made] for made in (trial.answers, trial.answer()))
    wrong = [f"row {row}: NaN or infinite" for row, one in enumerate(first) if not bool(one.isfinite().all())]
    wrong += [f"row {row}: nothing, or silence" for row, one in enumerate(first) if not bool((one != 0).any())]
    wrong += [
        f"row {row}: other bits"
        for row, (one, two) in enumerate(zip(first, second, strict=True))
        if one.shape != two.shape or not torch.equal(one, two)
    ]
    return Observation(not wrong, f"{len(wrong)} wrong of {len(first)} rows", "0 wrong", "; ".join(wrong))


@check
def vocoder(trial: Trial) -> Observation:
    """Generation with a vocoder gives what the vocoder alone makes of the spectrograms, as long as their frames say."""
    takes = inspect.signature(trial.model.generate).parameters if hasattr(trial.model, "generate") else {}
    if "vocoder" not in takes or "spectrogram" not in trial.outputs:
        raise NotApplicable(f"{trial.spec.model_class} generates without a vocoder")
    voice = _vocoder(trial)
    spectrograms, frames = _spoken(trial)
    sounds, lengths = _spoken(trial, vocoder=voice)
    with torch.no_grad():
        alone = voice(spectrograms.to(trial.session.device)).reshape(len(sounds), -1).cpu()
    hop = math.prod(_UPSAMPLED)
    step, most = trial.config.reduction_factor, trial.inputs["input_ids"].shape[1] * _FRAMES
    wrong = [f"{count} frames, in steps of {step}" for count in frames if count % step or not 0 < count <= most]
    wrong += [
        f"{length} samples of {count} frames"
        for length, count in zip(lengths, frames, strict=True)
        if length != count * hop
    ]
    apart = float((alone - sounds).abs().max()) if alone.shape == sounds.shape else math.inf
    allowed = trial.tolerance.smallest * trial.tolerance.eps * float(alone.abs().max())
    return Observation(not wrong and apart <= allowed, f"{apart:.3g} apart at most", f"{allowed:.3g}", "; ".join(wrong))


def _spoken(trial: Trial, **more: Any) -> tuple[Tensor, list[int]]:
    """What is generated of the texts, rows × time (× mel bins), and the length of each row."""
    given = {name: value for name, value in trial.inputs.items() if not name.startswith("decoder_")}
    torch.manual_seed(CALL_SEED)
    with torch.no_grad():
        made, lengths = trial.model.generate(
            **trial.session.place(given), maxlenratio=_FRAMES, return_output_lengths=True, **more
        )
    return made.cpu(), list(lengths)


def _vocoder(trial: Trial) -> nn.Module:
    """A small vocoder of random weights, on the target."""
    config = SpeechT5HifiGanConfig(
        model_in_dim=trial.config.num_mel_bins,
        upsample_initial_channel=16,
        upsample_rates=list(_UPSAMPLED),
        upsample_kernel_sizes=[2 * rate for rate in _UPSAMPLED],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(trial.seed)
        made: nn.Module = SpeechT5HifiGan(config).eval()
        for parameter in made.parameters():
            nn.init.normal_(parameter, std=0.2)
    return made.to(trial.session.device, getattr(torch, trial.target.dtype))
