"""Is sound read right: by its features, whatever it is padded with, and as the words that are written of it?"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from proofbook.checks.compare import Comparison, compare, errors_between
from proofbook.checks.plain import agree, call, eager, rounding
from proofbook.checks.plain_decoding import generated
from proofbook.checks.registry import NotApplicable, Observation, check
from proofbook.checks.reproduction import limits, reproduces
from proofbook.checks.spectra import FORMULAS, PAD_SAMPLES
from proofbook.checks.trial import Trial
from proofbook.subject.processors import part_of
from proofbook.subject.samples.audio import recordings
from proofbook.subject.tasks.audio import SpeechRecognition
from proofbook.subject.tasks.task import Row

# arguments that hold sound
_SOUND = ("input_values", "input_features")
# tokens that are written of each recording
WORDS = 6


@check
def sound_features(trial: Trial) -> Observation:
    """The features of each recording are what the extractor's documented formula gives in float64, and then padding."""
    extractor = _extractor(trial)
    formula = FORMULAS.get(type(extractor).__name__)
    if formula is None:
        raise NotApplicable(f"no formula is known for {type(extractor).__name__}")
    made, rows = _features(trial, extractor), [row.audio for row in trial.rows if row.audio is not None]
    if type(extractor).__name__ in PAD_SAMPLES:
        longest = max(map(len, rows))
        rows = [np.pad(samples, (0, longest - len(samples))) for samples in rows]
    if made.shape[-1] * getattr(extractor, "hop_length", 0) < getattr(extractor, "n_samples", 0):
        # some processors have it pad to the longest row and not to a whole window
        extractor = copy.copy(extractor)
        extractor.n_samples = max(map(len, rows))
    tolerance = trial.tolerances["float32"]
    comparisons: list[Comparison] = []
    known = _evidence_of_features(trial, extractor, made, rows)
    for row, samples in enumerate(rows):
        try:
            true = torch.from_numpy(formula(extractor, samples.astype(np.float64)))
        except LookupError as unknown:
            raise NotApplicable(f"{type(extractor).__name__} {unknown}") from unknown
        rounded = torch.from_numpy(formula(extractor, samples.astype(np.float32)))
        own = made[row][tuple(slice(length) for length in true.shape)]
        name = f"features, row {row}"
        floor = errors_between({name: rounded}, {name: true}, tolerance)
        comparisons.append(compare(name, own, true, tolerance, floor.get(name)))
        if own.shape == true.shape:
            rest = _behind(made[row], true)
            comparisons.append(
                compare(f"padding, row {row}", rest, torch.full_like(rest, _filler(extractor)), tolerance)
            )
    return replace(Observation.of(comparisons, f"1 in each of {len(rows)} rows"), evidence=known)


def _evidence_of_features(trial: Trial, extractor: Any, made: Tensor, rows: list[Any]) -> dict[str, Any]:
    """What a reproduction needs to make the features of recordings, and to hold them against their formula."""
    heard = any(name in trial.inputs for name in _SOUND)
    # how the processor had them padded, it does not tell: as any other batch, to a window, or samples still further
    asked: dict[str, Any] = {"padding": True}
    if not torch.equal(extracted(extractor, rows, heard, asked), made):
        asked = {"padding": "max_length", "max_length": made.shape[1]} if made.dim() == 2 else {}
    return {
        "extractor": extractor,
        "formula": FORMULAS[type(extractor).__name__],
        "sounds": [torch.from_numpy(samples) for samples in rows],
        "heard": heard,
        "asked": asked,
        "tolerance": limits(trial.tolerances["float32"]),
    }


def extracted(extractor: Any, clips: list[Any], heard: bool, asked: Mapping[str, Any]) -> Tensor:
    """What an extractor makes of recordings: of sound that is heard, or that is to be spoken."""
    known = {**asked, "sampling_rate": extractor.sampling_rate, "return_tensors": "pt"}
    made = extractor(clips, **known) if heard else extractor(audio_target=clips, **known)
    return torch.as_tensor(next(made[name] for name in ("input_values", "input_features") if name in made))


