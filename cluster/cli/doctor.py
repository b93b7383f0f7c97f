"""`causeway doctor`: whether this machine can run it, line by line, and what to do where not."""

import importlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.text import Text

from causeway.cluster.cli.output import console, print_json

_GIB = 2**30
_PACKAGES = ("numpy", "pyarrow", "gymnasium", "safetensors", "redis", "jinja2", "matplotlib")
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line: what was looked at, what was found, and what to do about it."""

    name: str
    level: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def doctor(
    folder: Annotated[Path, typer.Option(help="Where runs will be written.")] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Check this machine: packages, memory, disk, GPU, Redis, Ray."""
    found = []
    for check in run_checks(folder):
        found.append(check)
        if not as_json:
            _print(check)
    if as_json:
        print_json([vars(check) for check in found])
    failures = sum(check.level == "fail" for check in found)
    if failures:
        raise typer.Exit(1)


def run_checks(folder: Path) -> Iterator[Check]:
    """Every check in turn; one that breaks is a failure of its own and stops no other."""
    checks: tuple[tuple[str, Callable[[], Check]], ...] = (
        ("python", check_python),
        ("packages", check_packages),
        ("cores", check_cores),
        ("memory", check_memory),
        ("shared memory", check_shared_memory),
        ("disk", lambda: check_disk(folder)),
        ("torch", check_torch),
        ("mujoco", check_mujoco),
        ("redis server", check_redis_server),
        ("ray", check_ray),
    )
    for name, check in checks:
        try:
            yield check()
        except Exception as error:
            yield Check(
                name=name,
                level="fail",
                found=f"{type(error).__name__}: {error}",
                advice="reinstall what is named: pip install --force-reinstall causeway",
            )


def check_python() -> Check:
    """Python's version, ours, and the platform."""
    from causeway import __version__

    found = f"{platform.python_version()}, causeway {__version__}, {platform.platform(terse=True)}"
    return Check(name="python", level="ok", found=found)


def check_packages() -> Check:
    """The small packages: there, with their versions."""
    versions, missing = [], []
    for package in _PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
    if missing:
        return Check(
            name="packages",
            level="fail",
            found=f"missing: {', '.join(missing)}",
            advice=f"pip install {' '.join(missing)}",
        )
    return Check(name="packages", level="ok", found=", ".join(versions))


def check_cores() -> Check:
    """The cores that this process may use, which a container may limit."""
    cores = usable_cores()
    total = os.cpu_count() or 1
    found = f"{cores:g} usable" + (f" of {total}" if cores != total else "")
    if cores < 2:
        return Check(
            name="cores",
            level="warn",
            found=found,
            advice="learner and collectors will share one core: set fewer collectors",
        )
    return Check(name="cores", level="ok", found=found)


def check_memory() -> Check:
    """Memory that is left, within a container's limit: Ray's object store alone takes 1 GiB."""
    available, total = usable_memory()
    found = f"{available / _GIB:.1f} GiB free of {total / _GIB:.1f}"
    if available < 2 * _GIB:
        advice = "close other programs, or lower the object store's size and the collectors"
        level: Literal["warn", "fail"] = "fail" if available < _GIB else "warn"
        return Check(name="memory", level=level, found=found, advice=advice)
    return Check(name="memory", level="ok", found=found)


def check_shared_memory() -> Check:
    """/dev/shm, where Ray's object store lies; without room it falls back to disk."""
    place = Path("/dev/shm")
    if not place.is_dir():
        return Check(name="shared memory", level="ok", found="not used on this platform")
    free = shutil.disk_usage(place).free
    found = f"{free / _GIB:.1f} GiB free in {place}"
    if free < _GIB:
        advice = "in a container, start it with --shm-size=2g; else Ray puts objects on disk"
        return Check(name="shared memory", level="warn", found=found, advice=advice)
    return Check(name="shared memory", level="ok", found=found)


