"""What each runtime's users write, for scripts that show a fault without proofbook: their lines stand here."""

import tempfile
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


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