@reproduces(sound_features)
def features_are_those_of_the_formula(
    extractor: Any,
    formula: Callable[[Any, Any], Any],
    sounds: list[Tensor],
    heard: bool,
    asked: Mapping[str, Any],
    tolerance: Mapping[str, float],
) -> None:
    """The features of each recording are what the documented formula gives in float64, and then padding."""
    clips = [one.numpy() for one in sounds]
    features = extracted(extractor, clips, heard, asked)
    for row, samples in enumerate(clips):
        true, rounded = (
            torch.from_numpy(formula(extractor, samples.astype(precision))) for precision in (np.float64, np.float32)
        )
        name, own = f"features of row {row}", tuple(slice(length) for length in true.shape)
        expected = torch.full(features[row].shape, extractor.padding_value, dtype=true.dtype)
        expected[own] = true
        agree({name: features[row][own]}, {name: true}, tolerance, ({name: rounded}, {name: true}))
        padding = torch.ones_like(expected, dtype=torch.bool)
        padding[own] = False
        agree({name: features[row][padding]}, {name: expected[padding]}, tolerance)


@check
def padded_samples(trial: Trial) -> Observation:
    """Recordings of unlike lengths, padded by the extractor, are what each is alone, and then its padding value."""
    extractor = _extractor(trial)
    clips = [recording.samples for recording in recordings(extractor.sampling_rate)]

    def made(sounds: list[Any]) -> Tensor:
        given = extractor(sounds, sampling_rate=extractor.sampling_rate, padding=True, return_tensors="pt")
        return torch.as_tensor(given["input_values"]) if "input_values" in given else torch.empty(0)

    together, tolerance = made(clips), trial.tolerances["float32"]
    if together.shape[-1:] < (max(map(len, clips)),):
        raise NotApplicable(f"{type(extractor).__name__} makes no samples of samples")
    comparisons: list[Comparison] = []
    for row, samples in enumerate(clips):
        alone = made([samples])[0]
        end = alone.shape[-1]  # some lengthen each to whole frames in a way of their own
        own, rest = together[row, ..., :end], together[row, ..., end:]
        comparisons.append(compare(f"samples, row {row}", own, alone, tolerance))
        comparisons.append(compare(f"padding, row {row}", rest, torch.full_like(rest, _filler(extractor)), tolerance))
    given = [torch.from_numpy(recording.samples) for recording in recordings(extractor.sampling_rate)]
    kept = {"extractor": extractor, "sounds": given, "tolerance": limits(tolerance)}
    return replace(Observation.of(comparisons, f"1 in each of {len(clips)} rows"), evidence=kept)


@reproduces(padded_samples)
def padding_lies_behind_the_samples(extractor: Any, sounds: list[Tensor], tolerance: Mapping[str, float]) -> None:
    """Recordings of unlike lengths, padded by the extractor, are what each is alone, and then its padding value."""

    def made(several: list[Any]) -> Tensor:
        given = extractor(several, sampling_rate=extractor.sampling_rate, padding=True, return_tensors="pt")
        return torch.as_tensor(given["input_values"])

    clips = [one.numpy() for one in sounds]
    together = made(clips)
    for row, samples in enumerate(clips):
        alone = made([samples])[0]
        own, rest = together[row, ..., : alone.shape[-1]], together[row, ..., alone.shape[-1] :]
        agree({f"samples of row {row}": own}, {f"samples of row {row}": alone}, tolerance)
        padding = torch.full_like(rest, extractor.padding_value)
        agree({f"padding of row {row}": rest}, {f"padding of row {row}": padding}, tolerance)


@check(graphs=True)
def padded_sound(trial: Trial) -> Observation:
    """A recording alone, without padding, gives on its own frames what it gives beside longer ones."""
    extractor = _hearing(trial)
    size = len(trial.rows)
    lengths = {len(row.audio) for row in trial.rows if row.audio is not None}
    if getattr(trial.config, "feat_extract_norm", None) == "group":
        raise NotApplicable("its group norm over time sees the padding: its checkpoints are trained without a mask")
    if len(lengths) < 2 or not extractor.return_attention_mask:
        raise NotApplicable(f"{type(extractor).__name__} makes no mask of what it pads")
    if "input_ids" in trial.inputs or {"audio_codes", "audio_values"} & set(trial.outputs):
        raise NotApplicable("its outputs are not frames of one recording")
    comparisons: dict[int, list[Comparison]] = {row: [] for row in range(size)}
    for row in comparisons:
        inputs = _alone(trial, row)
        tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        other = [name for name, value in tensors.items() if not _begins(trial.inputs[name][row], value[0])]
        if other:
            raise NotApplicable(f"its processor makes {', '.join(other)} of a recording alone in another way")
        for name, alone in trial.run(inputs).items():
            together = trial.outputs[name]
            if not alone.dim() or together.dim() != alone.dim() or (together.shape[0], alone.shape[0]) != (size, 1):
                continue
            own = together[row][tuple(slice(length) for length in alone.shape[1:])]
            comparisons[row] += trial.agree({name: alone[0]}, {name: own}, f", row {row}")
    every = [one for several in comparisons.values() for one in several]
    if not every:
        raise NotApplicable("no output has one entry a row")
    worst = max(comparisons, key=lambda row: max((one.ratio for one in comparisons[row]), default=0.0))
    return replace(Observation.of(every, f"1 on the frames of each of {size} rows"), evidence={"row": worst})


