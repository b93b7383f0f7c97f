"""What all benchmarks share: rows with a target, interleaved medians, the table and the JSON.

A benchmark is a module of this folder whose first line says what it measures, with a function

    def run(options: Options) -> Iterable[Row]

which gives its rows one by one, as they are measured. Code of peers and other helpers of a
benchmark go into packages below this folder. Higher is better in every row.
"""

import ast
import gc
import importlib
import importlib.metadata
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self

from rich.console import Console
from rich.markup import escape
from rich.table import Table

Measure = Callable[[], float]  # gives a figure: seconds, a rate, bytes

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
)
PACKAGES = ("numpy", "torch", "pyarrow", "mujoco", "gymnasium", "ray", "envpool", "torchrl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line asks of every benchmark."""

    scale: float = 1.0  # of the data and repetitions; the targets are for 1
    threads: int = 1  # of numerical libraries, in either side's processes

    def __post_init__(self) -> None:
        if not 0.0 < self.scale <= 1.0:
            raise ValueError(f"Options.scale must lie in (0, 1], got {self.scale}")
        if self.threads < 1:
            raise ValueError(f"Options.threads must be at least 1, got {self.threads}")

    def scaled(self, count: int, *, at_least: int = 1) -> int:
        """A count that is `count` at full scale."""
        return max(at_least, round(count * self.scale))


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One comparison. The ratio is None where one side could not be measured; `note` says why."""

    case: str
    ratio: float | None
    target: float
    ours: float | None
    theirs: float | None
    unit: str  # of ours and theirs
    note: str = ""

    @classmethod
    def rates(
        cls, case: str, *, ours: float, theirs: float, target: float, unit: str, note: str = ""
    ) -> Self:
        """Two figures of which the higher is the better: ours must be `target` times theirs."""
        ratio = ours / theirs
        return cls(
            case=case, ratio=ratio, target=target, ours=ours, theirs=theirs, unit=unit, note=note
        )

    @classmethod
    def costs(
        cls, case: str, *, ours: float, theirs: float, target: float, unit: str, note: str = ""
    ) -> Self:
        """Two figures of which the lower is the better: theirs must be `target` times ours."""
        ratio = theirs / ours
        return cls(
            case=case, ratio=ratio, target=target, ours=ours, theirs=theirs, unit=unit, note=note
        )

    @classmethod
    def at_most(
        cls, case: str, *, measured: float, allowed: float, unit: str, note: str = ""
    ) -> Self:
        """A figure of ours with an upper limit, which stands for theirs."""
        return cls.costs(case, ours=measured, theirs=allowed, target=1.0, unit=unit, note=note)

    @classmethod
    def unmeasured(cls, case: str, *, target: float, unit: str, why: str) -> Self:
        """A comparison that this machine cannot make."""
        return cls(
            case=case, ratio=None, target=target, ours=None, theirs=None, unit=unit, note=why
        )

    @property
    def verdict(self) -> Literal["met", "missed", "not measured"]:
        """Whether the target is met."""
        if self.ratio is None:
            return "not measured"
        return "met" if self.ratio >= self.target else "missed"


def timed(
    function: Callable[[], object],
    clock: Callable[[], float] = time.perf_counter,
    *,
    calls: int = 1,
) -> Measure:
    """How long a call takes, s, of so many in a row; with `time.process_time`, of this CPU."""

    def measure() -> float:
        begun = clock()
        for _ in range(calls):
            function()
        return (clock() - begun) / calls

    return measure


def interleaved(*measures: Measure, rounds: int) -> list[float]:
    """The median of each measure over rounds in which all are taken, one after the other.

    A round before them is not counted. The order is reversed from one round to the next, so that
    what the machine does at the same time falls on all alike.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {rounds}")
    figures: list[list[float]] = [[] for _ in measures]
    order = list(range(len(measures)))
    for turn in range(rounds + 1):
        for index in order:
            gc.collect()  # one side's garbage is not the other's time
            figure = measures[index]()
            if turn > 0:
                figures[index].append(figure)
        order.reverse()
    return [statistics.median(each) for each in figures]


def pin_threads(count: int) -> None:
    """Gives numerical libraries that many threads, in this process and those it starts.

    Raises:
        RuntimeError: if one of them is there already, which would not notice.
    """
    there = [name for name in ("numpy", "torch", "pyarrow") if name in sys.modules]
    if there:
        raise RuntimeError(f"threads must be set before {there} are imported: call this first")
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(count)


def benchmarks() -> dict[str, str]:
    """Every benchmark's name and what it measures, without importing any."""
    found = {}
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem.startswith(("_", "test_")) or path.stem == Path(__file__).stem:
            continue
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        found[path.stem] = text.partition("\n")[0]
    return found


def load(name: str) -> Callable[[Options], Iterable[Row]]:
    """The function that runs a benchmark.

    Raises:
        ValueError: naming those that there are.
    """
    known = benchmarks()
    if name not in known:
        raise ValueError(f"a benchmark must be one of {', '.join(known)}, got {name!r}")
    run: Callable[[Options], Iterable[Row]] = importlib.import_module(f"{__package__}.{name}").run
    return run


def to_json(name: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The result of a benchmark in JSON's types."""
    return {
        "name": name,
        "machine": machine(),
        "versions": versions(),
        "rows": [
            {key: value for key, value in asdict(row).items() if key != "note" or value}
            for row in rows
        ],
    }


def print_table(name: str, rows: Sequence[Row], console: Console) -> None:
    """The result of a benchmark for people."""
    table = Table(title=name, caption=_describe_machine(), caption_justify="left")
    table.add_column("case", overflow="fold")
    for heading in ("ratio", "target", "ours", "theirs"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("unit", overflow="fold")
    table.add_column("", no_wrap=True)
    colour = {"met": "green", "missed": "red", "not measured": "yellow"}
    for row in rows:
        case = escape(row.case) + (f"\n[dim]{escape(row.note)}[/dim]" if row.note else "")
        figures = [f"{_rounded(row.ratio)} x", f"{_rounded(row.target)} x"]
        figures += [_rounded(row.ours), _rounded(row.theirs)]
        verdict = f"[{colour[row.verdict]}]{row.verdict}"
        table.add_row(case, *figures, escape(row.unit), verdict)
    console.print(table)


def machine() -> dict[str, Any]:
    """What the benchmark ran on; nothing that names this one machine."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions() -> dict[str, str]:
    """Versions of Python and of those packages that are installed and matter to the figures."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _describe_machine() -> str:
    here = machine()
    packages = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"{here['cores']} cores of {here['processor']}, {here['memory_gib']} GiB; {packages}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _rounded(figure: float | None) -> str:
    """Three digits, without an exponent."""
    if figure is None:
        return "-"
    if figure == 0.0 or not math.isfinite(figure):
        return f"{figure:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(figure))))
    return f"{figure:,.{digits}f}"
