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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Names in a wheel built from a copy of the tree, without network."""
    try:
        version("setuptools")
    except PackageNotFoundError:
        pytest.skip("setuptools is not installed, and a test may not download it")
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "-q", "-w", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(next(out.glob("npusim-*.whl"))) as archive:
        return archive.namelist()


def test_the_wheel_holds_every_file_of_the_packages(wheel: list[str]) -> None:
    wanted = {p.relative_to(ROOT).as_posix() for name in PACKAGES for p in (ROOT / name).rglob("*") if p.is_file()}
    wanted = {name for name in wanted if "__pycache__" not in name}
    assert {".py", ".yaml", ".asm", ".csv", ".j2", ".css", ".typed"} <= {Path(n).suffix for n in wanted}
    assert not wanted - set(wheel)


def test_the_wheel_holds_nothing_else(wheel: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
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
