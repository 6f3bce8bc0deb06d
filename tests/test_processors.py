"""Sample pictures, image processors and composites: what they are given comes out as the model takes it."""

import ast
import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import BertConfig, CLIPConfig, CvtConfig, DetrConfig, ImageGPTConfig, PreTrainedConfig
from transformers.utils import is_torchvision_available

from proofbook.catalog import Category, Model, load_catalog
from proofbook.subject.image_processors import FREE_SIDE, build_image_processor, lookup
from proofbook.subject.processors import _replaced, align, build_processor, composite_class, part_of
from proofbook.subject.samples.images import clip, document, photographs
from proofbook.subject.shrink import tiny_config
from proofbook.verdict import Blocked

CATALOG = load_catalog()


def prepared(name: str) -> tuple[PreTrainedConfig, object]:
    """The tiny configuration of a model and its processor, aligned."""
    spec = CATALOG.model(name)
    config = tiny_config(spec)
    processor = build_processor(spec, config)
    align(config, processor)
    return config, processor


def of_type(model_type: str, processor: dict[str, object] | None = None) -> Model:
    fields = {"name": "a-model", "category": "vision", "model_type": model_type, "class": "ViTModel"}
    tiny = {"tiny": {"reason": "as a test asks for", "processor": processor}} if processor else {}
    return Model.model_validate({**fields, "task": "image-classification", "hub_id": "none/none", **tiny})


# samples


def test_photographs_differ_in_size_and_shape() -> None:
    sizes = [photo.size for photo in photographs()]
    assert len({width / height for width, height in sizes}) == len(sizes) >= 3
    assert all(max(size) <= 256 for size in sizes)


