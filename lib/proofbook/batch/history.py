"""What earlier runs tell of a case before it runs: how long it will take, and how much memory.

It is read from the ledgers of the runs in ``outputs/``, the newest :data:`RUNS` of them. Nothing depends on it but the
order in which cases run and which of them run at a time.
"""

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from proofbook.batch.ledger import CASES_FILE
from proofbook.batch.plan import PlannedCase
from proofbook.catalog import Target, Weights
from proofbook.verdict import Verdict

# how many earlier runs are looked at
RUNS = 50
# of a case of which nothing at all is known
SECONDS = 5.0
# what the kernel of a tiny case takes at most, torch and transformers included: 0.3 to 1 GB seen
KERNEL_BYTES = 1_500_000_000
# what a case may take beyond what it took before
MARGIN = 1.2
# bytes of a number in each dtype
_SIZES = {"float64": 8, "float32": 4, "float16": 2, "bfloat16": 2}
_COLUMNS = (
    *("model", "target", "weights", "environment", "variant", "category"),
    *("verdict", "seconds", "cells_s", "resident_mb", "peak_mb", "parameters_full"),
)
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Need:
    """What a case takes while it runs, as far as can be told before."""

    seconds: float
    # bytes of the machine's memory
    memory: int
    # the device whose units are counted, such as `cuda`; None for the CPU
    device: str | None = None
    # whether nothing may run beside it
    alone: bool = False


class History:
    """Durations and memory of cases of earlier runs.

    Args:
        rows: rows of ledgers, those of the oldest run first; columns that are missing are unknown.
        damaged: the ledgers that could not be read, and why.
    """

    def __init__(self, rows: Iterable[Row] = (), damaged: Sequence[str] = ()) -> None:
        self.damaged = tuple(damaged)
        latest: dict[Hashable, Row] = {}
        for row in rows:
            if row.get("verdict") != Verdict.NOT_RUN:
                latest[tuple(row.get(name) for name in _COLUMNS[:5])] = row
        self._latest = latest.values()
        self._groups: dict[Callable[[Row], Hashable], dict[Hashable, _Group]] = {}

    @classmethod
    def of(cls, outputs: Path) -> "History":
        """What the runs of a folder tell. A ledger that can't be read is named in :attr:`damaged`, and left out."""
        rows: list[Row] = []
        damaged = []
        for path in ledgers(outputs):
            try:
                rows += read_columns(path, _COLUMNS)
            except Exception as error:  # pyarrow raises whatever a damaged file makes of it
                said = str(error).strip().partition("\n")[0]
                damaged.append(f"{path} can't be read, so nothing is learnt from it: {type(error).__name__}: {said}")
        return cls(rows, damaged)

    def seconds(self, case: PlannedCase) -> float:
        """How long a case will take: as long as it took last, else the median of the nearest that is known.

        Nearest is the same model with the same weights, on whichever target, in whichever environment and variant;
        then the same category with the same weights; then all. Where nothing is known it is :data:`SECONDS`.
        """
        return next((group.seconds for group in self._nearest(case) if group.seconds), SECONDS)

    def memory(self, case: PlannedCase, target: Target) -> int:
        """How many bytes of the machine's memory a case will take at its peak.

        As many as the same case took last, else as the nearest on the CPU did (see :meth:`seconds`), and :data:`MARGIN`
        more. Where nothing is known, :data:`KERNEL_BYTES`; of other than tiny weights in addition the parameters of the
        checkpoint twice in the target's dtype, as some checks load it again, and once in float64, for truth.
        """
        tiny = case.weights is Weights.TINY  # models of a category are alike only then
        for group in self._nearest(case, among=4 if tiny else 2):
            if group.memory:
                return int(group.memory * MARGIN)
        if tiny:
            return KERNEL_BYTES
        sizes = [row.get("parameters_full") for row in self._latest if row.get("model") == case.model]
        known = max((size for size in sizes if size), default=0)
        return KERNEL_BYTES + known * (2 * _SIZES[target.dtype] + _SIZES["float64"])

    def need(self, case: PlannedCase, target: Target) -> Need:
        """All that a case takes. One with real weights has the machine to itself: it computes on all cores."""
        device = None if target.device == "cpu" else target.device
        return Need(self.seconds(case), self.memory(case, target), device, alone=case.weights is not Weights.TINY)

    def _nearest(self, case: PlannedCase, among: int = 4) -> Iterator["_Group"]:
        for alike in (_same_case, _same_model, _same_category, _any)[:among]:
            if alike not in self._groups:
                rows: defaultdict[Hashable, list[Row]] = defaultdict(list)
                for row in self._latest:
                    rows[alike(row)].append(row)
                self._groups[alike] = {key: _Group.of(found) for key, found in rows.items()}
            yield self._groups[alike].get(alike(vars(case)), _Group())


@dataclass(frozen=True)
class _Group:
    """What cases that are alike took, the median of them; None where none of them tells."""

    seconds: float | None = None
    # bytes
    memory: float | None = None

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "_Group":
        spent = [seconds for row in rows if (seconds := row.get("cells_s") or row.get("seconds"))]
        peaks = [peak * 1e6 for row in rows if (peak := row.get("resident_mb") or _peak(row))]
        return cls(median(spent) if spent else None, median(peaks) if peaks else None)


def _peak(row: Row) -> float | None:
    """What the notebook itself measured: on another device than the CPU it is the memory of that."""
    return row.get("peak_mb") if str(row.get("target")).startswith("cpu") else None


def ledgers(outputs: Path) -> list[Path]:
    """The ledgers of the newest :data:`RUNS` runs of a folder, the oldest first."""
    found = sorted((path for path in outputs.glob(f"*/{CASES_FILE}") if not path.parents[1].is_symlink()), key=_written)
    return found[-RUNS:]


def read_columns(path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of a table of a ledger; columns that an older one lacks are left out.

    Raises whatever pyarrow does where the file is damaged.
    """
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        has = set(file.schema_arrow.names)
        rows: list[dict[str, Any]] = file.read([name for name in columns if name in has]).to_pylist()
    return rows


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # the run was removed meanwhile
        return 0.0


def _same_case(row: Row) -> Hashable:
    return tuple(row.get(name) for name in _COLUMNS[:5])


def _same_model(row: Row) -> Hashable:
    return row.get("model"), row.get("weights")


def _same_category(row: Row) -> Hashable:
    return row.get("category"), row.get("weights")


def _any(row: Row) -> Hashable:
    return None
