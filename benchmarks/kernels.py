"""What a notebook costs beside its own cells, in a warm kernel and in a cold one, side by side.

    python benchmarks/kernels.py [--number 6] [--jobs 2]

Two notebooks, a trivial one and one that imports what the notebooks of proofbook import, are executed by papermill's
API ``--number`` times each: by plain papermill in a cold kernel, by plain papermill in a warm one (the provisioner),
and by proofbook's engine in either. Kinds alternate, so that a machine that gets busy slows all of them. Own cells are
the work of the cells once everything is imported, as measured in warm kernels; the rest is overhead, imports included.

Prints a table of seconds (median) and ends with one line of JSON: overhead of the importing notebook a notebook, as the
batch executes it (``warm_overhead_s``) and as plain papermill does (``cold_overhead_s``), one at a time and with
``--jobs`` threads (``_parallel``: wall time by number of notebooks), and the memory of one of ``--jobs`` kernels that
run at a time, the parent's share included, by PSS (``_mb``).
"""

import argparse
import json
import logging
import os
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")

import nbformat
import papermill
import psutil
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning import KernelProvisionerFactory
from jupyter_core.utils import run_sync
from nbformat.v4 import new_code_cell, new_notebook

from proofbook.batch.kernels import PROVISIONER, kernel_environment, start_kernel
from proofbook.batch.parents import Parents

NOTEBOOKS = {
    "trivial": ("1 + 1",),
    "imports": ("import torch, transformers\nfrom proofbook.workbook.case import Case", "torch.ones(2).sum()"),
}
Execute = Callable[[Path], nbformat.NotebookNode]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=6)
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with TemporaryDirectory() as made, Parents() as parents:
        sources = write(Path(made))
        kinds = executors(Path(made), parents)
        began = time.perf_counter()
        kinds["batch warm"](sources["trivial"])
        ready = time.perf_counter() - began
        kinds["papermill warm"](sources["trivial"])
        alone, own = one_at_a_time(kinds, sources, given.number)
        beside = in_parallel(kinds, sources, given.number, given.jobs)
        memory = {"warm": pss(given.jobs, parents), "cold": pss(given.jobs, None)}
    print(f"{'seconds a notebook':24}" + "".join(f"{name:>12}{f'{name} x{given.jobs}':>14}" for name in NOTEBOOKS))
    for kind in kinds:
        cells = (f"{median(alone[kind, name]):12.2f}{beside[kind, name]:14.2f}" for name in NOTEBOOKS)
        print(f"{kind:24}" + "".join(cells))
    print(f"the first warm kernel waited {ready:.1f} s for its parent; own cells: {own['imports']:.3f} s")
    answer = {
        "warm_overhead_s": median(alone["batch warm", "imports"]) - own["imports"],
        "cold_overhead_s": median(alone["papermill cold", "imports"]) - own["imports"],
        "warm_overhead_s_parallel": beside["batch warm", "imports"] - own["imports"] / given.jobs,
        "cold_overhead_s_parallel": beside["papermill cold", "imports"] - own["imports"] / given.jobs,
        "papermill_warm_overhead_s": median(alone["papermill warm", "imports"]) - own["imports"],
        "warm_mb": memory["warm"],
        "cold_mb": memory["cold"],
    }
    print(json.dumps({name: round(value, 3) for name, value in answer.items()}))


def write(folder: Path) -> dict[str, Path]:
    """The notebooks, by name."""
    sources = {name: folder / f"{name}.ipynb" for name in NOTEBOOKS}
    for name, cells in NOTEBOOKS.items():
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(new_notebook(cells=[*map(new_code_cell, cells)], metadata={"kernelspec": kernel}), sources[name])
    return sources


def executors(folder: Path, parents: Parents) -> dict[str, Execute]:
    """Ways to execute a notebook, by name."""
    kernels = folder / "kernels" / PROVISIONER
    kernels.mkdir(parents=True)
    spec = Path(__file__).parents[1] / "share" / "jupyter" / "kernels" / PROVISIONER / "kernel.json"
    (kernels / spec.name).write_bytes(spec.read_bytes())
    os.environ["JUPYTER_PATH"] = str(folder)
    entry = EntryPoint(PROVISIONER, "proofbook.batch.provisioner:WarmProvisioner", KernelProvisionerFactory.GROUP_NAME)
    KernelProvisionerFactory.provisioners[PROVISIONER] = entry

    def by(**options: Any) -> Execute:
        return lambda source: papermill.execute_notebook(source, None, progress_bar=False, **options)

    quiet = ["--log-level=50"]
    own = {"engine_name": "proofbook", "environment": kernel_environment(1), "request_save_on_cell_execute": False}
    return {
        "papermill cold": by(extra_arguments=quiet),
        "papermill warm": by(kernel_name=PROVISIONER, extra_arguments=quiet),
        "batch cold": by(**own),
        "batch warm": by(**own, parents=parents),
    }


def one_at_a_time(
    kinds: dict[str, Execute], sources: dict[str, Path], number: int
) -> tuple[dict[tuple[str, str], list[float]], dict[str, float]]:
    """Seconds of every execution by kind and notebook, and those of a notebook's own cells."""
    taken: dict[tuple[str, str], list[float]] = defaultdict(list)
    cells: dict[str, list[float]] = defaultdict(list)
    for _ in range(number):
        for name, source in sources.items():
            for kind, execute in kinds.items():
                began = time.perf_counter()
                made = execute(source)
                taken[kind, name].append(time.perf_counter() - began)
                if kind == "batch warm":
                    cells[name].append(sum(cell.metadata.papermill.duration for cell in made.cells))
    return taken, {name: median(seconds) for name, seconds in cells.items()}


def in_parallel(
    kinds: dict[str, Execute], sources: dict[str, Path], number: int, jobs: int
) -> dict[tuple[str, str], float]:
    """Seconds a notebook with several threads, by kind and notebook."""
    taken = {}
    for name, source in sources.items():
        for kind, execute in kinds.items():
            began = time.perf_counter()
            with ThreadPoolExecutor(jobs) as threads:
                list(threads.map(execute, [source] * number))
            taken[kind, name] = (time.perf_counter() - began) / number
    return taken


def pss(jobs: int, parents: Parents | None) -> float:
    """MB of a kernel that has imported everything, with as many of its like beside it: its proportional share of pages.

    With it counts all that belongs to it: the keeper of a cold one, and in equal parts the parent of warm ones.
    """
    with ExitStack() as stack:
        kernels = [psutil.Process(stack.enter_context(imported(parents))) for _ in range(jobs)]
        processes = {*kernels, *(below for kernel in kernels for below in kernel.children(recursive=True))}
        warm = {kernel.parent() for kernel in kernels} - {psutil.Process()}
        return sum(_pss(process.pid) for process in processes | warm) / jobs / 1e6


@contextmanager
def imported(parents: Parents | None) -> Iterator[int]:
    """A kernel that has run the first cell of the importing notebook, by its process id."""

    async def run_first_cell(manager: AsyncKernelManager) -> None:
        client = manager.client()
        client.start_channels()
        await client.wait_for_ready(timeout=60)
        await client.execute_interactive(NOTEBOOKS["imports"][0], timeout=120, output_hook=lambda message: None)
        client.stop_channels()

    with start_kernel(kernel_environment(1), Path.cwd(), parents=parents) as kernel:
        run_sync(run_first_cell)(kernel.manager)
        yield kernel.process.pid


def _pss(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return 1024 * float(next(line.split()[1] for line in lines if line.startswith("Pss:")))


if __name__ == "__main__":
    main()
