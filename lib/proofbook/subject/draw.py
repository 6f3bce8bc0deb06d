"""Parameters drawn so that they carry signal.

The library's own initialisers leave attention almost uniform, gates shut and biases zero, so that a wrong mask or a
dropped bias changes nothing visible. Here every parameter starts from the library's value, which keeps structured
ones (decay rates, rotary tables) valid, and is then drawn wide enough to matter: weights keep the variance of what
goes through them, queries and keys make attention peaked but not saturated, scales and biases are spread.
"""

import hashlib
import math
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from proofbook.catalog import Model
from proofbook.subject.requirements import check_needs
from proofbook.verdict import Blocked

# standard deviations, in units of what the parameter is added to or multiplied with
BIAS, TOKEN, NORM, JITTER = 0.1, 0.5, 0.2, 0.05
# what queries and keys are scaled by: the standard deviation of scores is about its square
PEAK = 1.4


def model_class(spec: Model) -> type[PreTrainedModel]:
    """The class of the entry.

    Raises:
        Blocked: the installed libraries don't have it.
    """
    check_needs(spec)
    found = getattr(transformers, spec.model_class, None)
    if found is None:
        raise Blocked(
            spec.model_class,
            f"transformers {transformers.__version__} has no class of this name",
            "install a release that has it, or correct the entry's class",
        )
    return found  # type: ignore[no-any-return]


def build_model(spec: Model, config: PreTrainedConfig, seed: int) -> PreTrainedModel:
    """The entry's class, built from a configuration on the CPU in float32, drawn from a seed, in evaluation mode.

    The random states of torch, NumPy and Python are as they were before the call.
    """
    kind = model_class(spec)
    with seeded(seed), library_blocks(spec):
        model = kind(config)
    draw_parameters(model, seed)
    return model.eval()


@contextmanager
def library_blocks(spec: Model) -> Iterator[None]:
    """Turns the error that transformers raises where an optional package is absent into :class:`Blocked`."""
    try:
        yield
    except ImportError as error:
        first = " ".join(str(error).split())
        raise Blocked(error.name or spec.model_class, first[:200], "Install that package") from error


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Random states of torch, NumPy and Python that start from a seed; restored at the end."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


@torch.no_grad()
def draw_parameters(model: nn.Module, seed: int) -> None:
    """Draw every parameter, and every buffer that a checkpoint would fill, of a freshly initialised model, in place.

    Each tensor has a generator of its own, seeded by ``seed`` and its name, so that its draw depends on no other.
    Tied parameters are drawn once, under their first name; frozen ones stay as they are.
    """
    owners = dict(model.named_modules())
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.is_floating_point() and parameter.numel():
            owner, _, attribute = name.rpartition(".")
            parameter.copy_(_drawn(owners[owner], owners, owner, attribute, parameter, _generator(seed, name)))
    persistent = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in persistent and buffer.is_floating_point() and buffer.numel():
            owner, _, attribute = name.rpartition(".")
            buffer.copy_(_drawn_buffer(owners[owner], attribute, buffer, _generator(seed, name)))


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


def _drawn(
    owner: nn.Module, owners: dict[str, nn.Module], path: str, attribute: str, start: Tensor, generator: torch.Generator
) -> Tensor:
    noise = torch.randn(start.shape, generator=generator)
    if _is_norm(owner):
        return start + (BIAS if "bias" in attribute else NORM) * noise
    if attribute.endswith("bias") and start.ndim == 1:
        return start + BIAS * noise
    if isinstance(owner, nn.Embedding) and attribute == "weight":
        drawn = TOKEN * noise
        if owner.padding_idx is not None:
            drawn[owner.padding_idx] = 0
        return drawn
    if attribute in ("original0", "weight_g"):  # the norms of a weight-normalised convolution
        return _norms(owner, owners, path, attribute, start) * (1 + JITTER * noise)
    if attribute == "weight" and isinstance(owner, (nn.Linear, Conv1D, nn.modules.conv._ConvNd)):
        return noise * _gain(owner, owners, path) / math.sqrt(_fan_in(owner, start))
    if start.ndim >= 2 and _is_unstructured(start):
        return noise * (1 / math.sqrt(_matrix_fan(start)) if _is_matrix(attribute, start) else TOKEN)
    if start.ndim <= 1 and start.abs().max() < 0.05:
        return 0.5 + 0.1 * noise  # a gate or a layer scale that starts shut
    return start * (1 + JITTER * noise)


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()


