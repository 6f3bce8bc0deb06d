"""Faults of weights: not loaded, not tied, not saved as they are."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from proofbook.checks.registry import NotApplicable
from proofbook.checks.trial import Trial
from proofbook.selftest.planting import called, having, replaced, spoiled
from proofbook.selftest.register import Reach, fault

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d)


@contextmanager
def _set(parameter: Tensor, value: Tensor) -> Iterator[None]:
    right = parameter.detach().clone()
    with torch.no_grad():
        parameter.copy_(value)
    try:
        yield
    finally:
        with torch.no_grad():
            parameter.copy_(right)


@fault(Reach.TARGET)
def weight_not_loaded(trial: Trial) -> Iterator[None]:
    """One layer keeps the weights that it was initialised with."""
    layers = [module for _, module in called(trial, *_LAYERS)]
    weight = layers[len(layers) // 2].weight
    assert isinstance(weight, Tensor)
    noise = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    with _set(weight, noise.to(weight) * weight.std()):
        yield


@fault(Reach.TARGET)
def bias_not_loaded(trial: Trial) -> Iterator[None]:
    """The last layer with a bias has none."""
    biases = [module.bias for _, module in called(trial, *_LAYERS, nn.LayerNorm) if module.bias is not None]
    if not biases:
        raise NotApplicable("no layer that it runs through has a bias")
    bias = biases[-1]
    assert isinstance(bias, Tensor)
    with _set(bias, torch.zeros_like(bias)):
        yield


@fault(Reach.LIBRARY)
def key_missing_in_checkpoint(trial: Trial) -> Iterator[None]:
    """The checkpoint lacks one tensor, which the library then initialises."""
    file = trial.folder / "model.safetensors"
    if not file.is_file():
        raise NotApplicable("the checkpoint is not one file of tensors")
    tensors = load_file(file)
    del tensors[list(tensors)[len(tensors) // 2]]
    save_file(tensors, file, {"format": "pt"})
    yield


@fault(Reach.TARGET)
def tying_lost(trial: Trial) -> Iterator[None]:
    """The output embedding is no longer the input embedding, and keeps weights of its own."""
    head = trial.model.get_output_embeddings()
    if head is None or sum(one is head.weight for one in trial.model.state_dict(keep_vars=True).values()) < 2:
        raise NotApplicable("its output embedding is not tied")
    right = head.weight
    head.weight = nn.Parameter(right.detach().flip(0).clone())
    try:
        yield
    finally:
        head.weight = right


@fault(Reach.TARGET)
def stale_buffer(trial: Trial) -> Iterator[None]:
    """A buffer that no checkpoint holds has not the value that the configuration gives it."""
    kept = set(trial.model.state_dict())
    prefix = f"{trial.encoded.module}." if trial.encoded.module else ""
    buffers = [
        (owner, name)
        for owner, module in called(trial, nn.Module)
        for name, buffer in module.named_buffers(recurse=False)
        if f"{prefix}{owner}.{name}".replace("..", ".") not in kept
        # a rotary embedding keeps a copy of its frequencies for the day on which they change
        if buffer.is_floating_point() and buffer.numel() > 1 and not name.startswith("original")
    ]
    if not buffers:
        raise NotApplicable("has no buffer outside the checkpoint")
    owner, name = buffers[0]

    @contextmanager
    def stale(module: nn.Module) -> Iterator[None]:
        buffer = module.get_buffer(name)
        with _set(buffer, buffer.roll(1)):
            yield

    with spoiled(trial, [owner], stale):
        yield


@fault(Reach.LIBRARY)
def saved_in_half(trial: Trial) -> Iterator[None]:
    """A tensor loses half of its digits when the model is saved."""

    def make(save: Any) -> Any:
        def lossy(self: PreTrainedModel, folder: Any, **kwargs: Any) -> None:
            weight = next(one for one in reversed(list(self.parameters())) if one.dim() > 1)
            with _set(weight, weight.detach().bfloat16().to(weight.dtype)):
                save(self, folder, **kwargs)

        return lossy

    trial.folder  # noqa: B018  the checkpoint itself is written before
    if trial.target.dtype == "bfloat16":
        raise NotApplicable("the weights are in bfloat16 already")
    with replaced(PreTrainedModel, "save_pretrained", make):
        yield


@fault(Reach.TARGET)
def epsilon_of_norms_wrong(trial: Trial) -> Iterator[None]:
    """Norms add a thousandth to the variance instead of less than a hundredth of that."""
    wrong = dict.fromkeys(("eps", "variance_epsilon", "epsilon"), 1e-3)
    names = [
        name
        for name, module in called(trial, nn.Module)
        if any(isinstance(right := getattr(module, one, None), float) and right < 1e-4 for one in wrong)
    ]
    if not names:
        raise NotApplicable("has no norm with an epsilon of its own")
    with spoiled(trial, names, partial(having, wrong)):
        yield
