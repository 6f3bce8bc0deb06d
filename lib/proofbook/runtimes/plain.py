"""What each runtime's users write, for scripts that show a fault without proofbook: their lines stand here."""

import tempfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def through_executorch(model: nn.Module, inputs: Mapping[str, Any]) -> list[Tensor]:
    """The outputs of a model in their order, lowered to XNNPACK and computed by ExecuTorch."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.runtime import Runtime

    tensors = [one.contiguous() for one in tree_leaves(dict(inputs)) if isinstance(one, Tensor)]
    exported = torch.export.export(model, (), kwargs=dict(inputs), strict=False)
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    return list(Runtime.get().load_program(lowered.buffer).load_method("forward").execute(tensors))


def through_onnxruntime(model: nn.Module, inputs: Mapping[str, Any]) -> list[Tensor]:
    """The outputs of a model in their order, converted by torch's exporter and computed by ONNX Runtime."""
    import onnxruntime

    tensors = [one for one in tree_leaves(dict(inputs)) if isinstance(one, Tensor)]
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/model.onnx"
        torch.onnx.export(model, (), path, kwargs=dict(inputs), dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        given = {one.name: tensor.numpy() for one, tensor in zip(session.get_inputs(), tensors, strict=True)}
        return [torch.from_numpy(one) for one in session.run(None, given)]


def through_inductor(model: nn.Module, inputs: Mapping[str, Any]) -> list[Tensor]:
    """The outputs of a model in their order, compiled by torch.compile."""
    with torch.no_grad():
        outputs = torch.compile(model)(**inputs)
    return [one for one in tree_leaves(outputs) if isinstance(one, Tensor)]


def through_aotinductor(model: nn.Module, inputs: Mapping[str, Any]) -> list[Tensor]:
    """The outputs of a model in their order, exported, and compiled by AOTInductor to a package."""
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        exported = torch.export.export(model, (), dict(inputs), strict=False)
        package = torch._inductor.aoti_compile_and_package(exported, package_path=f"{folder}/model.pt2")
        outputs = torch._inductor.aoti_load_package(package)(**inputs)
    return [one for one in tree_leaves(outputs) if isinstance(one, Tensor)]
