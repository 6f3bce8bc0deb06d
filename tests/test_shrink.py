"""Tiny configurations: small, and still the architecture that they came from."""

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING

from proofbook.catalog import Category, Model, load_catalog
from proofbook.subject.full_size import full_parameters
from proofbook.subject.shrink import full_config, shrink, tiny_config
from proofbook.subject.shrink_depth import cut, kept_layers, stages
from proofbook.subject.shrink_relations import apportion
from proofbook.subject.shrink_rules import Role, head_dim, heads, role_of, token, width
from proofbook.verdict import Blocked

MODELS = load_catalog().models
# its reason is in its entry: generation counts by full-size vocabularies
LARGE = {"bark": 7e6}


def entry(model_type: str, model_class: str, **fields: object) -> Model:
    common = {"name": "any", "category": Category.DECODER_ONLY, "task": "text-generation", "hub_id": "any/any"}
    return Model.model_validate({**common, "model_type": model_type, "class": model_class, **fields})


@pytest.mark.parametrize("name", MODELS)
def test_a_tracked_model_is_tiny_or_names_what_it_lacks(name: str) -> None:
    from proofbook.subject.draw import model_class

    spec = MODELS[name]
    try:
        kind, config = model_class(spec), tiny_config(spec)
        with torch.device("meta"):
            model = kind(config)
    except Blocked as blocked:
        assert blocked.name and blocked.remedy
        return
    except ImportError as error:
        pytest.skip(str(error).strip().splitlines()[0])
    assert sum(parameter.numel() for parameter in model.parameters()) < LARGE.get(name, 2e6)


def test_equal_widths_of_two_towers_stay_equal() -> None:
    config = shrink(CONFIG_MAPPING["qwen2_5_vl"](vision_config={"out_hidden_size": 8192}))
    assert config.vision_config.out_hidden_size == config.text_config.hidden_size < 100


@pytest.mark.parametrize(("name", "shared"), [("llama-3", 2), ("llama", 4), ("gemma3", 1)])
def test_grouped_heads_stay_grouped(name: str, shared: int) -> None:
    config = tiny_config(MODELS[name])
    assert (config.num_attention_heads, config.num_key_value_heads) == (4, shared)


def test_a_head_keeps_its_relation_to_the_hidden_width() -> None:
    full, tiny = full_config(MODELS["gemma"]), tiny_config(MODELS["gemma"])
    assert full.head_dim * full.num_attention_heads > full.hidden_size
    assert tiny.head_dim * tiny.num_attention_heads > tiny.hidden_size
    mamba = shrink(CONFIG_MAPPING["bamba"]())
    assert mamba.mamba_n_heads * mamba.mamba_d_head == mamba.mamba_expand * mamba.hidden_size


def test_windows_are_shorter_than_inputs() -> None:
    assert tiny_config(MODELS["mistral"]).sliding_window == 8
    assert set(tiny_config(MODELS["led"]).attention_window) == {8}


def test_all_layers_of_another_kind_stay_all() -> None:
    roles = {name: role_of(name) for name in ("num_hidden_layers", "num_kv_shared_layers")}
    whole = cut({"num_hidden_layers": 30, "num_kv_shared_layers": 30}, roles)
    some = cut({"num_hidden_layers": 30, "num_kv_shared_layers": 10}, roles)
    assert whole["num_kv_shared_layers"] == whole["num_hidden_layers"]
    assert some["num_kv_shared_layers"] == 1


def test_as_much_of_a_wide_head_is_rotated() -> None:
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.25}
    wide = CONFIG_MAPPING["glm"](hidden_size=1024, num_attention_heads=2, head_dim=512, rope_parameters=dict(rope))
    assert shrink(wide).rope_parameters["partial_rotary_factor"] == 0.25


def test_experts_stay_a_choice() -> None:
    config = tiny_config(MODELS["mixtral"])
    assert (config.num_local_experts, config.num_experts_per_tok) == (4, 2)
    grouped = shrink(CONFIG_MAPPING["deepseek_v3"]())
    assert grouped.n_routed_experts > grouped.num_experts_per_tok > 1
    assert grouped.n_group > grouped.topk_group
    assert grouped.n_shared_experts == 1


@pytest.mark.parametrize("model_type", ["gemma3_text", "qwen3_next", "jamba", "llama4_text", "recurrent_gemma"])
def test_every_kind_of_layer_stays(model_type: str) -> None:
    def kinds(config: object) -> set[str]:
        return set(getattr(config, "layer_types", None) or config.layers_block_type)

    full = CONFIG_MAPPING[model_type]()
    tiny = shrink(full)
    assert len(kinds(full)) > 1
    assert kinds(tiny) == kinds(full)
    assert tiny.num_hidden_layers <= 4