def _is_unstructured(start: Tensor) -> bool:
    """Zeros, or noise around zero: nothing that a draw could spoil."""
    return bool(start.mean().abs() <= 0.2 * start.std(unbiased=False) + 1e-12) or start.numel() < 8


_MATRIX = re.compile(r".*(weight|proj|kernel|experts|original1|^w\d?$|_w\d?$|matrix).*")


def _is_matrix(attribute: str, start: Tensor) -> bool:
    return bool(_MATRIX.fullmatch(attribute)) and min(start.shape[-2:]) > 1


def _matrix_fan(start: Tensor) -> float:
    """Which side is multiplied is not written in a bare parameter: the geometric mean of both serves either way."""
    return math.sqrt(start.shape[-1] * start.shape[-2])


def _fan_in(owner: nn.Module, weight: Tensor) -> int:
    if isinstance(owner, Conv1D):
        return weight.shape[0]
    if isinstance(owner, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        overlap = math.prod(max(1, k // s) for k, s in zip(owner.kernel_size, owner.stride, strict=True))
        return owner.in_channels // owner.groups * overlap
    return weight[0].numel()


def _norms(owner: nn.Module, owners: dict[str, nn.Module], path: str, attribute: str, start: Tensor) -> Tensor:
    """The norms that leave the variance of what goes through the convolution as it is."""
    whole = owner.original1 if attribute == "original0" else owner.weight_v
    convolution = owner if attribute == "weight_g" else owners[path.removesuffix(".parametrizations.weight")]
    fan = _fan_in(convolution, whole) if isinstance(convolution, nn.modules.conv._ConvNd) else whole[0].numel()
    return torch.full_like(start, math.sqrt(whole.numel() / start.numel() / fan))


_QUERY = re.compile(r"(.*[._])?(q|query|q_proj|q_lin|query_proj|to_q|wq|q_b_proj|q_a_proj|query_projection)")
_KEY = re.compile(r"(.*[._])?(k|key|k_proj|k_lin|key_proj|to_k|wk|key_projection)")
_FUSED = re.compile(r"(.*[._])?(qkv|qkv_proj|query_key_value|c_attn|Wqkv|in_proj|query_key|to_qkv)")


def _gain(owner: nn.Module, owners: dict[str, nn.Module], path: str) -> float:
    if _QUERY.fullmatch(path):
        return PEAK * _own_ratio(owner, owners, path)
    return PEAK if _KEY.fullmatch(path) or _FUSED.fullmatch(path) else 1.0


def _own_ratio(query: nn.Module, owners: dict[str, nn.Module], path: str) -> float:
    """How much narrower the library draws queries than keys: attention without a scale of its own relies on it."""
    parent, _, own = path.rpartition(".")
    for name, key in owners[parent].named_children():
        if name != own and _KEY.fullmatch(name) and isinstance(key, nn.Linear) and isinstance(query, nn.Linear):
            fans = math.sqrt(query.in_features / key.in_features)
            ratio = float(query.weight.std() / key.weight.std().clamp_min(1e-12)) * fans
            return min(1.0, ratio)
    return 1.0


def _drawn_buffer(owner: nn.Module, attribute: str, start: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(start.shape, generator=generator)
    if attribute == "running_mean":
        return NORM * noise
    if attribute == "running_var":
        return 0.5 + torch.rand(start.shape, generator=generator)
    if "batchnorm" in type(owner).__name__.lower():
        return start + NORM * noise
    if start.ndim >= 2 and not start.any():
        return noise  # a codebook that only a checkpoint fills
    return start
