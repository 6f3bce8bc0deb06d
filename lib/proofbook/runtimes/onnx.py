"""A graph of torch.export as a file of ONNX, through torch's exporter."""

from pathlib import Path

import torch

from proofbook.runtimes.exporting import Program, quiet, without_traces
from proofbook.runtimes.refusals import refusing

# as requirements
NEEDS = ("onnx>=1.17", "onnxscript>=0.5")


def save_onnx(program: Program, path: Path) -> torch.export.ExportedProgram:
    """Write a program as ONNX, inputs and outputs by their paths, values within it by the names of its nodes.

    Returns:
        The program as it was written: decomposed into the operators that ONNX has a function for.

    Raises:
        Refused: the exporter does not take it, at the stage ``onnx``.
    """
    with refusing("onnx"), quiet(), without_traces():
        made = torch.onnx.export(
            program.exported,
            (dict(program.example),),
            dynamo=True,
            input_names=list(program.example),
            output_names=list(program.outputs),
        )
        assert made is not None  # it is where no file was named
        made.save(path)
    return made.exported_program  # type: ignore[return-value]
