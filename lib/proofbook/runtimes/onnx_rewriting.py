"""What torch's exporter to ONNX stops at, written as what means the same before it sees the graph.

torch 2.13's exporter has these gaps; whoever exports a model by themselves meets them, and can write it so as well.
"""

import torch
from torch import fx

aten = torch.ops.aten


def rewrite(graph: fx.Graph) -> None:
    """Rewrite a graph of torch.export in place."""
    lay_out_attention(graph)
    for node in list(graph.nodes):
        match node.target:
            case aten._is_all_true.default:
                # of an assertion; no function of ONNX is registered for it
                node.target = aten.all.default
            case aten.rsub.Scalar if len(node.args) == 2 and not node.args[0].meta["val"].is_floating_point():
                _negate(node)


def lay_out_attention(graph: fx.Graph) -> None:
    """Give attention's output the strides that it has once attention is decomposed, for ONNX or for another runtime:
    views of it are made before."""
    for node in graph.find_nodes(op="call_function", target=aten.scaled_dot_product_attention.default):
        with graph.inserting_after(node):
            laid = graph.call_function(aten.clone.default, (node,), {"memory_format": torch.contiguous_format})
        laid.meta = dict(node.meta)
        node.replace_all_uses_with(laid, delete_user_cb=lambda user, laid=laid: user is not laid)


def _negate(node: fx.Node) -> None:
    """Write ``number - integers``, whose promotion takes the number for a tensor, as ``-(integers - number)``."""
    with node.graph.inserting_before(node):
        difference = node.graph.call_function(aten.sub.Scalar, node.args)
    difference.meta = dict(node.meta)
    node.target, node.args = aten.neg.default, (difference,)
