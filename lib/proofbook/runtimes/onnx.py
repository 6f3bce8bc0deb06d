"""A graph of torch.export as a file of ONNX, through torch's exporter."""

from collections.abc import Iterable
from pathlib import Path

import torch

from proofbook.runtimes.exporting import Program, quiet, without_traces
from proofbook.runtimes.onnx_rewriting import rewrite
from proofbook.runtimes.refusals import refusing

# as requirements
NEEDS = ("onnx>=1.17", "onnxscript>=0.5")


def save_onnx(program: Program, path: Path) -> torch.export.ExportedProgram:
    """Write a program as ONNX: inputs by their paths, outputs by :func:`output_names`, values by the names of nodes.

    Returns:
        The program as it was written: decomposed into the operators that ONNX has a function for.

    Raises:
        Refused: the exporter does not take it, at the stage ``onnx``.
    """
    rewrite(program.exported.graph)
    program.exported.graph_module.recompile()
    with refusing("onnx"), quiet(), without_traces():
        made = torch.onnx.export(
            program.exported,
            (dict(program.example),),
            dynamo=True,
            input_names=list(program.example),
            output_names=output_names(program),
        )
        assert made is not None  # it is where no file was named
        made.save(path)
    return made.exported_program  # type: ignore[return-value]


def output_names(program: Program) -> list[str]:
    """The names of the outputs in a file of ONNX, which has each name once: their paths, but for those of inputs."""
    return [f"{path}.output" if path in program.example else path for path in program.outputs]


def shown_values(path: Path, names: Iterable[str]) -> tuple[list[str], Path]:
    """Those of some names that values within a file of ONNX have, and a file beside it that returns these alone.

    A value that no node may be fused across is returned: the runtime computes such a file nearly as it was written.
    """
    import onnx

    model = onnx.load(path)
    made = {output for node in model.graph.node for output in node.output}
    shown = [name for name in names if name in made]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in shown)
    beside = path.with_name("values.onnx")
    onnx.save(model, beside)
    return shown, beside