def test_stages_lose_layers_and_stay() -> None:
    config = tiny_config(MODELS["swin"])
    assert list(config.depths) == [2, 1, 2, 1]
    assert len(config.num_heads) == 4
    side, window = config.image_size // config.patch_size, config.window_size
    assert side > window  # else windows never shift
    assert side // 8 == window  # as in the checkpoint, where the last grid is one window


def test_windows_that_need_padding_still_do() -> None:
    full, tiny = full_config(MODELS["sam"]).vision_config, tiny_config(MODELS["sam"]).vision_config
    for config in (full, tiny):
        grid = config.image_size // config.patch_size
        assert grid > config.window_size and grid % config.window_size


def test_strides_and_kernels_stay() -> None:
    full, tiny = full_config(MODELS["wav2vec2"]), tiny_config(MODELS["wav2vec2"])
    assert tiny.conv_kernel == list(full.conv_kernel)
    assert tiny.conv_stride == list(full.conv_stride)
    assert len(tiny.conv_dim) == len(full.conv_dim)


def test_backbones_give_as_many_feature_maps() -> None:
    config = tiny_config(MODELS["depth-anything"])
    assert len(config.backbone_config.out_indices) == 4
    assert max(config.backbone_config.out_indices) == config.backbone_config.num_hidden_layers


def test_rotary_sections_fill_half_a_head() -> None:
    config = tiny_config(MODELS["qwen2-vl"]).text_config
    width_of_head = config.hidden_size // config.num_attention_heads
    assert sum(config.rope_parameters["mrope_section"]) == width_of_head // 2


def test_rope_scaling_starts_within_the_positions() -> None:
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    full = CONFIG_MAPPING["llama"](
        max_position_embeddings=131072, rope_parameters={**rope, "original_max_position_embeddings": 8192}
    )
    tiny = shrink(full)
    original = tiny.rope_parameters["original_max_position_embeddings"]
    assert tiny.max_position_embeddings // original == 131072 // 8192


def test_special_tokens_lie_within_the_vocabulary() -> None:
    config = tiny_config(MODELS["llama-3"])
    assert config.vocab_size == 1024
    assert 0 <= config.bos_token_id < config.eos_token_id < config.vocab_size


def test_a_resnet_of_timm_becomes_our_own() -> None:
    assert full_config(MODELS["detr"]).backbone_config.model_type == "timm_backbone"
    backbone = tiny_config(MODELS["detr"]).backbone_config
    assert backbone.model_type == "resnet"
    assert backbone.out_indices == [1, 2, 3, 4]


def test_the_entrys_own_words_come_last() -> None:
    tiny = {"reason": "to be seen in the test", "config": {"vision_config": {"num_hidden_layers": 5}}}
    config = tiny_config(entry("llava", "LlavaForConditionalGeneration", tiny=tiny))
    assert config.vision_config.num_hidden_layers == 5
    assert config.vision_config.hidden_size < 100


def test_a_nested_mapping_starts_from_what_the_class_gives_that_part() -> None:
    spec = entry("llava", "LlavaForConditionalGeneration", config={"vision_config": {"num_hidden_layers": 3}})
    assert full_config(spec).vision_config.image_size == full_config(MODELS["llava"]).vision_config.image_size == 336
    assert full_config(spec).vision_config.num_hidden_layers == 3
    assert full_config(MODELS["llava-next"]).text_config.model_type == "mistral"


@pytest.mark.parametrize("where", ["config", "tiny"])
def test_a_name_that_the_class_does_not_know_is_refused(where: str) -> None:
    wrong = {"hidden_sise": 8}
    given = {"config": wrong} if where == "config" else {"tiny": {"reason": "a mistake to find", "config": wrong}}
    with pytest.raises(ValueError, match=r"LlamaConfig has no 'hidden_sise'; did you mean hidden_size"):
        tiny_config(entry("llama", "LlamaForCausalLM", **given))


def test_an_unknown_model_type_is_blocked() -> None:
    with pytest.raises(Blocked, match="model type no-such-type") as raised:
        full_config(entry("no-such-type", "NoSuchModel"))
    assert raised.value.remedy
    with pytest.raises(Blocked, match="transformers<5") as raised:
        full_config(entry("no-such-type", "NoSuchModel", needs=["transformers<5"]))
    assert raised.value.name == "transformers<5"


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("bert", 109.5),  # 110 M with its pooler
        ("gpt2", 124.4),
        ("llama", 6738.4),
        ("llama-3", 8030.3),
        ("mixtral", 46702.8),
        ("detr", 41.5),
        ("whisper", 37.8),
    ],
)
def test_full_size(name: str, millions: float) -> None:
    assert full_parameters(MODELS[name]) / 1e6 == pytest.approx(millions, abs=0.05)


