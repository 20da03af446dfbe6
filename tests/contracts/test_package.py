"""What is installed: imports go one way, a wheel holds every package and data file, importing compiles nothing."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("isa", "compiler", "npusim", "configs", "traces")


def test_imports_go_one_way() -> None:
    """The contracts of pyproject.toml, by import-linter."""
    program = Path(sys.executable).with_name("lint-imports")
    if not program.exists():
        pytest.skip("import-linter is not installed (pip install '.[test]')")
    done = subprocess.run([program, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout


def test_the_version_is_stated_once_more_and_equal() -> None:
    import npusim

    assert f'\nversion = "{npusim.__version__}"\n' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[set[str], set[str]]:
    """(names in a copy of the packages, names in the wheel built from it without network)."""
    try:
        version("setuptools")
    except PackageNotFoundError:
        pytest.skip("setuptools is not installed, and a test may not download it")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    wanted = {p.relative_to(source).as_posix() for n in PACKAGES for p in (source / n).rglob("*") if p.is_file()}
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(out.glob("npusim-*.whl"))) as archive:
        return wanted, set(archive.namelist())


def test_the_wheel_holds_every_file_of_the_packages(built: tuple[set[str], set[str]]) -> None:
    wanted, wheel = built
    assert {".py", ".yaml", ".asm", ".csv", ".j2", ".css", ".typed"} <= {Path(n).suffix for n in wanted}
    assert not wanted - wheel


def test_the_wheel_holds_nothing_else(built: tuple[set[str], set[str]]) -> None:
    tops = {name.split("/")[0] for name in built[1]}
    assert {t for t in tops if not t.endswith(".dist-info")} == set(PACKAGES)


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("isa.loader", ("numba", "matplotlib", "onnx")),
        ("compiler.compile", ("numba", "matplotlib")),
        ("npusim", ("numba", "matplotlib", "onnx", "numpy")),
        ("npusim.api", ("numba", "matplotlib", "onnx")),
        ("npusim.report", ("numba", "matplotlib", "onnx")),
    ],
)
def test_importing_stays_light(module: str, absent: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