def check_disk(folder: Path) -> Check:
    """Room and permission where runs will be written."""
    place = next(p for p in (folder.resolve(), *folder.resolve().parents) if p.is_dir())
    free = shutil.disk_usage(place).free
    found = f"{free / _GIB:.1f} GiB free in {place}"
    if not os.access(place, os.W_OK):
        return Check(
            name="disk",
            level="fail",
            found=f"{place} cannot be written to",
            advice="choose another folder with --folder",
        )
    if free < 10 * _GIB:
        advice = "data sets and checkpoints need more: free some, or choose another --folder"
        level: Literal["warn", "fail"] = "fail" if free < _GIB else "warn"
        return Check(name="disk", level=level, found=found, advice=advice)
    return Check(name="disk", level="ok", found=found)


def check_torch() -> Check:
    """Torch, and the GPUs it can use."""
    torch = importlib.import_module("torch")
    if torch.cuda.is_available():
        devices = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        names = ", ".join(f"{d.name} ({d.total_memory / _GIB:.0f} GiB)" for d in devices)
        return Check(name="torch", level="ok", found=f"{torch.__version__}, {names}")
    if Path("/dev/nvidiactl").exists():
        return Check(
            name="torch",
            level="warn",
            found=f"{torch.__version__} cannot use this machine's NVIDIA GPU",
            advice="install torch's CUDA build, or check the driver with nvidia-smi",
        )
    return Check(name="torch", level="ok", found=f"{torch.__version__}, no GPU: trains on the CPU")


def check_mujoco() -> Check:
    """MuJoCo, by one step of an empty world."""
    mujoco = importlib.import_module("mujoco")
    model = mujoco.MjModel.from_xml_string("<mujoco/>")
    mujoco.mj_step(model, mujoco.MjData(model))
    return Check(name="mujoco", level="ok", found=str(mujoco.__version__))


def check_redis_server() -> Check:
    """The server that a run without a --redis URL starts for itself."""
    from causeway.cluster.redis_server import RedisServerError, find_server_binary

    try:
        binary = find_server_binary()
    except RedisServerError as error:
        return Check(name="redis server", level="fail", found="none", advice=str(error))
    answer = subprocess.run(
        [str(binary), "--version"], capture_output=True, text=True, timeout=10, check=False
    )
    if answer.returncode != 0:
        return Check(
            name="redis server",
            level="fail",
            found=f"{binary} does not run: {answer.stderr.strip()}",
            advice="install valkey-server or redis-server with the system's package manager",
        )
    version = " ".join(answer.stdout.split()[:3])
    return Check(name="redis server", level="ok", found=f"{version} ({binary})")


def check_ray() -> Check:
    """Ray can be imported, in the one version that our RLlib adapters are written for."""
    ray = importlib.import_module("ray")
    if not ray.__version__.startswith("2.60."):
        return Check(
            name="ray",
            level="warn",
            found=f"{ray.__version__}; tested with 2.60",
            advice="pip install 'ray[rllib]>=2.60,<2.61'",
        )
    return Check(name="ray", level="ok", found=ray.__version__)


def usable_cores() -> float:
    """Cores by affinity and by the container's quota, whichever is less."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = float(len(affinity(0)) if affinity else os.cpu_count() or 1)
    quota, _, period = _read("/sys/fs/cgroup/cpu.max").partition(" ")
    if quota.isdigit() and period.isdigit():
        cores = min(cores, int(quota) / int(period))
    return cores


def usable_memory() -> tuple[int, int]:
    """Free and total bytes, by the machine and by the container's limit, whichever is less."""
    page = os.sysconf("SC_PAGE_SIZE")
    total = available = os.sysconf("SC_PHYS_PAGES") * page
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit, used = (_read(f"/sys/fs/cgroup/memory.{part}") for part in ("max", "current"))
    if limit.isdigit() and used.isdigit():
        total = min(total, int(limit))
        available = min(available, max(0, int(limit) - int(used)))
    return available, total


def _read(path: str) -> str:
    """A small file of the system, or nothing where it is absent."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _print(check: Check) -> None:
    line = Text.assemble(
        (f"{check.level:<5}", _STYLES[check.level]), (f"{check.name:<15}", "bold"), check.found
    )
    console().print(line, soft_wrap=True)
    if check.advice:
        console().print(Text(f"{'':<20}-> {check.advice}", style="dim"), soft_wrap=True)
