"""Does post-processing say what the model's scores say: in boxes of the picture and maps of its size?"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from traceback import walk_tb
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate
from transformers import ImageProcessingMixin

from proofbook.checks.compare import Comparison, compare, errors_between
from proofbook.checks.plain import placed
from proofbook.checks.registry import NotApplicable, Observation, check, evidence
from proofbook.checks.reproduction import reproduces
from proofbook.checks.trial import Trial

# masks of queries go through this size, or straight to that of the picture, as an architecture was published
_BETWEEN: tuple[tuple[int, int] | None, ...] = (None, (384, 384))
# how depths are brought to another size
_MODES = ("bicubic", "bilinear")
# what instance segmentation rounds scores to
_DIGITS = 1e-6

Size = tuple[int, int]


@check(graphs=True)
def detections(trial: Trial) -> Observation:
    """Boxes found are the model's own in pixels of the picture, with the best of its scores; a threshold cuts them."""
    restore = _method(trial, "object_detection", "logits", "pred_boxes")
    outputs = trial.outputs
    sizes = _sizes(trial, len(outputs["logits"]))
    found = restore(_given(trial), threshold=0.0, target_sizes=sizes)
    empty = [f"row {row}" for row, one in enumerate(found) if not len(one["boxes"])]
    if empty:
        return Observation(False, f"no box in {', '.join(empty)}", "a box above a threshold of 0 in each picture")
    comparisons: list[Comparison] = []
    for row, (one, size) in enumerate(zip(found, sizes, strict=True)):
        boxes = corners(outputs["pred_boxes"][row].double(), size)
        queries = torch.cdist(one["boxes"].double(), boxes).argmin(-1)
        rule, scores = _rule(outputs["logits"][row].double(), queries, one)
        note, count = f", row {row}", len(one["scores"])
        # the best labels of each query, or of all queries together, which is published with sigmoids alone
        among = [scores.max(-1).values, *([scores.flatten()] if rule == "sigmoid" else [])]
        best = [each.topk(count).values.flip(0) for each in among if len(each) >= count]
        found_best = one["scores"].sort().values
        comparisons += [
            _near(trial, f"boxes{note}", one["boxes"], boxes[queries]),
            _near(trial, f"scores{note}", one["scores"], scores[queries, one["labels"].long()]),
            min((_near(trial, f"best scores{note}", found_best, each) for each in best), key=lambda near: near.ratio),
        ]
    middle = float(found[0]["scores"].double().median())
    fewer = restore(_given(trial), threshold=middle, target_sizes=sizes)
    for row, (one, less) in enumerate(zip(found, fewer, strict=True)):
        kept = {"boxes": one["boxes"][one["scores"] > middle], "labels": one["labels"][one["scores"] > middle]}
        comparisons += [_near(trial, f"{name} above {middle:.3g}, row {row}", less[name], kept[name]) for name in kept]
    return Observation.of(comparisons, f"1 in boxes, scores and labels of {len(found)} pictures")


def corners(boxes: Tensor, size: Size) -> Tensor:
    """Boxes of centre, width and height, as shares of a picture, by their corners (x0, y0, x1, y1) in pixels."""
    centre, half = boxes[:, :2], boxes[:, 2:] / 2
    height, width = size
    return torch.cat([centre - half, centre + half], dim=-1) * boxes.new_tensor([width, height, width, height])


def _rule(logits: Tensor, queries: Tensor, found: Any) -> tuple[str, Tensor]:
    """How scores follow from logits, of the two ways that are published, and the scores, queries × labels.

    A softmax over the labels and 'nothing', which is the last, or a sigmoid for each label.
    """
    rules = {"softmax": logits.softmax(-1)[:, :-1], "sigmoid": logits.sigmoid()}
    labels = found["labels"].long()

    def distance(name: str) -> float:
        if int(labels.max()) >= rules[name].shape[-1]:
            return torch.inf
        return float((rules[name][queries, labels] - found["scores"].double()).abs().max())

    nearest = min(rules, key=distance)
    return nearest, rules[nearest]


@check(graphs=True)
def semantic_maps(trial: Trial) -> Observation:
    """Maps of labels have the size asked for, and each pixel the label of its best score, or one as good."""
    by_query = "class_queries_logits" in trial.outputs
    names = ("class_queries_logits", "masks_queries_logits") if by_query else ("logits",)
    restore = _method(trial, "semantic_segmentation", *names)
    if not by_query and trial.outputs["logits"].dim() != 4:
        raise NotApplicable("its scores are none of labels × height × width")
    sizes = _sizes(trial, len(trial.outputs[names[0]]))
    maps = restore(_given(trial), target_sizes=sizes)
    comparisons = []
    for row, (labels, size) in enumerate(zip(maps, sizes, strict=True)):
        if labels.shape != size:
            broken = f"size {tuple(labels.shape)}, should be {size}"
            comparisons.append(Comparison(f"map, row {row}", tuple(labels.shape), False, broken))
            continue
        ways = [_best_and_chosen(scores, labels) for scores in _label_scores(trial, row, size)]
        comparisons.append(
            min((_near(trial, f"map, row {row}", chosen, best) for best, chosen in ways), key=lambda one: one.ratio)
        )
    return Observation.of(comparisons, f"1 in the score of each pixel's label of {len(maps)} pictures")