@reproduces(padded_sound)
def recording_alone(
    model: nn.Module, inputs: Mapping[str, Any], row: int, dtype: torch.dtype, tolerance: Mapping[str, float]
) -> None:
    """A recording alone, without padding, gives on its own frames what it gives beside longer ones."""
    mask = inputs["attention_mask"]
    own = int(mask[row].sum())
    single = {
        name: value[row : row + 1, :own] if value.shape[:2] == mask.shape else value[row : row + 1]
        for name, value in inputs.items()
    }
    alone, batch, true, floor = (
        call(model, single, dtype),
        call(model, inputs, dtype),
        eager(model, single, torch.float64),
        eager(model, single, dtype),
    )
    for name in alone.keys() & {"logits", "last_hidden_state", "encoder_last_hidden_state"}:
        part = batch[name][row : row + 1, : alone[name].shape[1]]
        agree({name: alone[name]}, {name: part}, tolerance, (floor, true))


@check
def ctc_transcription(trial: Trial) -> Observation:
    """Transcriptions are the best labels collapsed as CTC defines it, and those of each recording alone."""
    if not isinstance(trial.task, SpeechRecognition) or trial.model.can_generate():
        raise NotApplicable("it does not label frames")
    tokenizer = part_of(trial.processor, "tokenizer")
    if not hasattr(tokenizer, "word_delimiter_token"):
        raise NotApplicable(f"how {type(tokenizer).__name__} joins labels is not known")
    labels = trial.outputs["logits"].argmax(-1)
    given = trial.processor.batch_decode(labels)
    wrong = [
        f"row {row}: {text!r}, should be {_collapsed(of_row.tolist(), tokenizer)!r}"
        for row, (of_row, text) in enumerate(zip(labels, given, strict=True))
        if text != _collapsed(of_row.tolist(), tokenizer)
    ]
    blank = trial.config.pad_token_id
    if blank != tokenizer.pad_token_id:
        wrong.append(f"the model's blank is {blank}, the tokenizer's {tokenizer.pad_token_id}")
    return Observation(not wrong, f"{len(wrong)} wrong", "0 wrong", "; ".join(wrong))


@check
def generated_transcription(trial: Trial) -> Observation:
    """The words generated for a recording alone come of the scores that it has beside others, until two words tie."""
    if not isinstance(trial.task, SpeechRecognition) or not trial.model.can_generate():
        raise NotApplicable("it writes no transcription by generating")
    tokens, scores = _generated(trial, trial.inputs)
    comparisons: list[Comparison] = []
    known: dict[str, Any] = {
        "prompt": _given(trial.inputs),
        "configuration": trial.model.generation_config.to_diff_dict(),
        "generation": {"max_new_tokens": WORDS, "do_sample": False},
    }
    failed = False
    for row in range(len(trial.rows)):
        alone = _alone(trial, row)
        own_tokens, own_scores = _generated(trial, alone)
        steps = min(len(scores[row]), len(own_scores[0]))
        differ = (own_tokens[0, :steps] != tokens[row, :steps]).nonzero().flatten().tolist()
        last = min([*differ, steps - 1]) + 1  # behind another word, other scores are right
        comparisons += trial.agree({"logits": own_scores[0, :last]}, {"logits": scores[row, :last]}, f", row {row}")
        if not failed:
            known |= {"alone": _given(alone), "row": row}
            failed = not all(one.passed for one in comparisons)
    return replace(Observation.of(comparisons, f"1 for each word of {len(trial.rows)} rows"), evidence=known)


