"""Is each head that the architecture has right, on the weights of the checkpoint?"""

import inspect
import math
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel
from transformers.models.auto import modeling_auto

from proofbook.catalog import Weights
from proofbook.checks.against import against_truth
from proofbook.checks.compare import Comparison, Errors, compare, rms
from proofbook.checks.plain import agree, call, draw_widely, eager, placed, same
from proofbook.checks.registry import NotApplicable, Observation, check, evidence
from proofbook.checks.reproduction import reproduces
from proofbook.checks.streams import slice_row, sliceable
from proofbook.checks.trial import Trial
from proofbook.checks.vary import Fixed
from proofbook.subject.checkpoint import load_model
from proofbook.subject.draw import draw_parameters, seeded

# heads that are asked of one architecture at most
HEADS = 6
# what a loss is computed of
_TARGETS = ("labels", "start_positions", "end_positions", "next_sentence_label", "sentence_order_label")
_MORE = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
# how arguments begin that the decoder behind an encoder reads
_SECOND = "decoder_"
# how many answers a head that chooses among several is given
CHOICES = 2
# the label of what no loss counts
IGNORED = -100
# heads whose loss is the cross entropy of one label for each of their scores, none of them shifted
_CLASSIFIES = re.compile(r"For((Sequence|Token|Image|Audio)Classification|MultipleChoice|MaskedLM)$")


@check(floats=True)
def heads(trial: Trial) -> Observation:
    """Each head that the architecture has, on the weights of the checkpoint, is right by float64; so is its loss."""
    if trial.weights is not Weights.TINY:
        raise NotApplicable("a checkpoint holds the weights of its own head alone; asked of tiny weights")
    names = [name for name in _head_classes(trial.config.model_type) if name != trial.spec.model_class][:HEADS]
    if not names or trial.encoded.module:
        raise NotApplicable("the architecture has no further head, or its task calls a part of it")
    found, refused = dict[str, _Head](), list[str]()
    dtype = getattr(torch, trial.target.dtype)
    batch = _longest(trial)
    for name in names:
        kind = getattr(transformers, name)
        try:
            inputs = head_inputs(kind, batch)
        except Fixed as reason:
            refused.append(f"{name} {reason}")
            continue
        with evidence(head=name, given=inputs):
            try:
                with seeded(trial.seed):
                    spec = trial.spec.model_copy(update={"model_class": name})
                    model = load_model(spec, trial.folder, dtype, other_head=True).model
            # the configuration lacks what this head needs
            except (ValueError, TypeError, AssertionError, NotImplementedError) as reason:
                refused.append(f"{name}: {str(reason) or type(reason).__name__}")
                continue
            try:
                found[name] = _of_head(trial, name, model, inputs)
            except (ValueError, RuntimeError) as reason:
                if not _asks_for_more(kind, inputs, reason):
                    raise
                refused.append(f"{name}: {reason}")
    if not found:
        raise NotApplicable("; ".join(refused))
    allowed = f"1 in each output of {len(found)} heads, their losses among them"
    comparisons = [one for head in found.values() for one in head.comparisons]
    worst = max(found.values(), key=lambda head: max(one.ratio for one in head.comparisons))
    return replace(Observation.of(comparisons, allowed, "; ".join(refused)), evidence=worst.evidence)


@dataclass(frozen=True)
class _Head:
    """What was found of a head, and what its reproduction needs."""

    comparisons: list[Comparison]
    evidence: Mapping[str, Any]


def _of_head(trial: Trial, name: str, model: Any, inputs: Mapping[str, Any]) -> _Head:
    """The weights under a head held against those of the checkpoint, its outputs and its loss against truth."""
    carried = _carried(name, trial.model, model)
    # the library starts heads so small that what they say is little more than rounding
    draw_parameters(model, trial.seed)
    found, outputs = against_truth(trial, model, inputs, f" of {name}")
    found = [carried, *found, *([_loss(trial, name, outputs, inputs)] if "loss" in outputs else [])]
    more = {"given": inputs, "classifies": bool(_CLASSIFIES.search(name))} if carried.passed else {}
    return _Head(found, {"head": name, **more})


