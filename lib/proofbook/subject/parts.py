"""Parts of a model: modules that are built and called by themselves where the whole lacks a package."""

import zlib
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from proofbook.catalog import Model
from proofbook.catalog.schema import Part
from proofbook.compat import PreTrainedConfig, model_type_to_module_name
from proofbook.subject.draw import draw_parameters, seeded


def build_part(spec: Model, part: Part, config: PreTrainedConfig, seed: int) -> nn.Module:
    """The part's class of the model's own module, in float32 on the CPU, drawn from a seed, in evaluation mode."""
    name = model_type_to_module_name(spec.model_type)
    kind = getattr(import_module(f"transformers.models.{name}.modeling_{name}"), part.model_class)
    with seeded(seed):
        module: nn.Module = kind(config)
    draw_parameters(module, seed)
    return module.eval()


def part_inputs(part: Part, config: PreTrainedConfig, given: Mapping[str, Any]) -> dict[str, Tensor]:
    """The arguments of the part's ``forward``, of the batch and length of what the processor made."""
    mask: Tensor = given["attention_mask"]
    batch, length = mask.shape

    def make(name: str, kind: str) -> Tensor:
        match kind:
            case "noise":
                generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
                return torch.randn(batch, length, config.hidden_size, generator=generator)
            case "positions":
                return torch.arange(length).expand(batch, length).clone()
            case "hidden":
                return mask[:, None, None, :] == 0
            case _:
                value: Tensor = given[name]
                return value

    return {name: make(name, kind) for name, kind in part.inputs.items()}
