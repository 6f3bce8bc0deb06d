"""Tasks on pictures, clips and text together: from the raw rows to the answers, through tiny models."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING

from chains import chain
from proofbook.catalog import Category, load_catalog
from proofbook.subject.checkpoint import load_processor
from proofbook.subject.samples.images import clip
from proofbook.subject.tasks.task import Subject
from proofbook.subject.tasks.tokens import with_canvas
from proofbook.subject.video_processors import StandIn
from proofbook.verdict import Blocked

needs_no_torchvision = pytest.mark.skipif(
    transformers.utils.is_torchvision_available(), reason="torchvision is there, so nothing stands in for it"
)

WRITERS = [
    model.name
    for model in load_catalog().models.values()
    if model.category is Category.MULTIMODAL and model.task.endswith("-to-text") and not model.needs
]
VIDEO = ["llava-next-video", "video-llava"]


def seen(name: str) -> str:
    return next(key for key in ("pixel_values_videos", "pixel_values") if key in chain(name).encoded.inputs)


def test_thirteen_models_write_about_what_they_see() -> None:
    assert len(WRITERS) == 13


@pytest.mark.parametrize("name", WRITERS)
def test_every_row_is_answered_in_words(name: str) -> None:
    of = chain(name)
    assert len(of.rows) == 3
    assert [type(answer) for answer in of.answers] == [str, str, str]


@pytest.mark.parametrize("name", WRITERS)
def test_pictures_and_words_decide_and_nothing_is_infinite(name: str) -> None:
    of = chain(name)
    logits, inputs = of.outputs().logits, of.encoded.inputs
    assert logits.isfinite().all()
    assert (of.outputs(**{seen(name): inputs[seen(name)].flip(-1)}).logits - logits).abs().max() > 1e-3
    ids = inputs["input_ids"].clone()
    ids[0, -1] = 5
    assert (of.outputs(input_ids=ids).logits - logits)[0].abs().max() > 1e-3


@pytest.mark.parametrize("name", WRITERS)
def test_rows_are_of_unequal_length_and_end_together(name: str) -> None:
    mask = chain(name).encoded.inputs["attention_mask"]
    assert len(set(mask.sum(-1).tolist())) > 1
    assert mask[:, -1].all()


@pytest.mark.parametrize("name", WRITERS)
def test_every_token_is_in_the_vocabulary(name: str) -> None:
    of = chain(name)
    assert of.encoded.inputs["input_ids"].max() < of.model.get_input_embeddings().num_embeddings


@pytest.mark.parametrize("name", VIDEO)
def test_clips_become_frames(name: str) -> None:
    of = chain(name)
    clips = of.encoded.inputs["pixel_values_videos"]
    assert clips.shape[:3] == (3, 4, 3)
    assert of.encoded.work == 12
    backwards = of.outputs(pixel_values_videos=clips.flip(1))
    assert (backwards.logits - of.outputs().logits).abs().max() > 1e-3


@needs_no_torchvision
@pytest.mark.parametrize("name", VIDEO)
def test_a_stand_in_gives_each_frame_to_the_image_processor(name: str) -> None:
    processor = chain(name).subject.processor.video_processor
    frames = clip(3)
    made = processor([frames])["pixel_values_videos"]
    for frame, got in zip(frames, made[0], strict=True):
        assert torch.equal(got, processor.frames(frame, return_tensors="pt")["pixel_values"][0])


@needs_no_torchvision
def test_a_stand_in_without_an_image_processor_says_what_is_missing() -> None:
    with pytest.raises(Blocked, match="torchvision"):
        StandIn()([clip(2)])


@needs_no_torchvision
@pytest.mark.parametrize("name", ["llava-next-video", "qwen2-vl"])
def test_a_processor_with_a_stand_in_comes_back_from_its_folder(name: str, tmp_path: Path) -> None:
    of = chain(name)
    of.subject.processor.save_pretrained(tmp_path)
    loaded = load_processor(load_catalog().model(name), tmp_path)
    again = of.task.encode(replace(of.subject, processor=loaded), of.rows).inputs
    assert again.keys() == of.encoded.inputs.keys()
    assert all(torch.equal(again[key], value) for key, value in of.encoded.inputs.items())


def test_tiles_of_a_large_picture_are_as_large_as_the_model_takes() -> None:
    of = chain("llava-next")
    side = of.subject.config.vision_config.image_size
    assert of.encoded.inputs["pixel_values"].shape[-2:] == (side, side)
    assert 1 < of.encoded.inputs["pixel_values"].shape[1] < 8


def test_a_picture_and_its_caption_have_one_vector() -> None:
    of = chain("flava")
    width = of.subject.config.multimodal_config.hidden_size
    assert [vector.shape for vector in of.answers] == [(width,)] * 3
    renamed = [replace(row, text="rain") for row in of.rows]
    swapped = [replace(row, images=other.images) for row, other in zip(of.rows, of.rows[::-1], strict=True)]
    for changed in (renamed, swapped):
        assert np.abs(of.answers_to(changed)[0] - of.answers[0]).max() > 1e-3


def test_bytes_are_labelled() -> None:
    of = chain("perceiver")
    scores = [one["score"] for one in of.answers[0]]
    assert sum(scores) == pytest.approx(1, abs=1e-5)
    assert len(of.answers) == len(of.rows) >= 3


def test_a_protein_is_read_with_its_shapes_and_asked_about() -> None:
    of = chain("evolla")
    vocabulary = of.subject.processor.protein_tokenizer.get_vocab()
    proteins = of.encoded.inputs["protein_input_ids"]
    assert len(vocabulary) == of.subject.config.protein_encoder_config.vocab_size == 446
    assert vocabulary["<unk>"] not in proteins
    assert of.subject.config.protein_encoder_config.pad_token_id == 1


def test_text_diffusion_has_a_canvas_that_is_the_same_for_a_row_in_any_batch() -> None:
    config = CONFIG_MAPPING["diffusion_gemma"](canvas_length=4, text_config={"vocab_size": 50})
    ids, mask = torch.tensor([[0, 7, 8], [5, 6, 9]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    both = with_canvas(Subject(config, None), {"input_ids": ids, "attention_mask": mask})
    alone = with_canvas(Subject(config, None), {"input_ids": ids[:1, 1:], "attention_mask": mask[:1, 1:]})
    assert both["decoder_input_ids"].shape == (2, 4)
    assert both["self_conditioning_logits"].shape == (2, 4, 50)
    assert both["decoder_attention_mask"].tolist() == [[0, 1, 1, 1, 1, 1, 1], [1] * 7]
    assert torch.equal(both["decoder_input_ids"][:1], alone["decoder_input_ids"])
    assert not torch.equal(both["decoder_input_ids"][0], both["decoder_input_ids"][1])
