"""Tasks on text: from sentences through the tokenizer and a tiny model to an answer a row."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from proofbook.catalog import UnknownName, load_catalog
from proofbook.subject.draw import build_model
from proofbook.subject.processors import align, build_processor
from proofbook.subject.samples.images import document
from proofbook.subject.samples.pages import TABLE
from proofbook.subject.shrink import tiny_config
from proofbook.subject.tasks import Encoded, Row, Subject, Task, task_named, tasks
from proofbook.subject.tasks.tokens import forward_parameters, tokenizer_of


@dataclass(frozen=True)
class Chain:
    """A tiny model with its task, its raw rows and their encoding."""

    task: Task
    subject: Subject
    model: Any
    rows: list[Row]
    encoded: Encoded

    @property
    def inputs(self) -> dict[str, torch.Tensor]:
        return self.encoded.inputs

    def answers(self, rows: list[Row] | None = None) -> list[Any]:
        rows = rows or self.rows
        with torch.no_grad():
            return self.task.answer(self.subject, self.model, rows, self.task.encode(self.subject, rows))


@cache
def chain(name: str) -> Chain:
    spec = load_catalog().model(name)
    config = tiny_config(spec)
    processor = build_processor(spec, config)
    align(config, processor)
    subject = Subject(config, processor, spec.tiny.inputs if spec.tiny else {})
    task = task_named(spec.task)
    rows = task.rows(subject)
    return Chain(task, subject, build_model(spec, config, seed=0), rows, task.encode(subject, rows))


_READERS = ("bert", "electra", "layoutlm", "perceiver", "all-minilm-l6-v2", "layoutlmv3", "tapas", "markuplm")
_ONE_A_TASK = (*_READERS, "gpt2", "bart", "t5", "m2m-100")


@pytest.mark.parametrize("name", _ONE_A_TASK)
def test_a_batch_holds_rows_of_unequal_length_that_forward_takes(name: str) -> None:
    made = chain(name)
    assert len(made.rows) >= 3
    assert set(made.inputs) <= forward_parameters(made.subject)
    lengths = made.inputs["attention_mask"].sum(1)
    assert len(set(lengths.tolist())) > 1 and int(lengths.max()) == made.inputs["attention_mask"].shape[1]
    masks = [value for key, value in made.inputs.items() if key.endswith("attention_mask")]
    assert made.encoded.work == sum(int(mask.sum()) for mask in masks)


@pytest.mark.parametrize("name", _ONE_A_TASK)
def test_every_row_gets_an_answer_and_one_row_alone_too(name: str) -> None:
    made = chain(name)
    assert len(made.answers()) == len(made.rows)
    assert len(made.answers(made.rows[:1])) == 1


def test_a_gap_is_filled_with_tokens_in_the_order_of_their_probability() -> None:
    made = chain("bert")
    for row, best in zip(made.rows, made.answers(), strict=True):
        assert "[MASK]" in str(row.text)
        scores = [candidate["score"] for candidate in best]
        assert scores == sorted(scores, reverse=True) and 0 < sum(scores) <= 1.0001


def test_a_gap_in_a_protein_stands_among_amino_acids() -> None:
    made = chain("esm")
    assert all(set(str(row.text).replace("<mask>", "")) <= set("ACDEFGHIKLMNPQRSTVWY") for row in made.rows)
    assert tokenizer_of(made.subject).unk_token_id not in made.inputs["input_ids"]


def test_a_recurring_phrase_is_found_in_its_text() -> None:
    made = chain("splinter")
    for (found,), ids in zip(made.answers(), made.inputs["input_ids"], strict=True):
        assert found["answer"].removeprefix("##") in tokenizer_of(made.subject).decode(ids, skip_special_tokens=True)


def test_entities_are_mentioned_where_capitalised_words_stand() -> None:
    made = chain("luke")
    spans = made.inputs["entity_position_ids"]
    assert made.inputs["entity_attention_mask"].sum(1).tolist() == [2, 1, 1, 1]
    paris = spans[0, 0][spans[0, 0] >= 0]
    assert tokenizer_of(made.subject).decode(made.inputs["input_ids"][0][paris]).strip() == "Paris"


def test_each_token_is_labelled_but_the_special_ones() -> None:
    made = chain("electra")
    for found, mask in zip(made.answers(), made.inputs["attention_mask"], strict=True):
        assert len(found) == int(mask.sum()) - 2  # [CLS] and [SEP]
        assert all(one["label"] in made.model.config.id2label.values() for one in found)


def test_every_piece_of_a_word_has_the_box_of_the_word() -> None:
    made = chain("layoutlm")
    page = document()
    ids, boxes = made.inputs["input_ids"][0], made.inputs["bbox"][0]
    first = tokenizer_of(made.subject)(page.words[0], add_special_tokens=False)["input_ids"]
    assert ids[1 : 1 + len(first)].tolist() == first
    assert boxes[1 : 1 + len(first)].tolist() == [list(page.boxes[0])] * len(first)
    assert boxes[0].tolist() == [0, 0, 0, 0]
    assert int(made.inputs["bbox"][2][made.inputs["attention_mask"][2] == 0].abs().sum()) == 0


def test_a_question_and_a_page_go_in_together() -> None:
    made = chain("layoutlmv3")
    text = tokenizer_of(made.subject).decode(made.inputs["input_ids"][0], skip_special_tokens=True)
    assert text.startswith(" What is the total?") and "Riverside" in text
    assert made.inputs["pixel_values"].shape[0] == len(made.rows)


def test_each_token_of_a_table_has_its_row_and_its_column() -> None:
    rows, columns = (chain("tapas").inputs["token_type_ids"][0][:, kind] for kind in (2, 1))
    assert int(rows.max()) == len(TABLE) - 1 and int(columns.max()) == len(TABLE[0])


def test_each_token_of_a_page_has_its_elements() -> None:
    made = chain("markuplm")
    paths = made.inputs["xpath_tags_seq"][0]
    tags = made.subject.processor.tokenizer.tags_dict
    assert paths.shape[1] == made.subject.config.max_depth
    assert {tags["html"], tags["li"], tags["b"]} < set(paths.flatten().tolist())


def test_what_is_made_up_beside_a_text_is_of_as_many_rows() -> None:
    made = chain("visual_bert")
    alone = made.task.encode(made.subject, made.rows[:1]).inputs
    assert {len(one) for one in alone.values()} == {1}
    assert torch.equal(alone["visual_embeds"], made.inputs["visual_embeds"][:1])


def test_embeddings_of_sentences_have_length_one_and_ignore_padding() -> None:
    made = chain("all-minilm-l6-v2")
    together = made.answers()
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for row, embedding in zip(made.rows, together, strict=True):
        assert np.allclose(made.answers([row])[0], embedding, atol=1e-4)
    stated = {text for pair in made.task.paraphrases() for text in pair}  # type: ignore[attr-defined]
    assert {row.text for row in made.rows} == stated


@pytest.mark.parametrize("name", ["gpt2", "llama", "bart", "t5"])
def test_a_row_is_continued_alone_as_in_a_batch(name: str) -> None:
    made = chain(name)
    assert [made.answers([row])[0] for row in made.rows] == made.answers()


@pytest.mark.parametrize(
    ("name", "first"), [("t5", "<pad>"), ("bart", "</s>"), ("marian", "<pad>"), ("mbart", "fr_XX"), ("nllb", "</s>")]
)
def test_the_decoder_reads_the_target_one_step_later(name: str, first: str) -> None:
    made = chain(name)
    tokenizer = tokenizer_of(made.subject)
    ids, mask = made.inputs["decoder_input_ids"], made.inputs["decoder_attention_mask"]
    assert len(set(mask.sum(1).tolist())) > 1
    assert tokenizer.convert_ids_to_tokens(ids[:, 0].tolist()) == [first] * len(made.rows)
    for row, target, real in zip(made.rows, ids, mask, strict=True):
        labels = tokenizer(text_target=row.pair)["input_ids"]
        assert target[real.bool()].tolist()[1:] == labels[:-1]


def test_generation_begins_with_the_target_language() -> None:
    made = chain("nllb")
    source = {name: value for name, value in made.inputs.items() if not name.startswith("decoder_")}
    code = tokenizer_of(made.subject).convert_tokens_to_ids("fra_Latn")
    seen: dict[str, Any] = {}
    generate = made.model.generate

    def spy(**arguments: Any) -> torch.Tensor:
        seen["written"] = generate(**arguments)
        return torch.as_tensor(seen["written"])

    made.model.generate = spy
    try:
        made.answers()
    finally:
        del made.model.generate
    assert seen["written"][:, 1].tolist() == [code] * len(source["input_ids"])


def test_the_first_token_is_global_where_attention_is_local() -> None:
    mask = chain("led").inputs["global_attention_mask"]
    assert mask[:, 0].tolist() == [1] * len(mask) and int(mask.sum()) == len(mask)


@pytest.mark.parametrize("name", ["bigbird", "bigbird-pegasus"])
def test_texts_are_long_enough_for_block_sparse_attention(name: str) -> None:
    made = chain(name)
    with torch.no_grad():
        made.model(**made.inputs)
    kinds = {module.attention_type for module in made.model.modules() if hasattr(module, "attention_type")}
    assert kinds == {"block_sparse"}


def test_rows_speak_through_adapters_of_several_languages() -> None:
    made = chain("xmod")
    assert made.inputs["lang_ids"].tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("name", ["seamless-m4t", "seamless-m4t-v2"])
def test_a_translation_is_spoken(name: str) -> None:
    made = chain(name)
    sounds = made.answers()
    assert len(sounds) == len(made.rows)
    assert all(sound.ndim == 1 and sound.size > 0 and np.isfinite(sound).all() for sound in sounds)


def test_tasks_are_found_by_name_and_a_wrong_name_is_told_the_right_ones() -> None:
    assert task_named("fill-mask") in tasks()
    assert len({name for task in tasks() for name in task.names}) >= len(tasks())
    with pytest.raises(UnknownName, match="fill-mask"):
        task_named("fill-masks")


def test_every_tracked_model_has_a_task() -> None:
    # of a task in another library, there is nothing to encode
    names = {model.task for model in load_catalog().models.values() if not model.needs}
    assert all(task_named(name) for name in names)