def _label_scores(trial: Trial, row: int, size: Size) -> Iterator[Tensor]:
    """The scores of one picture, labels × height × width, in each way that is published."""
    if "logits" in trial.outputs:
        yield _resized(trial.outputs["logits"][row].double(), size)
        return
    classes = trial.outputs["class_queries_logits"][row].double().softmax(-1)[:, :-1]
    masks = trial.outputs["masks_queries_logits"][row].double()
    for between in _BETWEEN:
        seen = (_resized(masks, between) if between else masks).sigmoid()
        yield _resized(torch.einsum("qc,qhw->chw", classes, seen), size)


def _best_and_chosen(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The best score of each pixel, and that of the label that it was given."""
    best = scores.max(0).values
    inside = (labels >= 0) & (labels < len(scores))
    chosen = scores.gather(0, labels.long().clamp(0, len(scores) - 1)[None])[0]
    return best, torch.where(inside, chosen, torch.nan)


@check(graphs=True)
def instance_maps(trial: Trial) -> Observation:
    """Each segment lies within a mask of the model's that has its label and score; maps have the size asked for."""
    restore = _method(trial, "instance_segmentation", "class_queries_logits", "masks_queries_logits")
    sizes = _sizes(trial, len(trial.outputs["class_queries_logits"]))
    with post_processing():
        found = restore(_given(trial), threshold=0.0, target_sizes=sizes)
    wrong, segments = [], 0
    allowed = _DIGITS + _rounding(trial)
    for row, (one, size) in enumerate(zip(found, sizes, strict=True)):
        drawn = one["segmentation"]
        segments += len(one["segments_info"])
        ids = [segment["id"] for segment in one["segments_info"]]
        if tuple(drawn.shape) != size:
            wrong.append(f"row {row}: size {tuple(drawn.shape)}, should be {size}")
        elif set(drawn.unique().tolist()) - {-1.0, *map(float, ids)} or len(set(ids)) < len(ids):
            wrong.append(f"row {row}: the map has numbers that no segment or more than one has")
        else:
            ways = list(_masks(trial, row, size))
            wrong += [
                f"row {row}: segment {segment['id']} of label {segment['label_id']}, score {segment['score']:.3g}"
                for segment in one["segments_info"]
                if not any(way.have(drawn == segment["id"], segment, allowed) for way in ways)
            ]
    if not segments:
        raise NotApplicable("nothing was found in any picture")
    return Observation(
        passed=not wrong,
        observed=f"{len(wrong)} of {segments} segments in no mask of their label and score",
        allowed="0",
        detail="; ".join(wrong[:3]),
    )


@check(graphs=True)
def depth_maps(trial: Trial) -> Observation:
    """Depths have the size asked for, and are the model's own, interpolated; without a size they are as they were."""
    restore = _method(trial, "depth_estimation", "predicted_depth")
    if "source_sizes" in inspect.signature(restore).parameters:
        raise NotApplicable("its processor cuts off padding that follows from the size of the picture before it")
    depths = trial.outputs["predicted_depth"]
    sizes = _sizes(trial, len(depths))
    plain = restore(_given(trial))
    comparisons = []
    for row, (one, same, size) in enumerate(zip(restore(_given(trial), target_sizes=sizes), plain, sizes, strict=True)):
        near = (_interpolated(trial, row, one["predicted_depth"], depths[row], size, mode) for mode in _MODES)
        comparisons.append(min(near, key=lambda each: each.ratio))
        comparisons.append(_near(trial, f"depths as they were, row {row}", same["predicted_depth"], depths[row]))
    return Observation.of(comparisons, f"1 in each of {len(depths)} pictures")


def _interpolated(trial: Trial, row: int, actual: Tensor, depths: Tensor, size: Size, mode: str) -> Comparison:
    """Depths held against those of the model in another size, by float64; the interpolation itself rounds as well."""
    own, true = (
        interpolate(one[None, None], size=size, mode=mode, align_corners=False)[0, 0]
        for one in (depths, depths.double())
    )
    name = f"depths, row {row}"
    floor = errors_between({name: own}, {name: true}, trial.tolerance).get(name)
    return compare(name, actual, true, trial.tolerance, floor)


@check(graphs=True)
def prompted_masks(trial: Trial) -> Observation:
    """Masks under a prompt are the model's own, freed of the padding, in the size of the picture; cut at 0 or not."""
    restore = _method(trial, "masks", "pred_masks")
    masks = trial.outputs["pred_masks"]
    sizes = _sizes(trial, len(masks))
    given: dict[str, Any] = {"original_sizes": sizes}
    whole, inner = (0, 0), list[Size | None]([None] * len(sizes))  # where nothing was padded
    pictures = trial.processor.image_processor
    if "reshaped_input_sizes" in inspect.signature(pictures.post_process_masks).parameters:
        padded = pictures.pad_size
        whole = (padded["height"], padded["width"])
        inner = [_fitted(size, whole) for size in sizes]
        given["reshaped_input_sizes"] = inner
    found = restore(list(masks), **given, binarize=False)
    cut = restore(list(masks), **given)
    comparisons = []
    for row, (one, size) in enumerate(zip(found, sizes, strict=True)):
        own, true = (_freed(each, whole, inner[row], size) for each in (masks[row], masks[row].double()))
        name = f"masks, row {row}"
        floor = errors_between({name: own}, {name: true}, trial.tolerance).get(name)
        comparisons.append(compare(name, one, true, trial.tolerance, floor))
        comparisons.append(_near(trial, f"masks cut at 0, row {row}", cut[row], one > 0))
    return Observation.of(comparisons, f"1 in each of {len(found)} pictures")


def _fitted(size: Size, whole: Size) -> Size:
    """The size of a picture whose longer side fills a whole one."""
    scale = max(whole) / max(size)
    return round(size[0] * scale), round(size[1] * scale)


def _freed(masks: Tensor, whole: Size, inner: Size | None, size: Size) -> Tensor:
    """Masks of prompts in the size of the whole input, without its padding, in the size of the picture."""
    if inner is not None:
        masks = interpolate(masks, size=whole, mode="bilinear", align_corners=False)[..., : inner[0], : inner[1]]
    return interpolate(masks, size=size, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class _Masks:
    """The masks of the queries of one picture, in one way that is published."""

    # queries × labels
    classes: Tensor
    # the mean of each mask where it is more than one half
    means: Tensor
    # where that is, or nearly so, in the size asked for: queries × height × width
    inside: Tensor

    def have(self, pixels: Tensor, segment: Any, allowed: float) -> bool:
        """Whether a query has a mask over all of a segment's pixels, and with its label the segment's score."""
        covers = (self.inside | ~pixels).flatten(1).all(1)
        scores = self.classes[:, segment["label_id"]] * self.means
        return bool((covers & ((scores - segment["score"]).abs() <= allowed)).any())


@contextmanager
def post_processing() -> Iterator[None]:
    """Keep with an exception that an image processor raises over outputs what its reproduction needs."""
    try:
        yield
    except Exception as error:
        for frame, _ in walk_tb(error.__traceback__):
            method, processor = frame.f_code.co_name, frame.f_locals.get("self")
            if method.startswith("post_process_") and isinstance(processor, ImageProcessingMixin):
                _, *asked = inspect.signature(getattr(processor, method)).parameters
                arguments = {name: frame.f_locals[name] for name in asked}
                with evidence(processor=processor, method=method, arguments=arguments):
                    raise
        raise


@reproduces(instance_maps)
@torch.no_grad()
def post_processed(
    model: nn.Module,
    inputs: Mapping[str, Any],
    dtype: torch.dtype,
    processor: Any,
    method: str,
    arguments: Mapping[str, Any],
) -> None:
    """The image processor makes answers of the outputs."""
    getattr(processor, method)(model(**placed(model, inputs, dtype)), **arguments)


def _masks(trial: Trial, row: int, size: Size) -> Iterator[_Masks]:
    classes = trial.outputs["class_queries_logits"][row].double().softmax(-1)[:, :-1]
    for between in _BETWEEN:
        masks = trial.outputs["masks_queries_logits"][row].double()
        masks = _resized(masks, between) if between else masks
        inside = masks > 0
        means = (masks.sigmoid() * inside).flatten(1).sum(1) / inside.flatten(1).sum(1).clamp(min=1)
        nearly = masks > -_rounding(trial) * float(masks.square().mean().sqrt())
        yield _Masks(classes, means, interpolate(nearly[None].double(), size=size, mode="nearest")[0] > 0)


def _rounding(trial: Trial) -> float:
    """The share of its scale by which a value of the target's dtype may be off by rounding alone."""
    return trial.tolerance.smallest * trial.tolerance.eps


def _method(trial: Trial, kind: str, *names: str) -> Any:
    """The processor's method for that kind of answer, which reads outputs of these names."""
    method = getattr(trial.processor, f"post_process_{kind}", None)
    if method is None:
        raise NotApplicable(f"its processor has no post_process_{kind}")
    if hasattr(trial.processor, "do_split_image"):
        raise NotApplicable("its processor joins the maps of parts of a picture")
    missing = [name for name in names if name not in trial.outputs]
    if missing:
        raise NotApplicable(f"the class returns no {' and no '.join(missing)}")
    return method


def _given(trial: Trial) -> SimpleNamespace:
    """The outputs of the batch as post-processing takes them."""
    return SimpleNamespace(**{name: one for name, one in trial.outputs.items() if "." not in name})


def _sizes(trial: Trial, rows: int) -> list[Size]:
    """A size for each picture's answer, (height, width): oblong, so that exchanged axes show."""
    return [(61 + 8 * row, 83 - 6 * row) for row in range(rows)]


def _resized(maps: Tensor, size: Sequence[int]) -> Tensor:
    return interpolate(maps[None], size=tuple(size), mode="bilinear", align_corners=False)[0]


def _near(trial: Trial, name: str, actual: Tensor, expected: Tensor) -> Comparison:
    return compare(name, actual, expected, trial.tolerance)
