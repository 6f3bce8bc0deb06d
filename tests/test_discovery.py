"""Every architecture of the installed transformers has an entry, though nobody wrote one."""

from pathlib import Path

import pytest

from proofbook.catalog import Category, UnknownName, discovery, load_catalog
from proofbook.catalog.discovery import discover, newer
from proofbook.workbook.case import Case


def test_parts_of_models_are_not_models_of_their_own() -> None:
    found = discover()
    assert {"bert", "llava", "data2vec-audio", "parakeet_ctc", "timesfm"} <= set(found)
    assert not {"clip_text_model", "gemma3_text", "speecht5_hifigan", "qwen2_audio_encoder", "EvollaModel"} & set(found)
    assert 450 < len(found) < 650


@pytest.mark.parametrize(
    ("model_type", "category", "task"),
    [
        ("roberta", Category.ENCODER_ONLY, "fill-mask"),
        ("mistral", Category.DECODER_ONLY, "text-generation"),
        ("bart", Category.ENCODER_DECODER, "text2text-generation"),
        ("resnet", Category.VISION, "image-classification"),
        ("siglip2", Category.VISION_TEXT, "zero-shot-image-classification"),
        ("hubert", Category.SPEECH, "automatic-speech-recognition"),
        ("vits", Category.SPEECH, "forward"),
        ("gemma3", Category.MULTIMODAL, "image-to-text"),
        ("autoformer", Category.OTHER, "forward"),
        ("decision_transformer", Category.OTHER, "forward"),
    ],
)
def test_a_model_is_sorted_by_what_its_class_reads(model_type: str, category: Category, task: str) -> None:
    entry = discover()[model_type]
    assert (entry.category, entry.task) == (category, task)


def test_the_checkpoint_is_the_one_that_the_documentation_names() -> None:
    assert discover()["bert"].hub_id == "google-bert/bert-base-uncased"


def test_the_catalog_knows_a_derived_model_by_its_type_and_a_written_entry_comes_first() -> None:
    catalog = load_catalog()
    every = catalog.every_model()
    derived = catalog.model("seed_oss")
    assert derived == every["seed_oss"]
    assert not derived.tracked
    assert catalog.model("bert").tracked
    # one entry a type: what is entered under another name is not derived as well
    assert "clip" in every
    assert sum(model.model_type == "cohere" for model in every.values()) == 1
    with pytest.raises(UnknownName, match="Did you mean seed_oss"):
        catalog.model("seed_os")


def test_new_is_what_the_committed_list_lacks() -> None:
    found = dict(discover())
    assert newer(found) == []
    assert newer({**found, "bert9": found["bert"]}) == ["bert9"]


def test_what_was_kept_by_another_proofbook_is_looked_at_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = load_catalog().model("seed_oss").model_dump(mode="json", by_alias=True, exclude_defaults=True)
    kept = tmp_path / "registered.json"
    kept.write_text('[{"model_type": "bert"}]')
    monkeypatch.setattr(discovery, "_cache_file", lambda: kept)
    monkeypatch.setattr(discovery, "_look", lambda path: [fresh])
    assert list(discovery.discover.__wrapped__()) == ["seed_oss"]


def test_a_slip_is_told_without_looking_at_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look(path: Path) -> None:
        raise AssertionError("looked at transformers")

    monkeypatch.setattr(discovery, "_cache_file", lambda: tmp_path / "none.json")
    monkeypatch.setattr(discovery, "_look", look)
    discovery.discover.cache_clear()
    with pytest.raises(UnknownName, match=r"Did you mean .*bert"):
        load_catalog().model("brt")
    with pytest.raises(AssertionError, match="looked"):
        load_catalog().model("seed_oss")
    discovery.discover.cache_clear()


@pytest.mark.parametrize("name", ["seed_oss", "fnet", "bit", "decision_transformer", "dpr", "lxmert", "patchtst"])
def test_a_derived_entry_runs_the_battery(name: str) -> None:
    case = Case(name)
    for family in ("loading", "forward", "accuracy", "batching", "answers"):
        case.check(family)
    assert case.verdict == "pass", case.reason
