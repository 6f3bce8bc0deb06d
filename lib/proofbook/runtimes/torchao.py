"""Modules of torch whose linear layers hold their weights in integers, by torchao."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from proofbook.catalog import Target
from proofbook.runtimes.eager import EagerRuntime, EagerSession
from proofbook.runtimes.exporting import quiet
from proofbook.runtimes.quantised import quantised


class TorchAo(EagerRuntime):
    """Runs the module as it is, but for its linear layers: torchao quantises their weights, and multiplies by them."""

    needs: ClassVar[tuple[str, ...]] = ("torchao>=0.18",)

    def prepare(self, model: nn.Module, examples: Sequence[Mapping[str, Any]], target: Target) -> EagerSession:
        """Move the model to the target's device, what of it is not quantised yet quantised."""
        self.quantise(model, target)
        return super().prepare(model, examples, target)

    def quantise(self, model: nn.Module, target: Target) -> None:
        """Put integers in the place of the weights of linear layers.

        torchao takes whole groups only: a layer whose inputs are no multiple of the target's group stays as it is.
        """
        with quiet():  # the package says on import which of its kernels are for other machines
            from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, quantize_
            from torchao.quantization.granularity import PerAxis, PerGroup

        def takes(module: nn.Module, path: str) -> bool:
            # torch's multi-head attention takes the weight of such a layer, and never calls it
            if not isinstance(module, nn.Linear) or isinstance(module, NonDynamicallyQuantizableLinear):
                return False
            return module.in_features % (target.weight_group or 1) == 0 and quantised(module.weight) is None

        groups = PerGroup(target.weight_group) if target.weight_group else PerAxis(0)
        if target.weight_dtype == "int8" and target.weight_group is None:
            config = Int8WeightOnlyConfig()
        else:
            config = IntxWeightOnlyConfig(getattr(torch, str(target.weight_dtype)), groups)
        quantize_(model, config, filter_fn=takes)
