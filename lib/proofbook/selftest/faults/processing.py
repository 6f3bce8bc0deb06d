"""Faults of what stands before and behind a model: extractors, tokenizers and post-processing."""

from collections.abc import Iterator
from functools import wraps
from typing import Any

from torch import Tensor

from proofbook.checks.registry import NotApplicable
from proofbook.checks.trial import Trial
from proofbook.selftest.planting import replaced
from proofbook.selftest.register import Reach, fault
from proofbook.subject.processors import part_of

_FEATURES = ("input_features", "input_values")


def _owner(part: Any, name: str) -> Any:
    """The class of a part of the processor that has a method of that name. Raises NotApplicable for one without."""
    if not hasattr(part, name):
        raise NotApplicable(f"its processor has no {name}")
    return type(part)


@fault(Reach.LIBRARY)
def features_too_loud(trial: Trial) -> Iterator[None]:
    """The features of sound come out a hundredth too large."""
    extractor = part_of(trial.processor, "feature_extractor")
    if extractor is None or trial.rows[0].audio is None:
        raise NotApplicable("it reads no sound")

    def make(call: Any) -> Any:
        @wraps(call)
        def louder(*args: Any, **kwargs: Any) -> Any:
            made = call(*args, **kwargs)
            for name in _FEATURES:
                if name in made:
                    features = made[name]
                    made[name] = [one * 1.01 for one in features] if isinstance(features, list) else features * 1.01
            return made

        return louder

    with replaced(type(extractor), "__call__", make):
        yield


@fault(Reach.LIBRARY)
def repeated_labels_kept(trial: Trial) -> Iterator[None]:
    """A transcription repeats a letter for every frame that has its label."""
    tokenizer = part_of(trial.processor, "tokenizer")
    kind = _owner(tokenizer, "word_delimiter_token")
    if trial.model.can_generate():
        raise NotApplicable("it does not label frames")

    def make(join: Any) -> Any:
        @wraps(join)
        def repeating(self: Any, tokens: Any, *args: Any, **kwargs: Any) -> Any:
            return join(self, tokens, *args[1:], **{**kwargs, "group_tokens": False})

        return repeating

    with replaced(kind, "convert_tokens_to_string", make):
        yield


def _with_sizes(trial: Trial, kind: str, change: Any) -> Iterator[None]:
    """Let ``change`` have a post-processing, as a function of sizes, and the sizes of pictures, (height, width)."""
    name = f"post_process_{kind}"
    owner = _owner(trial.processor, name)

    def make(process: Any) -> Any:
        @wraps(process)
        def wrong(self: Any, outputs: Any, *args: Any, target_sizes: Any = None, **kwargs: Any) -> Any:
            return change(lambda sizes: process(self, outputs, *args, target_sizes=sizes, **kwargs), target_sizes)

        return wrong

    with replaced(owner, name, make):
        yield


@fault(Reach.LIBRARY)
def width_for_height(trial: Trial) -> Iterator[None]:
    """Boxes are brought to the size of the picture with its width taken for its height."""
    if "pred_boxes" not in trial.outputs:
        raise NotApplicable("the class returns no boxes")
    yield from _with_sizes(trial, "object_detection", lambda process, sizes: process([size[::-1] for size in sizes]))


@fault(Reach.LIBRARY)
def labels_resized(trial: Trial) -> Iterator[None]:
    """The map of the best labels is resized, rather than the scores of each."""
    if "logits" not in trial.outputs or trial.outputs["logits"].dim() != 4:
        raise NotApplicable("the class returns no scores of labels × height × width")

    def coarse(process: Any, sizes: Any) -> list[Tensor]:
        return [_nearest(labels, size) for labels, size in zip(process(None), sizes, strict=True)]

    yield from _with_sizes(trial, "semantic_segmentation", coarse)


def _nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """A map of labels in another size, each pixel that of the nearest."""
    rows, columns = (_places(old, new) for old, new in zip(labels.shape, size, strict=True))
    return labels[rows][:, columns]


def _places(old: int, new: int) -> list[int]:
    return [at * old // new for at in range(new)]