def test_the_boxes_of_the_page_hold_all_of_its_ink_and_each_word_has_some() -> None:
    page = document()
    dark = np.asarray(page.image.convert("L")) < 128
    for x0, y0, x1, y1 in page.boxes:
        assert 0 <= x0 < x1 <= 1000
        assert 0 <= y0 < y1 <= 1000
        left, right = (int(x * page.image.width / 1000) for x in (x0, x1))
        top, bottom = (int(y * page.image.height / 1000) for y in (y0, y1))
        inside = (slice(top, bottom + 1), slice(left, right + 1))
        assert dark[inside].any()
    for x0, y0, x1, y1 in page.boxes:
        rows = slice(y0 * page.image.height // 1000, y1 * page.image.height // 1000 + 1)
        columns = slice(x0 * page.image.width // 1000, x1 * page.image.width // 1000 + 1)
        dark[rows, columns] = False
    assert not dark.any()
    assert len(page.words) == len(page.boxes)
    assert "INVOICE" in page.words


def test_a_clip_pans() -> None:
    frames = clip(6)
    assert frames.shape == (6, 96, 128, 3)
    assert frames.dtype == np.uint8
    for before, after in pairwise(frames):
        assert np.array_equal(before[4:, 4:], after[:-4, :-4])
    assert not np.array_equal(clip(6), clip(6, start=1))


# image processors


@pytest.mark.parametrize("name", [model.name for model in CATALOG.models.values() if model.category is Category.VISION])
def test_images_come_out_at_the_size_that_the_model_takes(name: str) -> None:
    spec = CATALOG.model(name)
    try:
        config = tiny_config(spec)
    except Blocked as blocked:
        pytest.skip(str(blocked))
    processor = build_image_processor(spec, config)
    values = processor(photographs(), return_tensors="pt")
    size = lookup(config, "image_size")
    if "pixel_values" not in values:
        assert values["input_ids"].shape == (3, 12 * 12)
        return
    height, width = values["pixel_values"].shape[-2:]
    longest = FREE_SIDE if size is None else max(size) if isinstance(size, list | tuple) else size
    assert max(height, width) <= longest
    # a processor that keeps the proportions gives less, and says so by a mask
    assert (height, width) == (longest, longest) or "pixel_mask" in values


def test_resize_and_crop_keep_their_proportion() -> None:
    full = build_image_processor(of_type("mobilenet_v2"), CvtConfig(image_size=224))
    tiny = build_image_processor(of_type("mobilenet_v2"), CvtConfig(image_size=56))
    assert (full.size["shortest_edge"], full.crop_size["height"]) == (256, 224)
    assert (tiny.size["shortest_edge"], tiny.crop_size["height"]) == (64, 56)


def test_longest_and_shortest_edge_keep_their_proportion() -> None:
    processor = build_image_processor(of_type("detr"), DetrConfig())
    assert processor.size["longest_edge"] == FREE_SIDE
    assert processor.size["shortest_edge"] == round(FREE_SIDE * 800 / 1333)


def test_the_entry_comes_before_the_mapping() -> None:
    spec = of_type("vit", {"image_processor": {"class": "BitImageProcessor", "do_center_crop": False}})
    processor = build_image_processor(spec, CvtConfig(image_size=32))
    assert type(processor).__name__.startswith("BitImageProcessor")
    assert processor.do_center_crop is False


def test_a_palette_of_one_colour_less_than_the_vocabulary_keeps_the_picture() -> None:
    config = ImageGPTConfig(vocab_size=257, n_positions=256)
    processor = build_image_processor(of_type("imagegpt"), config)
    ids = processor(photographs(), return_tensors="np")["input_ids"]
    assert ids.shape == (3, 256)
    assert ids.max() < 256
    assert len(np.unique(ids)) > 30
    painted = 127.5 * (np.asarray(processor.clusters)[ids] + 1)
    wanted = np.stack([np.asarray(photo.resize((16, 16))).reshape(-1, 3) for photo in photographs()])
    assert np.abs(painted - wanted).mean() < 25


def test_a_model_without_image_processor_is_named() -> None:
    with pytest.raises(LookupError, match="bert"):
        build_image_processor(of_type("bert"), BertConfig())


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed")
def test_a_class_that_needs_torchvision_is_blocked_by_name() -> None:
    with pytest.raises(Blocked, match="torchvision") as blocked:
        build_image_processor(of_type("dinov3_vit"), BertConfig())
    assert "DINOv3ViTImageProcessor" in blocked.value.cause


# composites


@pytest.mark.parametrize(("name", "expected"), [("clip", "CLIPProcessor"), ("xclip", "XCLIPProcessor"), ("vit", None)])
def test_the_composite_is_found_where_there_is_one(name: str, expected: str | None) -> None:
    cls = composite_class(CATALOG.model(name))
    assert (cls and cls.__name__) == expected


@pytest.mark.parametrize("name", ["blip-2", "instructblip", "llava", "qwen2-vl"])
def test_placeholders_are_tokens_that_the_model_reads(name: str) -> None:
    config, processor = prepared(name)
    tokenizer = part_of(processor, "tokenizer")
    token = str(processor.image_token)  # type: ignore[attr-defined]
    assert tokenizer.encode(token, add_special_tokens=False) == [lookup(config, "image_token_id", "image_token_index")]
    assert len(tokenizer) <= config.get_text_config().vocab_size


def test_arguments_of_a_composite_follow_the_configuration() -> None:
    config, processor = prepared("llava")
    vision = config.vision_config
    assert processor.patch_size == vision.patch_size  # type: ignore[attr-defined]
    dialogue = processor.apply_chat_template(  # type: ignore[attr-defined]
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]}]
    )
    inputs = processor(images=photographs()[:1], text=dialogue, return_tensors="pt")  # type: ignore[operator]
    placeholders = (inputs["input_ids"] == config.image_token_id).sum()
    assert placeholders == (vision.image_size // vision.patch_size) ** 2


def test_aligning_twice_changes_nothing_more() -> None:
    config, processor = prepared("blip-2")
    once = copy.deepcopy(config.to_dict())
    align(config, processor)
    assert config.to_dict() == once


def test_part_of_a_lone_processor_is_itself() -> None:
    processor = build_image_processor(of_type("vit"), CLIPConfig())
    assert part_of(processor, "image_processor") is processor
    assert part_of(processor, "tokenizer") is None


@pytest.mark.skipif(is_torchvision_available(), reason="torchvision is installed")
def test_pictures_go_through_a_composite_whose_video_processor_is_missing() -> None:
    _, processor = prepared("qwen2-vl")
    text = processor.apply_chat_template(  # type: ignore[attr-defined]
        [{"role": "user", "content": [{"type": "image"}]}]
    )
    inputs = processor(images=photographs()[:1], text=text, return_tensors="pt")  # type: ignore[operator]
    assert torch.isfinite(inputs["pixel_values"]).all()
    clips = processor.apply_chat_template(  # type: ignore[attr-defined]
        [{"role": "user", "content": [{"type": "video"}]}]
    )
    with pytest.raises(Blocked, match="torchvision"):
        processor(videos=[clip(4)], text=clips, return_tensors="pt")  # type: ignore[operator]


def test_a_second_tokenizer_is_of_the_class_that_the_entry_names() -> None:
    _, processor = prepared("instructblip")
    assert type(processor.qformer_tokenizer).__name__ == "BertTokenizer"  # type: ignore[attr-defined]
    assert type(processor.tokenizer).__name__ != "BertTokenizer"  # type: ignore[attr-defined]


def with_entry(model_type: str) -> tuple[PreTrainedConfig, object]:
    """The same of a model type that only discovery has an entry for."""
    spec = CATALOG.every_model()[model_type]
    config = tiny_config(spec)
    processor = build_processor(spec, config)
    align(config, processor)
    return config, processor


@pytest.mark.parametrize("model_type", ["ovis2", "pp_chart2table", "cohere_compass"])
def test_the_image_token_of_a_configuration_is_the_one_that_its_processor_writes(model_type: str) -> None:
    config, processor = with_entry(model_type)
    dialogue = processor.apply_chat_template(  # type: ignore[attr-defined]
        [{"role": "user", "content": [{"type": "image"}]}], add_generation_prompt=True
    )
    made = processor(images=[photographs()[0]], text=[dialogue], return_tensors="pt")  # type: ignore[operator]
    assert config.image_token_id in made["input_ids"][0]


def test_as_many_image_tokens_as_patches_where_the_configuration_states_no_number() -> None:
    config, processor = with_entry("deepseek_vl")
    side = config.vision_config.image_size // config.vision_config.patch_size
    assert processor.num_image_tokens == side**2  # type: ignore[attr-defined]


def test_a_model_shares_the_processor_of_the_type_that_its_class_is_of() -> None:
    assert composite_class(CATALOG.every_model()["glmga"]).__name__ == "Glm46VProcessor"


@pytest.mark.skipif(is_torchvision_available(), reason="what is there blocks nothing")
def test_a_stand_in_blocks_by_the_package_where_the_class_it_stands_for_is_asked_for() -> None:
    with pytest.raises(Blocked, match="torchvision"):
        with_entry("minicpmv4_6")


def test_what_a_processor_replaces_again_fills_no_picture() -> None:
    kept, passing = (
        ast.parse(source, mode="eval").body
        for source in ('text.replace("<image>", "<image>" * 4)', 'text.replace("<placeholder>", self.image_token)')
    )
    assert _replaced(kept) is None and _replaced(passing) == "<placeholder>"
