"""How much faster a batch gets with more jobs, and with more nodes of a Ray cluster, on one machine.

    python benchmarks/scaling.py [--model bert gpt2 …] [--target cpu] [--jobs 1 2] [--nodes 1 2]

Runs `proofbook run` of the same models with each number of jobs and, where Ray is installed, as tasks on each number of
local nodes of one CPU each, which are there before the clock starts. Nothing is reused from one to the next.

Prints seconds and ends with one line of JSON: ``jobs`` and ``nodes`` hold the wall time by their number, and ``ratio``
how many times faster the most jobs are than the fewest, by how many times more they are: 1 is all that there is to
have; ``nodes_ratio`` the same of nodes. No more of either than the machine has cores can help.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from floor import BATCH, MODELS, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=MODELS[:12])
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--jobs", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 2])
    given = parser.parse_args()
    chosen = ["--model", ",".join(given.model), "--target", given.target]
    answer: dict[str, object] = {"models": len(given.model), "cores": os.cpu_count()}
    with TemporaryDirectory() as made:
        jobs = {str(one): batch([*chosen, "--jobs", str(one)], Path(made, f"jobs{one}")) for one in given.jobs}
        answer |= {"jobs": jobs, "ratio": gained(jobs)}
        if find_spec("ray") and given.nodes:
            nodes = {}
            for number in given.nodes:
                with cluster(number):
                    options = [*chosen, "--executor", "ray", "--jobs", "1"]
                    nodes[str(number)] = batch(options, Path(made, f"nodes{number}"))
            answer |= {"nodes": nodes, "nodes_ratio": gained(nodes)}
    print(json.dumps(answer))


def batch(options: Sequence[str], folder: Path) -> float:
    """How long a batch takes, in seconds."""
    made = [BATCH, "run", *options, "--no-report", "--out", str(folder / "run")]
    taken = round(seconds(made, folder / "cache"), 2)
    print(f"{folder.name}: {taken} s", file=sys.stderr)
    return taken


def gained(taken: Mapping[str, float]) -> float | None:
    """How many times faster the largest number was than the smallest, by how many times larger it is."""
    few, many = (choose(taken, key=int, default=None) for choose in (min, max))
    if few is None or many is None or few == many:
        return None
    return round(taken[few] / taken[many] / (int(many) / int(few)), 3)


@contextmanager
def cluster(number: int) -> Iterator[None]:
    """A Ray cluster of so many local nodes with a CPU each, and a head that executes nothing."""
    from ray.cluster_utils import Cluster

    size = 10**8
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": size})
    try:
        for _ in range(number):
            made.add_node(num_cpus=1, object_store_memory=size)
        made.wait_for_nodes()
        os.environ["RAY_ADDRESS"] = made.address
        yield
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        made.shutdown()


if __name__ == "__main__":
    main()
