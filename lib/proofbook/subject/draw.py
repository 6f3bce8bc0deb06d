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
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from proofbook.catalog import Model
from proofbook.compat import PreTrainedConfig
from proofbook.subject.requirements import check_needs, missing_package
from proofbook.verdict import Blocked

# standard deviations, in units of what the parameter is added to or multiplied with
BIAS, TOKEN, NORM, JITTER = 0.1, 0.5, 0.2, 0.05
# what queries and keys are scaled by: the standard deviation of scores is about its square
PEAK = 1.4
# branches of convolutions that add to a trunk which no norm bounds: a fraction of it, as after training, for deep
# stacks of sines and rectifiers are near to chaos otherwise
RESIDUAL = 0.5
# a layer whose outputs are the kernels of a convolution: that sums some dozens of terms
KERNELS = 1 / 8
# convolutions of images feed rectifiers, which halve the variance (He et al., 2015), and no norm mends it
CONVOLUTION = math.sqrt(2)


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
        said = " ".join(str(error).split())
        package = missing_package(error) or spec.model_class
        raise Blocked(package, said.partition(". ")[0], f'`pip install "{package}"`') from error


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
    Tied parameters are drawn once, under their first name; frozen tables of positions, which hold a formula, stay.
    """
    parameters = (_Place(name, parameter, model) for name, parameter in model.named_parameters())
    places = [place for place in parameters if place.is_drawn]
    # what a draw takes from its neighbours it takes from them as the library initialised them
    gains = [_gain(place) for place in places]
    for place, gain in zip(places, gains, strict=True):
        place.tensor.copy_(_drawn(place, gain, _generator(seed, place.name)))
    persistent = model.state_dict().keys()
    for name, buffer in model.named_buffers():
        if name in persistent and buffer.is_floating_point() and buffer.numel():
            buffer.copy_(_drawn_buffer(_Place(name, buffer, model), _generator(seed, name)))


class _Place:
    """A tensor of a model: its name, its value, and the module that owns it."""

    def __init__(self, name: str, tensor: Tensor, model: nn.Module) -> None:
        self.name = name
        self.tensor = tensor
        self.path, _, self.attribute = name.rpartition(".")
        self.owner = model.get_submodule(self.path)
        self.parent = model.get_submodule(self.path.rpartition(".")[0])
        # the module whose weight this is a part of, where the weight is parametrized
        self.whole = model.get_submodule(self.path.partition(".parametrizations")[0])

        # the module that it is a direct part of, or of whose list of them
        self.branch = model.get_submodule(re.sub(r"\.?[^.]+(\.\d+)?$", "", self.path.partition(".parametrizations")[0]))

    @property
    def is_drawn(self) -> bool:
        kind = type(self.owner).__name__.lower()
        formula = "sinusoidal" in kind or (not self.tensor.requires_grad and "pos" in f"{self.name}.{kind}".lower())
        return self.tensor.is_floating_point() and self.tensor.numel() > 0 and not formula

    @property
    def is_norm(self) -> bool:
        return "norm" in type(self.owner).__name__.lower()


def _generator(seed: int, name: str) -> torch.Generator:
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)


def _drawn(place: _Place, gain: float, generator: torch.Generator) -> Tensor:
    start, owner, attribute = place.tensor, place.owner, place.attribute
    noise = torch.randn(start.shape, generator=generator)
    if place.is_norm:
        return BIAS * noise if "bias" in attribute else _neutral(place) + NORM * noise
    if attribute.endswith("bias") and start.ndim == 1:
        return start + BIAS * noise
    if "embedding" in type(owner).__name__.lower() and attribute == "weight" and start.ndim == 2:
        drawn = TOKEN * noise
        if (padding := getattr(owner, "padding_idx", None)) is not None:
            drawn[padding] = 0
        return drawn
    if attribute in ("original0", "weight_g"):  # the norms of a weight-normalised convolution
        return _norms(place) * gain * (1 + JITTER * noise)
    if isinstance(place.whole, _Convolution) and place.whole.out_channels == 1 and start.numel() > 1:
        # what a rectifier gives has a mean, which most kernels carry on: it might shut the next one for good
        noise -= noise.mean()
    if start.ndim >= 2 and (isinstance(place.whole, _LAYERS) or _is_unstructured(start)):
        return noise * (gain / math.sqrt(_fan_in(place.whole, start)) if _is_matrix(place) else TOKEN)
    if start.squeeze().ndim <= 1 and start.abs().max() < 0.05:
        return 0.5 + 0.1 * noise  # a gate or a layer scale that starts shut
    return start * (1 + JITTER * noise)


def _neutral(norm: _Place) -> float:
    """The weight with which a norm changes nothing: 1, or 0 where the module adds it. Some libraries' initialisers
    draw it around 0 all the same, which no trained checkpoint has."""
    torch_norms = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
    return 1.0 if isinstance(norm.owner, torch_norms) else round(float(norm.tensor.mean()))


def _is_unstructured(start: Tensor) -> bool:
    """Zeros, or noise around zero: nothing that a draw could spoil."""
    spread = max(0.2, 4 / math.sqrt(start.numel())) * start.std(unbiased=False)
    return bool(start.mean().abs() <= spread + 1e-12)


_MATRIX = re.compile(r".*(weight|proj|kernel|experts|original1|^w\d?$|_w\d?$|^(hc_)?fn$|matrix).*")


def _is_matrix(place: _Place) -> bool:
    return bool(_MATRIX.fullmatch(place.attribute)) and min(place.tensor.shape[-2:]) > 0


_Convolution = nn.modules.conv._ConvNd
_LAYERS = (nn.Linear, Conv1D, _Convolution)
_Transposed = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def _fan_in(whole: nn.Module, weight: Tensor) -> float:
    """How many terms the weight of a module sums for one number."""
    if isinstance(whole, Conv1D):
        return weight.shape[0]
    if isinstance(whole, _Transposed):
        overlap = math.prod(max(1, k // s) for k, s in zip(whole.kernel_size, whole.stride, strict=True))
        return whole.in_channels // whole.groups * overlap
    if isinstance(whole, (nn.Linear, _Convolution)):
        return math.prod(weight.shape[1:])
    # which side of a bare parameter is summed is not written in it: the geometric mean of both serves either way
    return math.sqrt(weight.shape[-1] * weight.shape[-2])


def _norms(place: _Place) -> Tensor:
    """The norms that leave the variance of what goes through a weight-normalised convolution as it is."""
    direction = place.owner.get_parameter("original1" if place.attribute == "original0" else "weight_v")
    return torch.full_like(
        place.tensor, math.sqrt(direction.numel() / place.tensor.numel() / _fan_in(place.whole, direction))
    )


_QUERY = re.compile(r"(.*[._])?(q|query|q_proj|q_lin|query_proj|to_q|wq|q_[ab]_proj|query_projection|linear_q|q_head)")
_KEY = re.compile(r"(.*[._])?(k|key|k_proj|k_lin|key_proj|to_k|wk|key_projection|linear_k|k_head)")
_RESIDUAL = re.compile(r"Res(idual|net)?(Unit|Block|Layer|Stack)")
_FUSED = re.compile(r"(.*[._])?(qkv|qkv_proj|query_key_value|c_attn|Wqkv|in_proj(_weight)?|query_key|to_qkv|att_proj)")


def _gain(place: _Place) -> float:
    """What a weight scales by, beside keeping the variance."""
    path = place.path if place.attribute == "weight" else place.name
    if isinstance(place.whole, (nn.Conv2d, nn.Conv3d)):
        return CONVOLUTION
    if isinstance(place.whole, nn.Conv1d):
        return KERNELS if "kernel_conv" in path else RESIDUAL if _RESIDUAL.search(type(place.branch).__name__) else 1.0
    if _QUERY.fullmatch(path):
        return PEAK * _own_ratio(place)
    return PEAK if _KEY.fullmatch(path) or _FUSED.fullmatch(path) else 1.0


def _own_ratio(query: _Place) -> float:
    """How much narrower the library draws queries than keys: attention without a scale of its own relies on it."""
    for name, key in query.parent.named_children():
        if _KEY.fullmatch(name) and isinstance(key, nn.Linear) and isinstance(query.owner, nn.Linear):
            fans = math.sqrt(query.owner.in_features / key.in_features)
            return min(1.0, float(query.tensor.std() / key.weight.std().clamp_min(1e-12)) * fans)
    return 1.0


def _drawn_buffer(place: _Place, generator: torch.Generator) -> Tensor:
    start = place.tensor
    noise = torch.randn(start.shape, generator=generator)
    if place.attribute == "running_mean":
        return NORM * noise
    if place.attribute == "running_var":
        # about 1, as what comes in: with less, deep stacks amplify rounding; with more, they forget their input
        return 0.7 + 0.6 * torch.rand(start.shape, generator=generator)
    if "batchnorm" in type(place.owner).__name__.lower():
        return start + NORM * noise
    if start.ndim >= 2 and not start.any():
        return noise  # a codebook that only a checkpoint fills
    return start
