"""The linear layers of a file of ONNX with weights in integers, by the tools of ONNX Runtime."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from proofbook.catalog import Target
from proofbook.runtimes.exporting import Program, quiet
from proofbook.runtimes.quantised import Grid, Quantised

# what multiplies by weights in integers; the runtime makes the latter two of the first and what stands around it
KERNELS = frozenset({"MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "MatMulNBits"})
# inputs that share a scale unless a target says so, as the tool has it
GROUP = 128
_SCOPES = "pkg.torch.onnx.name_scopes"

# what the tools add to the names of weights
_MADE = re.compile(r"_(Q\d|quantized)$")

# paths of linear layers by the names of their weights in a file: several where a weight is shared
Layers = Mapping[str, list[str]]


def quantise(path: Path, program: Program, target: Target) -> tuple[Path, Layers]:
    """Write a file beside that of a program, with the weights of its linear layers in integers.

    The tools take products of matrices whose second is a constant. Those that a file has otherwise, as a constant that
    is transposed in each call, or with the addition of a bias, are written so before.
    """
    import onnx

    model = onnx.load(path)
    _as_products(model.graph)
    layers, nodes = _linear(model.graph, program)
    floating, quantised = path.with_name("products.onnx"), path.with_name("quantised.onnx")
    onnx.save(model, floating)
    with quiet():
        if target.activation_dtype:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            kind = QuantType[target.options.get("weight_type", "QInt8")]
            given = {name: value for name, value in target.options.items() if name != "weight_type"}
            quantize_dynamic(floating, quantised, ["MatMul"], nodes_to_quantize=nodes, weight_type=kind, **given)
        else:
            from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

            bits, rest = _bits(target), [node.name for node in model.graph.node if node.name not in nodes]
            tool = MatMulNBitsQuantizer(model, bits, target.weight_group or GROUP, nodes_to_exclude=rest)
            tool.process()
            tool.model.save_model_to_file(str(quantised))
    return quantised, layers


def held(path: Path, layers: Layers) -> dict[str, Quantised]:
    """What a file holds in integers of some linear layers, by their paths."""
    import onnx

    graph = onnx.load(path).graph
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    found: dict[str, Quantised] = {}
    for node in graph.node:
        if node.op_type not in KERNELS:
            continue
        weight = node.input[1]
        name = _MADE.sub("", weight)
        if node.op_type == "MatMulNBits":
            one = _of_bits({each.name: each.i for each in node.attribute}, [constants[each] for each in node.input[1:]])
        else:
            one = _of_bytes(*(constants[each] for each in (weight, f"{name}_scale", f"{name}_zero_point")))
        found |= dict.fromkeys(layers[name], one)
    return found


def kernels(path: Path) -> int:
    """How many nodes of a file multiply by weights in integers."""
    import onnx

    return sum(node.op_type in KERNELS for node in onnx.load(path).graph.node)


def _bits(target: Target) -> int:
    return int(str(target.weight_dtype).removeprefix("int"))


def _as_products(graph: Any) -> None:
    """Write constants that are transposed as what they become, and a product with a bias as product and sum."""
    from onnx import helper, numpy_helper

    constants = {one.name: one for one in graph.initializer}
    turned: dict[str, str] = {}  # constants by what a node makes of them
    nodes = []

    def transposed(name: str) -> str:
        turned_name = f"{name}.T"
        if turned_name not in constants:
            array = np.ascontiguousarray(numpy_helper.to_array(constants[name]).T)
            constants[turned_name] = numpy_helper.from_array(array, turned_name)
            graph.initializer.append(constants[turned_name])
        return turned_name

    for node in graph.node:
        attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "Transpose" and node.input[0] in constants and attributes.get("perm") == [1, 0]:
            turned[node.output[0]] = transposed(node.input[0])
            nodes.append(node)  # other nodes may read it
            continue
        node.input[:] = [turned.get(name, name) if node.op_type in ("MatMul", "Gemm") else name for name in node.input]
        plain = not attributes.get("transA") and attributes.get("alpha", 1) == attributes.get("beta", 1) == 1
        if node.op_type == "Gemm" and plain and len(node.input) == 3 and node.input[1] in constants:
            second = transposed(node.input[1]) if attributes.get("transB") else node.input[1]
            between = f"{node.output[0]}.product"
            product = helper.make_node("MatMul", [node.input[0], second], [between], f"{node.name}.product")
            product.metadata_props.extend(node.metadata_props)
            nodes += [product, helper.make_node("Add", [between, node.input[2]], list(node.output), f"{node.name}.sum")]
            continue
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _linear(graph: Any, program: Program) -> tuple[dict[str, list[str]], list[str]]:
    """The paths of the linear layers whose weights a graph multiplies by, by names of weights; and the nodes' names."""
    from onnx import numpy_helper

    constants = {one.name: one for one in graph.initializer}
    weights = program.exported.state_dict
    layers: dict[str, list[str]] = {}
    nodes = []
    for node in graph.node:
        if node.op_type != "MatMul" or node.input[1] not in constants:
            continue
        scopes = next((ast.literal_eval(one.value) for one in node.metadata_props if one.key == _SCOPES), [""])
        weight = weights.get(f"{scopes[-2]}.weight") if len(scopes) > 1 else None
        value = torch.from_numpy(numpy_helper.to_array(constants[node.input[1]]).copy())
        if weight is not None and torch.equal(value, weight.detach().cpu().T):
            layers.setdefault(node.input[1], []).append(scopes[-2].partition(".")[2])  # without that of `Flat`
            nodes.append(node.name)
    return layers, nodes


def _of_bits(about: Mapping[str, int], constants: list[np.ndarray[Any, Any]]) -> Quantised:
    """The inputs of a MatMulNBits: codes in blocks of inputs, each block's scale, and the codes of zero."""
    packed, scales, zeros = constants
    outputs, inputs, group, bits = (about[name] for name in ("N", "K", "block_size", "bits"))
    blocks = -(-inputs // group)
    codes = _unpacked(packed.reshape(outputs, -1), bits)[:, :inputs]
    nulls = _unpacked(zeros.reshape(outputs, -1), bits)[:, :blocks]
    nbytes = sum(one.nbytes for one in constants)
    scale = torch.from_numpy(scales.reshape(outputs, blocks).copy())
    return Quantised(codes, scale, nulls, Grid(2**bits, group, symmetric=False), nbytes)


def _of_bytes(*constants: np.ndarray[Any, Any]) -> Quantised:
    """The weight of a MatMulInteger, inputs × outputs, its scales and codes of zero: of each output, or of all."""
    weight, scales, zeros = (torch.from_numpy(np.atleast_1d(one).copy()) for one in constants)
    outputs = weight.shape[1]
    scales, zeros = (one.reshape(-1, 1).expand(outputs, 1) for one in (scales, zeros.int()))
    grid = Grid(255 if weight.dtype is torch.int8 else 256, weight.shape[0], symmetric=weight.dtype is torch.int8)
    return Quantised(weight.T.int(), scales, zeros, grid, sum(one.nbytes for one in constants))


def _unpacked(packed: np.ndarray[Any, Any], bits: int) -> torch.Tensor:
    """The codes in bytes: the lowest bits of a byte are its first."""
    parts = [packed >> shift & 2**bits - 1 for shift in range(0, 8, bits)]
    return torch.from_numpy(np.stack(parts, -1).reshape(len(packed), -1).astype(np.int64))
