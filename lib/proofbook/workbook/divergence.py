"""Where an error comes from, as a notebook shows it: the first module, the first operator in it, the error by depth."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from proofbook.catalog import Tolerance
from proofbook.checks.localise import Execution, Step, first_divergence, operators, steepest, walk, walk_graph
from proofbook.runtimes.runtime import Trace
from proofbook.workbook.html import Html, code, facts, figure, folded, table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# lines of a table at most
SHOWN = 400


def show_divergence(check: str, actual: Execution, expected: Execution, tolerance: Tolerance) -> Html:
    """Both executions side by side, in figures and as a plot."""
    steps = walk(actual, expected)
    low, high = tolerance.smallest * tolerance.eps, tolerance.largest * tolerance.eps
    module = first_divergence(steps, high) or first_divergence(steps, low)
    most = steepest(steps, low)
    narrowed = operators(actual, expected, module) if module else []
    operator = first_divergence(narrowed, low) or steepest([one for one in narrowed if one.outputs > low], low)
    found = facts(
        [
            ("of the check", code(check)),
            ("first module to diverge", _told(module) if module else "none by itself"),
            ("operator in it that diverges first", _told(operator) if operator else "none by itself"),
            ("module that adds most", _told(most) if most else "none"),
        ]
    )
    shown = found + figure(_drawn(steps, module))
    if narrowed:
        title = f"{len(narrowed)} operators of {module.name or 'the model'}" if module else ""
        shown += folded(title, _table("operator", narrowed))
    return shown + folded(f"{len(steps)} calls of modules", _table("module", steps))


def show_graph_divergence(check: str, trace: Trace, inputs: Mapping[str, Any], tolerance: Tolerance) -> Html:
    """The values within a graph on its target beside torch's own, in figures and as a plot."""
    steps = walk_graph(trace, inputs)
    low, high = tolerance.smallest * tolerance.eps, tolerance.largest * tolerance.eps
    first = first_divergence(steps, high) or first_divergence(steps, low)
    most = steepest(steps, low)
    found = facts(
        [
            ("of the check", code(check)),
            ("first operation to diverge", _told(first) if first else "none by itself"),
            ("operation that adds most", _told(most) if most else "none"),
        ]
    )
    return found + figure(_drawn(steps, first)) + folded(f"{len(steps)} operations", _table("operation", steps))


def _told(step: Step) -> str:
    kind = "" if step.kind == "operator" else f" ({step.kind})"
    return f"{step.name or 'the model'}{kind}: inputs off by {step.inputs:.2g}, outputs by {step.outputs:.2g}"


def _table(what: str, steps: Sequence[Step]) -> Html:
    rows = (
        (code(one.name or "(the model)"), one.kind, f"{one.inputs:.2g}", f"{one.outputs:.2g}") for one in steps[:SHOWN]
    )
    return table((what, "kind", "relative RMSE of inputs", "of outputs"), rows)


def _drawn(steps: Sequence[Step], first: Step | None) -> "Figure":
    import matplotlib.pyplot as plt

    drawing, axes = plt.subplots(figsize=(9, 2.4))
    # on a logarithm no error has no place
    errors = [max(step.outputs, 1e-17) for step in steps]
    axes.semilogy(range(len(steps)), errors, ".-", markersize=3, linewidth=0.7, color="#0072b2")
    if first is not None:
        at = steps.index(first)
        axes.axvline(at, color="#d55e00", linewidth=1)
        axes.annotate(first.name or "the model", (at, errors[at]), color="#d55e00", fontsize=8)
    axes.set(xlabel="calls, in the order of their return", ylabel="relative RMSE of outputs")
    plt.close(drawing)
    return drawing