@given(st.integers(0, 20), st.integers(0, 20))
def test_widths_that_divide_still_divide(a: int, b: int) -> None:
    for shrunk in (width, head_dim, heads):
        small, large = sorted((shrunk(2**a), shrunk(2**b)))
        assert large % small == 0


@given(st.integers(1, 100_000), st.integers(1, 100_000))
def test_maps_are_monotone(a: int, b: int) -> None:
    for shrunk in (width, head_dim, heads):
        assert (shrunk(a) <= shrunk(b)) or a > b
        assert 1 <= shrunk(a) <= a


@given(st.integers(1, 300_000), st.data())
def test_tokens_stay_within_and_keep_their_distance_from_the_nearer_end(size: int, data: st.DataObject) -> None:
    n = data.draw(st.integers(0, size - 1))
    small = min(size, 1024)
    assert 0 <= token(n, size, small) < small
    assert token(min(n, 9), size, small) == min(n, 9) or size <= 2 * 9
    assert token(size - 1, size, small) == small - 1


@given(st.lists(st.sampled_from("abc"), min_size=3, max_size=60), st.data())
def test_layers_that_stay_show_each_kind(kinds: list[str], data: st.DataObject) -> None:
    named = data.draw(st.lists(st.integers(0, len(kinds) - 1), max_size=4, unique=True))
    kept = kept_layers(len(kinds), [kinds], [named])
    assert {kinds[index] for index in kept} == set(kinds)
    assert set(named) <= set(kept)
    assert len(named) == len(kinds) or set(kept) - set(named)
    assert list(kept) == sorted(set(kept)) and len(kept) >= 2


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8))
def test_a_stage_never_grows_nor_goes(depths: list[int]) -> None:
    small = stages(depths)
    assert len(small) == len(depths)
    assert all(min(1, n) <= few <= min(2, n) for few, n in zip(small, depths, strict=True))


@given(st.lists(st.integers(1, 200), min_size=1, max_size=6), st.integers(6, 64))
@example([100, 100, 1, 1, 1, 1], 6)
def test_parts_fill_the_whole(parts: list[int], total: int) -> None:
    small = apportion(parts, total)
    assert sum(small) == total
    assert min(small) >= 1


def test_the_axes_of_positions_share_a_head_in_the_proportions_of_the_code() -> None:
    rope = full_config(entry("glm4v", "Glm4vForConditionalGeneration")).text_config.rope_parameters
    assert rope["mrope_section"] == [16, 24, 24]  # of 64 pairs of a head of 128, where the code says 8, 12 and 12
    small = tiny_config(entry("qwen2_5_vl", "Qwen2_5_VLForConditionalGeneration")).text_config
    assert sum(small.rope_parameters["mrope_section"]) == small.hidden_size // small.num_attention_heads // 2


def test_a_head_that_the_class_leaves_open_has_its_share_of_the_hidden_width() -> None:
    config = full_config(entry("ministral", "MinistralForCausalLM"))
    assert config.head_dim == config.hidden_size // config.num_attention_heads


def test_a_model_that_takes_pictures_has_the_part_that_reads_them() -> None:
    assert full_config(entry("gemma4", "Gemma4ForConditionalGeneration")).vision_config is not None
    assert full_config(entry("gemma4", "Gemma4ForCausalLM")).vision_config is None


def test_an_oblong_picture_keeps_its_proportions() -> None:
    assert list(tiny_config(load_catalog().model("vitpose_backbone")).image_size) == [64, 48]
    assert list(tiny_config(load_catalog().model("seggpt")).image_size) == [64, 32]


def test_a_patch_that_is_the_whole_image_of_a_part_shrinks_with_it() -> None:
    tiny = tiny_config(load_catalog().model("depth_pro"))
    assert tiny.patch_size == tiny.patch_model_config.image_size < 100


def test_a_configuration_is_as_its_file_would_give_it_back() -> None:
    assert isinstance(tiny_config(load_catalog().model("dpt")).neck_hidden_sizes, list)


def test_a_stack_that_only_a_list_of_kinds_tells_is_cut() -> None:
    kinds = ["linear", "moe", "linear", "full"] * 9
    fields = {"layers_block_type": kinds}
    small = cut(fields, {"layers_block_type": Role.KEEP})["layers_block_type"]
    assert len(small) < 6
    assert set(small) == set(kinds)