@reproduces(generated_transcription)
@torch.no_grad()
def words_come_of_the_same_scores(
    model: nn.Module,
    inputs: Mapping[str, Any],
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    prompt: Mapping[str, Any],
    alone: Mapping[str, Any],
    row: int,
    configuration: Mapping[str, Any],
    generation: Mapping[str, Any],
) -> None:
    """The words generated for a recording alone come of the scores that it has beside others, until two words tie."""
    beside, single = (generated(model, one, dtype, configuration, generation) for one in (prompt, alone))
    steps = min(len(beside.logits), len(single.logits))
    words = beside.sequences[row, -len(beside.logits) :][:steps]
    own_words = single.sequences[0, -len(single.logits) :][:steps]
    last = min([*(words != own_words).nonzero().flatten().tolist(), steps - 1]) + 1
    # behind another word, other scores are right
    expected = torch.stack([scores[row] for scores in beside.logits[:last]]).cpu()
    found = torch.stack([scores[0] for scores in single.logits[:last]]).cpu()
    agree({"logits": found}, {"logits": expected}, tolerance, rounding(model, inputs, dtype))


def _extractor(trial: Trial) -> Any:
    """The part of the processor that reads sound, where the task's rows have any."""
    extractor = part_of(trial.processor, "feature_extractor")
    if extractor is None or trial.rows[0].audio is None:
        raise NotApplicable(f"the task is {trial.spec.task}, whose rows hold no sound")
    return extractor


def _hearing(trial: Trial) -> Any:
    extractor = _extractor(trial)
    if not any(name in trial.inputs for name in _SOUND):
        raise NotApplicable(f"{trial.spec.model_class} reads no sound")
    return extractor


def _features(trial: Trial, extractor: Any) -> Tensor:
    """What the extractor makes of the rows: what the model is given, or else what it is to write."""
    name = next((name for name in _SOUND if name in trial.inputs), None)
    if name is not None:
        return torch.as_tensor(trial.inputs[name])
    return extracted(extractor, [row.audio for row in trial.rows], heard=False, asked={"padding": True})


def _behind(made: Tensor, own: Tensor) -> Tensor:
    """What lies behind a row's own features, along the one dimension in which these are shorter."""
    along = next((dim for dim, (a, b) in enumerate(zip(made.shape, own.shape, strict=True)) if a != b), 0)
    return made.narrow(along, own.shape[along], made.shape[along] - own.shape[along])


def _filler(extractor: Any) -> float:
    return float(extractor.padding_value)


def _alone(trial: Trial, row: int) -> dict[str, Any]:
    """The arguments of one recording, encoded by itself."""
    rows: list[Row] = [trial.rows[row]]
    return dict(trial.task.encode(trial.subject, rows).inputs)


def _begins(whole: Tensor, part: Tensor) -> bool:
    """Whether a row's input begins with what it is alone, up to rounding."""
    own = whole[tuple(slice(length) for length in part.shape)]
    return own.shape == part.shape and torch.allclose(own.double(), part.double(), rtol=1e-3, atol=1e-3)


def _collapsed(labels: list[int], tokenizer: Any) -> str:
    """CTC: of labels that repeat one is kept, then blanks are left out; a word ends at the delimiter."""
    kept = [label for at, label in enumerate(labels) if at == 0 or label != labels[at - 1]]
    tokens = [tokenizer.convert_ids_to_tokens(label) for label in kept if label != tokenizer.pad_token_id]
    text = "".join(" " if token == tokenizer.word_delimiter_token else token for token in tokens).strip()
    return text.lower() if tokenizer.do_lower_case else text


def _given(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """What ``generate`` is given: all but what it writes itself."""
    return {name: value for name, value in inputs.items() if not name.startswith("decoder_")}


def _generated(trial: Trial, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """What greedy generation writes, rows × tokens, and the scores of each step, rows × steps × vocabulary."""
    given = _given(inputs)
    asked = {"max_new_tokens": WORDS, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with torch.no_grad():
        made = trial.model.generate(**trial.session.place(given), **asked)
    if not isinstance(getattr(made, "logits", None), tuple):
        raise NotApplicable("its class has a generate of its own, which gives no scores of each step")
    scores = torch.stack(made.logits, dim=1).float().cpu()
    return made.sequences[:, -scores.shape[1] :].cpu(), scores
