"""Tasks on pictures, and on pictures with text: from the raw rows to the answers, through tiny models."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from chains import Chain
from chains import chain as chain_of
from proofbook.subject.tasks import Row
from proofbook.subject.tasks.vision import pictures, sizes
from proofbook.subject.tasks.vision_text import without_prompt

# one model a task
NAMES = (
    "vit",
    "detr",
    "vitdet",
    "mask2former",
    "segformer",
    "clipseg",
    "depth-anything",
    "sam",
    "imagegpt",
    "clip",
    "owlvit",
    "vilt",
    "blip-2",
    "xclip",
)


@pytest.fixture
def chain(request: pytest.FixtureRequest) -> Chain:
    return chain_of(request.param)


def of(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("chain", names, indirect=True)


@of(*NAMES)
def test_every_row_has_an_answer_and_counts_as_work(chain: Chain) -> None:
    assert len(chain.rows) >= 3
    assert len(chain.answers) == len(chain.rows)
    work = sum(1 if row.video is None else len(row.video) for row in chain.rows)
    assert chain.encoded.work == work


@of(*NAMES)
def test_the_forward_takes_what_the_task_encodes_and_rows_differ(chain: Chain) -> None:
    with torch.no_grad():
        outputs = chain.model(**copy.deepcopy(chain.encoded.inputs))
    tensors = [v for v in outputs.values() if isinstance(v, torch.Tensor) and v.shape[:1] == (len(chain.rows),)]
    assert tensors
    assert all(torch.isfinite(t).all() for t in tensors)
    assert any(not torch.allclose(t[0], t[1], atol=1e-3) for t in tensors)


@of("vit", "vilt", "clip", "xclip")
def test_labels_come_best_first_and_what_is_not_shown_is_less_likely(chain: Chain) -> None:
    for row, answer in zip(chain.rows, chain.answers, strict=True):
        scores = [one["score"] for one in answer]
        assert scores == sorted(scores, reverse=True)
        unseen = (len(row.labels) or chain.model.config.num_labels) - len(scores)
        assert -1e-4 <= 1 - sum(scores) <= unseen * scores[-1] + 1e-4


@of("clip", "xclip")
def test_another_order_of_the_descriptions_gives_the_same_answer(chain: Chain) -> None:
    straight = chain.answers
    turned = [Row(images=row.images, video=row.video, labels=tuple(reversed(row.labels))) for row in chain.rows]
    for before, after in zip(straight, chain.answers_to(turned), strict=True):
        assert [one["label"] for one in before] == [one["label"] for one in after]


@of("detr", "owlvit")
def test_boxes_are_named_scored_and_in_pixels(chain: Chain) -> None:
    for row, answer in zip(chain.rows, chain.answers, strict=True):
        assert answer
        width, height = row.images[0].size
        for found in answer:
            x0, y0, x1, y1 = found["box"]
            assert 0 < found["score"] <= 1
            assert found["label"]
            assert x0 <= x1 and y0 <= y1
            # the centre of a box lies in the picture, its edges may not
            assert 0 <= (x0 + x1) / 2 <= width
            assert 0 <= (y0 + y1) / 2 <= height


@of("vitdet")
def test_a_backbone_answers_with_the_shape_of_its_feature_map(chain: Chain) -> None:
    config = chain.model.config
    side = config.image_size // config.patch_size
    assert chain.answers[0] == [{"feature map": (config.hidden_size, side, side)}]


@of("segformer", "clipseg", "depth-anything")
def test_maps_are_as_large_as_the_pictures(chain: Chain) -> None:
    for size, answer in zip(sizes(chain.rows), chain.answers, strict=True):
        assert answer.shape == size
        assert len(np.unique(answer)) > 1


@of("mask2former")
def test_segments_of_the_map_are_those_that_are_named(chain: Chain) -> None:
    for size, answer in zip(sizes(chain.rows), chain.answers, strict=True):
        assert answer["map"].shape == size
        assert set(np.unique(answer["map"])) - {-1} <= {part["id"] for part in answer["segments"]}


@of("sam")
def test_masks_are_as_large_as_the_picture_and_move_with_the_point(chain: Chain) -> None:
    at_centre = chain.answers
    moved = [Row(images=row.images, points=((5, 5),)) for row in chain.rows]
    at_corner = chain.answers_to(moved)
    for size, one, other in zip(sizes(chain.rows), at_centre, at_corner, strict=True):
        assert [mask["mask"].shape for mask in one] == [size] * len(one)
        assert [mask["score"] for mask in one] == sorted((mask["score"] for mask in one), reverse=True)
        assert one[0]["score"] != other[0]["score"]


@of("imagegpt")
def test_a_picture_is_continued_below_its_given_half(chain: Chain) -> None:
    processor = chain.subject.processor
    for painted, ids in zip(chain.answers, chain.encoded.inputs["input_ids"], strict=True):
        assert isinstance(painted, Image.Image)
        colours = 127.5 * (np.asarray(processor.clusters)[ids.numpy()] + 1)
        given = colours.reshape(painted.height, painted.width, 3)[: painted.height // 2]
        assert np.abs(np.asarray(painted)[: painted.height // 2] - given).max() <= 1


@of("blip-2", "vilt")
def test_the_question_matters(chain: Chain) -> None:
    asked = [Row(images=row.images, text="And what else can be seen, over there?") for row in chain.rows]
    inputs = chain.task.encode(chain.subject, asked).inputs
    with torch.no_grad():
        one, other = chain.model(**chain.encoded.inputs).logits, chain.model(**inputs).logits
    assert not torch.allclose(one[:, -1], other[:, -1], atol=1e-3)


def test_a_prompt_that_is_given_back_is_cut_off() -> None:
    prompt = torch.tensor([[5, 6], [7, 8]])
    new = torch.tensor([[1, 2, 3], [3, 2, 1]])
    assert torch.equal(without_prompt(torch.cat([prompt, new], dim=1), prompt), new)
    assert torch.equal(without_prompt(new, prompt), new)


@of("vit")
def test_pictures_are_those_of_the_rows(chain: Chain) -> None:
    assert [picture.size[::-1] for picture in pictures(chain.rows)] == sizes(chain.rows)