@reproduces(heads)
def a_head_is_right(
    whole: Any,
    dtype: torch.dtype,
    tolerance: Mapping[str, float],
    head: str,
    given: Mapping[str, Any],
    classifies: bool,
) -> None:
    """What another head of the architecture says on a checkpoint is right by float64, and so is its loss."""
    model = headed(whole, head, dtype)
    draw_widely(model)  # heads are new, and small
    outputs, true = call(model, given, dtype), eager(model, given, torch.float64)
    true = {name: one for name, one in true.items() if name in outputs}
    agree(outputs, true, tolerance, (eager(model, given, dtype), true))
    if classifies and "loss" in outputs:
        scores = outputs["logits"].double()
        entropy = cross_entropy(scores.flatten(0, -2), given["labels"].flatten()).reshape(outputs["loss"].shape)
        # a difference of scores, it may come out far below them: they are the scale by which it rounds
        agree({"loss": outputs["loss"]}, {"loss": entropy}, tolerance, ({"loss": scores}, {"loss": scores}))


@reproduces(heads)
def a_head_can_be_called(whole: Any, dtype: torch.dtype, head: str, given: Mapping[str, Any]) -> None:
    """Another head of the architecture takes the inputs that it documents."""
    headed(whole, head, dtype)(**placed(whole, given, dtype))


@reproduces(heads)
def a_head_stands_on_the_checkpoint(whole: Any, dtype: torch.dtype, head: str) -> None:
    """Another head of the architecture takes the weights of a checkpoint over."""
    checkpoint, body = in_common(whole, headed(whole, head, dtype))
    same(body, checkpoint)


def headed(model: Any, head: str, dtype: torch.dtype) -> Any:
    """A model of another class, of the name ``head``, from the checkpoint of a model."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return getattr(transformers, head).from_pretrained(folder).eval().to(model.device, dtype)


@cache
def _head_classes(model_type: str) -> tuple[str, ...]:
    """The classes with heads that the auto classes have for an architecture."""
    found = set[str]()
    for mapping, names in vars(modeling_auto).items():
        if re.fullmatch(r"MODEL_FOR_.*_MAPPING_NAMES", mapping) and "BACKBONE" not in mapping:
            given = names.get(model_type, ())
            found.update([given] if isinstance(given, str) else given)
    return tuple(sorted(name for name in found if "For" in name and hasattr(transformers, name)))


def head_inputs(kind: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a head: those of the batch that it takes, and labels where those of its kind have a known form.

    A head that chooses among several texts gets each as often as there are choices. Labels are 0 and 1 in turn, which
    every head has, and none where the mask hides a token. What a decoder reads is left to the class, which makes it of
    the text where a head needs it; the head of a decoder alone is given that and no more.

    Raises:
        Fixed: it reads something else.
    """
    second = {name.removeprefix(_SECOND): one for name, one in inputs.items() if name.startswith(_SECOND)}
    given = second if second and "ForCausalLM" in kind.__name__ else inputs
    parameters = inspect.signature(kind.forward).parameters
    taken = parameters.keys() - set(_TARGETS)
    found = {name: one for name, one in given.items() if name in taken and not name.startswith(_SECOND)}
    missing = {one.name for one in list(parameters.values())[1:] if one.default is one.empty and one.kind not in _MORE}
    main = found.get(kind.main_input_name)
    if main is None or missing - found.keys():
        raise Fixed(f"reads {', '.join(sorted(missing - found.keys())) or kind.main_input_name}")
    shape = next((make(main) for pattern, make in _LABELS if re.search(pattern, kind.__name__)), ())
    # labels of answers to questions are places in a text, or else of a form of their own
    known = shape and not ("QuestionAnswering" in kind.__name__ and "labels" in parameters)
    # and codes of sound, batch × codebooks × length, have several at each moment
    known = known and (main.is_floating_point() or main.dim() == 2)
    targets = [name for name in _TARGETS if name in parameters and known]
    for name in targets:
        found[name] = _labels(shape if name == "labels" else main.shape[:1], found.get("attention_mask"))
    if "ForMultipleChoice" in kind.__name__:
        for name, value in found.items():
            if isinstance(value, Tensor) and name not in targets:
                found[name] = value[:, None].repeat_interleave(CHOICES, dim=1)
    return found


