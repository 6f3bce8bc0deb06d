"""Drawn weights: reproducible, each by its name, and such that everything matters."""

import copy
import importlib.util
import random

import numpy as np
import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, MarianConfig, MarianMTModel

from chains import chain
from proofbook.catalog import Weights, load_catalog
from proofbook.checks.trial import Trial
from proofbook.checks.truth import Float64
from proofbook.subject.draw import build_model, draw_parameters, seeded
from proofbook.subject.shrink import tiny_config
from proofbook.verdict import Blocked

CATALOG = load_catalog()
MODELS = CATALOG.models


def built(name: str, seed: int = 0) -> nn.Module:
    return build_model(MODELS[name], tiny_config(MODELS[name]), seed)


@pytest.mark.parametrize("name", ["bert", "mamba", "swin", "wav2vec2", "mixtral"])
def test_the_seed_alone_decides(name: str) -> None:
    first, again, other = (built(name, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(tensor, again[key]) for key, tensor in first.items())
    assert any(not torch.equal(tensor, other[key]) for key, tensor in first.items())


def test_the_callers_random_states_are_untouched() -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(()).item(), float(np.random.rand()), random.random()

    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    expected = draw()
    torch.manual_seed(1), np.random.seed(1), random.seed(1)
    built("bigbird")
    assert draw() == expected


def test_a_tensor_is_drawn_by_its_name_whatever_stands_beside_it() -> None:
    class Pair(nn.Module):
        def __init__(self, *names: str) -> None:
            super().__init__()
            for name in names:
                self.add_module(name, nn.Linear(4, 4))

    with seeded(0):
        alone, beside = Pair("b"), Pair("a", "b")
    draw_parameters(alone, seed=5)
    draw_parameters(beside, seed=5)
    assert torch.equal(alone.b.weight, beside.b.weight)
    assert not torch.equal(beside.a.weight, beside.b.weight)


def test_evaluation_mode_and_float32() -> None:
    model = built("bert")
    assert not model.training
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_padding_rows_are_zero_and_tied_weights_tied() -> None:
    model = built("bert")
    words = model.get_input_embeddings()
    assert not words.weight[words.padding_idx].any()
    assert model.get_output_embeddings().weight is words.weight


def test_a_formula_stays() -> None:
    config = MarianConfig(
        vocab_size=64, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, pad_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    model = MarianMTModel(config)
    before = model.model.encoder.embed_positions.weight.clone()
    draw_parameters(model, seed=0)
    assert torch.equal(model.model.encoder.embed_positions.weight, before)
    decay = built("mamba").backbone.layers[0].mixer.A_log
    assert torch.allclose(decay.mean(0).exp(), torch.arange(1.0, decay.shape[1] + 1), rtol=0.15)


def test_norms_are_spread_and_statistics_are_not_neutral() -> None:
    model = built("efficientnet")
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        assert norm.running_var.min() > 0.1
        assert norm.running_mean.std() > 0.02
    weights = torch.cat([norm.weight.detach() for norm in norms])
    assert weights.mean() == pytest.approx(1, abs=0.1)  # which its own initialiser draws around 0
    assert weights.std() > 0.1
    unit = [parameter for name, parameter in built("gemma").named_parameters() if name.endswith("layernorm.weight")]
    assert torch.cat(unit).detach().mean() == pytest.approx(0, abs=0.1)  # of norms that add 1 themselves


def test_the_statistics_of_batch_norms_are_those_of_what_comes_in() -> None:
    trial = Trial(MODELS["efficientnet"], CATALOG.target("cpu"), Weights.TINY, 0, CATALOG.tolerances)
    seen = list[tuple[float, float]]()

    def look(norm: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        variance, mean = torch.var_mean(args[0], (0, 2, 3), correction=0)
        off = ((mean - norm.get_buffer("running_mean")) / norm.get_buffer("running_var").sqrt()).square().mean().sqrt()
        seen.append((float(off), float((variance / norm.get_buffer("running_var")).median())))

    for module in trial.model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(look)
    trial.run()
    assert len(seen) > 10
    for off, ratio in seen:
        assert off < 1
        assert 0.5 < ratio < 2


@pytest.mark.parametrize("seed", [0, 7])
def test_many_entries_of_a_codebook_are_used(seed: int) -> None:
    trial = Trial(MODELS["encodec"], CATALOG.target("cpu"), Weights.TINY, seed, CATALOG.tolerances)
    for level in trial.outputs["audio_codes"][0].unbind(1):
        assert level.unique().numel() > 30


def test_a_last_layer_behind_rectifiers_is_not_shut() -> None:
    for seed in range(17, 20):
        trial = Trial(MODELS["depth-anything"], CATALOG.target("cpu"), Weights.TINY, seed, CATALOG.tolerances)
        depth = trial.outputs["predicted_depth"]
        assert 0.02 < float((depth > 0).double().mean()) < 0.98


def test_gates_and_layer_scales_are_open() -> None:
    assert built("mllama").state_dict()["model.language_model.layers.1.cross_attn_attn_gate"].abs().min() > 0.1
    scales = [p for name, p in built("beit").named_parameters() if "lambda" in name]
    assert scales and all(scale.abs().min() > 0.05 for scale in scales)


def test_attention_is_peaked_and_not_saturated() -> None:
    config = BertConfig(
        vocab_size=128, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        attn_implementation="eager",
    )  # fmt: skip
    with seeded(0):
        drawn, default = BertModel(config).eval(), BertModel(config).eval()
    draw_parameters(drawn, seed=0)
    ids = torch.randint(1, 128, (4, 32), generator=torch.Generator().manual_seed(0))
    for model, low, high in ((drawn, 4 / 32, 0.7), (default, 1 / 32, 1.5 / 32)):
        with torch.no_grad():
            attentions = model(ids, output_attentions=True).attentions
        assert all(low <= attention.amax(-1).mean() <= high for attention in attentions)


@pytest.mark.parametrize(
    "name",
    ["bert", "llama-3", "gemma2", "mixtral", "mamba", "t5", "vit", "swin", "resnet", "efficientnet", "hubert", "clip"],
)
def test_outputs_are_of_a_good_scale_and_differ_by_row(name: str) -> None:
    outputs = chain(name).outputs()
    logits = outputs.logits if "logits" in outputs else outputs.logits_per_image
    assert torch.isfinite(logits).all()
    assert 0.1 < logits.std() < 20
    assert (logits[0] - logits[1]).std() > 0.005 * logits.std()  # hundreds of times what float32 may be off by


# softmax takes no notice of what all keys have in common; pooled outputs and masks have no part in these outputs
_SILENT = ("key.bias", "k_proj.bias", "pooler", "mask_token", "masked_spec_embed", "mask_emb")


@pytest.mark.parametrize("name", ["bert", "llama-3", "gemma2", "mamba", "bart", "vit", "swin", "mobilenet-v2", "sew"])
def test_every_parameter_moves_the_outputs(name: str) -> None:
    made = chain(name)
    model = copy.deepcopy(made.model).double()
    model.set_attn_implementation("eager")
    inputs = {
        key: value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value
        for key, value in made.encoded.inputs.items()
    }
    with Float64():
        logits = model(**copy.deepcopy(inputs)).logits
    probe = torch.randn(logits.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    (logits * probe).sum().backward()
    scale = float(logits.detach().norm())
    for key, parameter in model.named_parameters():
        if parameter.requires_grad and not any(word in key for word in _SILENT):
            assert parameter.grad is not None, key
            influence = float((parameter.grad * parameter.detach().abs().clamp_min(0.05)).norm())
            assert influence > 1e-4 * scale, key


def test_a_class_that_needs_another_package_is_blocked() -> None:
    with pytest.raises(Blocked) as raised:
        built("layoutlmv2")
    assert raised.value.name == "detectron2"
    spec = MODELS["llama"].model_copy(update={"model_class": "NoSuchModel"})
    with pytest.raises(Blocked, match="NoSuchModel"):
        build_model(spec, tiny_config(MODELS["llama"]), 0)


def test_a_package_that_transformers_asks_for_is_named() -> None:
    if importlib.util.find_spec("timm"):
        pytest.skip("timm is installed")
    spec = MODELS["vit"].model_copy(
        update={"model_type": "timm_wrapper", "model_class": "TimmWrapperModel", "config": {}}
    )
    with pytest.raises(Blocked) as raised:
        build_model(spec, tiny_config(spec), 0)
    assert raised.value.name == "timm"
    assert "pip install" in raised.value.remedy


def test_branches_without_a_norm_are_a_fraction_of_their_trunk() -> None:
    class ResidualUnit(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(64, 64, 3)

    model = nn.Sequential(ResidualUnit(), nn.Conv1d(64, 64, 3))
    draw_parameters(model, 0)
    branch, trunk = (float(model.get_parameter(name).detach().std()) for name in ("0.conv.weight", "1.weight"))
    assert branch / trunk == pytest.approx(0.5, rel=0.05)


def test_what_mixes_the_streams_of_hyper_connections_sums_to_about_one() -> None:
    class HyperConnection(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fn = nn.Parameter(torch.zeros(24, 256))

    model = HyperConnection()
    draw_parameters(model, 0)
    assert 0.5 < float((torch.randn(500, 256) @ model.fn.detach().T).std()) < 3
