"""Variants are derived from a configuration and its code, build, differ, and come back from their text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proofbook.batch.plan import make_plan
from proofbook.batch.variants import Extent, variants_for
from proofbook.catalog import Switched, load_catalog
from proofbook.subject.shrink import tiny_config
from proofbook.subject.variants import MOST, parsed, switches, variants_of, with_variant, written

CATALOG = load_catalog()


def test_switches_are_those_that_the_code_reads() -> None:
    found = switches(CATALOG.model("llama"))
    assert found["num_key_value_heads"] == [1, 2]
    assert found["attention_bias"] == [True]
    assert {rope["rope_type"] for rope in found["rope_parameters"]} == {"linear", "dynamic", "yarn", "llama3"}
    assert not {"use_cache", "is_encoder_decoder", "attention_dropout"} & set(found)


def test_windows_and_patterns_of_layers_are_switches() -> None:
    found = switches(CATALOG.model("gemma2"))
    assert found["sliding_window"] == [3]
    assert found["layer_types"] == [["full_attention", "sliding_attention"]]


@pytest.mark.parametrize("model", ["falcon", "t5", "clip"])
@pytest.mark.parametrize("extent", ["few", "many"])
def test_variants_cover_every_alternative_and_build(model: str, extent: str) -> None:
    spec = CATALOG.model(model)
    variants = variants_of(spec, extent)
    assert 0 < len(variants) <= MOST[extent]
    assert len(set(variants)) == len(variants)
    taken = {
        (name, json.dumps(value, sort_keys=True)) for variant in variants for name, value in parsed(variant).items()
    }
    wanted = {(name, json.dumps(value, sort_keys=True)) for name, values in switches(spec).items() for value in values}
    assert taken <= wanted
    assert len(variants) == MOST[extent] or {name for name, _ in taken} == {name for name, _ in wanted}
    configs = [tiny_config(with_variant(spec, variant)).to_json_string() for variant in ("", *variants)]
    assert len(set(configs)) == len(configs)


def test_a_variant_keeps_what_the_entry_says() -> None:
    spec = CATALOG.model("paligemma")
    (name, values), *_ = switches(spec).items()
    changed = tiny_config(with_variant(spec, written({name: values[0]}))).to_dict()
    plain = tiny_config(spec).to_dict()
    first = name.split(".")[0]
    assert changed[first] != plain[first]
    assert {key for key in plain if plain[key] != changed[key]} == {first}


def entered(when: dict[str, object], **more: object) -> Switched:
    fault = {"check": "heads", "reason": "a reason of some length", "issue": "https://e.org", "expires": "2099-01-01"}
    return Switched.model_validate({"name": "some", "when": when, "known_faults": [fault], **more})


@pytest.mark.parametrize(
    ("when", "types", "variant", "holds"),
    [
        ({"rope_parameters.rope_type": "yarn"}, [], 'rope_parameters={"factor": 2.0, "rope_type": "yarn"}', True),
        ({"rope_type": "yarn"}, ["llama"], 'text_config.rope_parameters={"rope_type": "yarn"}', True),
        ({"rope_type": "yarn"}, ["llama"], 'rope_parameters={"rope_type": "linear"}', False),
        ({"type": "yarn"}, [], 'rope_parameters={"rope_type": "yarn"}', False),
        ({"attention_bias": True, "mlp_bias": True}, [], "attention_bias=true", False),
        ({"attention_bias": True}, ["bert"], "attention_bias=true", False),
        ({"attention_bias": True}, [], "", False),
    ],
)
def test_what_shows_in_variants_holds_where_all_its_switches_do(
    when: dict[str, object], types: list[str], variant: str, holds: bool
) -> None:
    spec = with_variant(CATALOG.model("llama"), variant, [entered(when, types=types, idle={"bias": "a good reason"})])
    assert ("a reason of some length" in {fault.reason for fault in spec.known_faults}) is holds
    assert ("bias" in spec.idle) is holds


def test_a_switch_may_hide_what_the_entry_knows_of() -> None:
    spec = CATALOG.model("marian")
    assert {fault.shows for fault in spec.known_faults} == {"always"}
    assert {fault.shows for fault in with_variant(spec, "scale_embedding=false").known_faults} == {"sometimes"}
    other = CATALOG.model("idefics")
    assert {one.shows for one in other.idle.values()} == {"always"}
    assert {one.shows for one in with_variant(other, "tie_word_embeddings=true").idle.values()} == {"sometimes"}


def test_what_shows_in_variants_is_of_types_that_transformers_has() -> None:
    types = {model.model_type for model in CATALOG.models.values()}
    assert {kind for one in CATALOG.switched for kind in one.types} <= types


@given(
    st.dictionaries(
        st.from_regex(r"[a-z_]+(\.[a-z_]+)?", fullmatch=True),
        st.booleans() | st.integers() | st.text(alphabet="abc_ =").map(str) | st.lists(st.integers()),
        min_size=1,
    )
)
def test_what_is_written_is_read_back(variant: dict[str, object]) -> None:
    assert parsed(written(variant)) == variant


@pytest.mark.parametrize("text", ["tie", "tie=", "tie=maybe", "=1", "a b=1", "x=1;"])
def test_what_is_not_a_variant_is_named(text: str) -> None:
    with pytest.raises(ValueError, match="is not NAME=VALUE"):
        parsed(text)


def test_the_variants_of_planned_cases_come_from_their_environment() -> None:
    plan = make_plan(CATALOG, run="", targets=["cpu"], models=["clip"])
    assert variants_for(plan.cases, Extent.FEW) == {"clip": variants_of(CATALOG.model("clip"), "few")}