def _asks_for_more(kind: Any, given: Mapping[str, Any], refusal: Exception) -> bool:
    """Whether what a class said names an argument of its own that it was not given; as code, if it is an error that
    torch raises as well."""
    quote = "" if isinstance(refusal, ValueError) else "`"
    missing = inspect.signature(kind.forward).parameters.keys() - given.keys()
    return any(f"{quote}{name}{quote}" in str(refusal) for name in missing)


def _labels(shape: Sequence[int], mask: Any) -> Tensor:
    labels = (torch.arange(math.prod(shape)) % 2).reshape(tuple(shape))
    if isinstance(mask, Tensor) and mask.shape == labels.shape:
        labels = labels.masked_fill(mask == 0, IGNORED)
    return labels


def _longest(trial: Trial) -> dict[str, Any]:
    """The row with the least padding, whose loss nothing else has a part in; all where rows can't be told apart."""
    if not sliceable(trial.inputs, len(trial.rows)):
        return dict(trial.inputs)
    mask = trial.inputs.get("attention_mask")
    return slice_row(trial.inputs, int(mask.flatten(1).sum(1).argmax()) if isinstance(mask, Tensor) else 0)


def _of_pixels(pixels: Tensor) -> tuple[int, ...]:
    return (len(pixels), *pixels.shape[-2:])


# the shape of a head's labels, by that of what it reads first: tokens, pictures or sound
_LABELS: tuple[tuple[str, Callable[[Tensor], tuple[int, ...]]], ...] = (
    (
        r"For(Sequence|Image|Audio)Classification$|ForXVector$|ForMultipleChoice$|ForNextSentencePrediction$",
        lambda one: one.shape[:1],
    ),
    (r"ForQuestionAnswering(Simple)?$", lambda one: one.shape[:1]),
    (r"ForTokenClassification$|ForMaskedLM$|ForCausalLM$|LMHeadModel$|ForPreTraining$", lambda one: one.shape[:2]),
    (r"ForSemanticSegmentation$", _of_pixels),
)


def _carried(name: str, model: Any, other: Any) -> Comparison:
    """Whether the body under a head has the weights of the checkpoint, where both have one of that name."""
    ours, theirs = in_common(model, other)
    shared = ours.keys()
    wrong = [key for key in sorted(shared) if not torch.equal(ours[key].cpu(), theirs[key].cpu())]
    broken = f"{len(wrong)} of {len(shared)} weights are not those of the checkpoint: {', '.join(wrong[:3])}"
    passed = bool(shared) and not wrong
    return Comparison(f"weights under {name}", (len(shared),), passed, "" if passed else broken)


def in_common(model: Any, other: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of two models by the names that both have: of their bodies, or of those models within them that have
    the most names in common."""
    bodies = [
        [one.state_dict() for one in each.base_model.modules() if isinstance(one, PreTrainedModel)]
        for each in (model, other)
    ]
    ours, theirs = max(product(*bodies), key=lambda pair: len(pair[0].keys() & pair[1].keys()))
    names = [name for name in ours if name in theirs]
    return {name: ours[name] for name in names}, {name: theirs[name] for name in names}


def _loss(trial: Trial, name: str, outputs: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> Comparison:
    """Whether the loss is finite and, of heads that classify, the cross entropy of the labels."""
    loss, called = outputs["loss"], f"loss of {name}"
    if not loss.isfinite().all():
        return Comparison(called, tuple(loss.shape), False, "not finite")
    logits, labels = outputs.get("logits"), inputs.get("labels")
    if logits is None or labels is None or not _CLASSIFIES.search(name) or logits.shape[-1] < 2:
        return Comparison(called, tuple(loss.shape), True, "")
    entropy = cross_entropy(logits.double().flatten(0, -2), labels.flatten())
    return compare(called, loss, entropy.reshape(loss.shape), trial.tolerance, _rounding_of(logits))


def _rounding_of(logits: Tensor) -> Errors:
    """The scale by which a cross entropy rounds: it is a difference of scores, and may come out far below them."""
    return Errors(0.0, 0.0, 0.0, at=(), scale=rms(logits))
