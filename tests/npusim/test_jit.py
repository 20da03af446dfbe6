"""The kernel decorator, and a cache directory that follows every source it depends on."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numba
import pytest

from npusim import jit

KERNEL_FILES = [
    "npusim/jit.py", "npusim/engine/loop.py", "npusim/memory/deep/part.py", "npusim/functional/simt_core.py",
    "isa/table.py",
]  # fmt: skip
OTHER_FILES = ["npusim/functional/vector.py", "npusim/report/html.py"]


def run(code: str, **environment: str) -> str:
    root = str(Path(jit.__file__).resolve().parents[1])
    kept = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": root, **environment},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (*KERNEL_FILES, *OTHER_FILES):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("CONSTANT = 1\n")
    return tmp_path


@pytest.mark.parametrize("name", KERNEL_FILES)
def test_a_changed_callee_or_constant_gives_another_directory(tree, name):
    before = jit.cache_key(tree, {})
    assert jit.cache_key(tree, {}) == before
    (tree / name).write_text("CONSTANT = 2\n")
    assert jit.cache_key(tree, {}) != before


@pytest.mark.parametrize("name", OTHER_FILES)
def test_files_without_kernels_do_not_matter(tree, name):
    before = jit.cache_key(tree, {})
    (tree / name).write_text("CONSTANT = 2\n")
    assert jit.cache_key(tree, {}) == before


def test_new_and_renamed_kernel_files_matter(tree):
    keys = {jit.cache_key(tree, {})}
    (tree / "npusim/units").mkdir()
    (tree / "npusim/units/pe.py").write_text("")
    keys.add(jit.cache_key(tree, {}))
    (tree / "npusim/engine/loop.py").rename(tree / "npusim/engine/pool.py")
    keys.add(jit.cache_key(tree, {}))
    assert len(keys) == 3


def test_numba_flags_are_part_of_the_key_but_not_the_directory_itself(tree):
    plain = jit.cache_key(tree, {})
    assert jit.cache_key(tree, {"NUMBA_BOUNDSCHECK": "1"}) != plain
    assert jit.cache_key(tree, {"NUMBA_CACHE_DIR": "/x", "HOME": "/y"}) == plain


def test_the_directory_is_the_users_cache_or_a_temporary_one(tmp_path):
    assert jit.cache_root({"XDG_CACHE_HOME": str(tmp_path)}) == tmp_path / "npusim"
    blocked = tmp_path / "file"
    blocked.write_text("")
    fallback = jit.cache_root({"XDG_CACHE_HOME": str(blocked)})
    assert fallback.is_dir() and os.access(fallback, os.W_OK) and tmp_path not in fallback.parents


def test_old_directories_go_but_the_newest_and_the_young_stay(tmp_path):
    for age in range(8):
        (tmp_path / str(age)).mkdir()
        stamp = 1_000_000 - age * 10_000
        os.utime(tmp_path / str(age), (stamp, stamp))
    (tmp_path / "young").mkdir()
    jit.prune(tmp_path, keep=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0", "1", "young"]
    for extra in "abcd":
        (tmp_path / extra).mkdir()
    jit.prune(tmp_path, keep=1)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c", "d", "young"]


SHOW = "import os, npusim.jit; print(os.environ['NUMBA_CACHE_DIR'])"


def test_numba_sees_our_directory_unless_the_user_named_one(tmp_path):
    home = {"XDG_CACHE_HOME": str(tmp_path)}
    ours = tmp_path / "npusim" / jit.cache_key(environment={})
    assert run(SHOW, **home) == str(ours)
    assert run(SHOW, **home, NUMBA_CACHE_DIR=str(tmp_path / "mine")) == str(tmp_path / "mine")
    # A directory of ours that a parent process left in the environment is not the user's wish: sources may differ.
    assert run(SHOW, **home, NUMBA_CACHE_DIR=str(tmp_path / "npusim" / "stale")) == str(ours)
    late = "import numba, npusim.jit; print(numba.config.CACHE_DIR)"
    assert run(late, **home) == str(ours)


def test_importing_npusim_imports_neither_numba_nor_matplotlib():
    code = "import sys, npusim; print(npusim.__version__, sorted({'numba', 'matplotlib', 'numpy'} & set(sys.modules)))"
    assert run(code) == "0.1.0 []"


def test_unknown_names_of_the_package_are_named():
    import npusim

    with pytest.raises(AttributeError, match=r"no attribute 'rnu'.*run"):
        npusim.rnu  # noqa: B018


CALL = """
from npusim.jit import kernel, specialisations
from npusim.engine.clock import next_edge, clock_parts
before, edge = specialisations(next_edge), next_edge(1001, *clock_parts(10**9))
print(before, edge, specialisations(next_edge), hasattr(next_edge, 'py_func'))
"""


def test_kernels_compile_on_first_call_and_run_as_plain_python_too(tmp_path):
    assert run(CALL, XDG_CACHE_HOME=str(tmp_path)) == "0 2 1 True"
    assert run(CALL, XDG_CACHE_HOME=str(tmp_path), NUMBA_DISABLE_JIT="1") == "1 2 1 False"


def test_two_argument_types_are_two_specialisations():
    import numpy as np

    @jit.kernel
    def first(values):
        return values[0]

    first(np.zeros(1, np.int64))
    first(np.ones(2, np.int64))
    assert jit.specialisations(first) == 1
    first(np.zeros(1, np.float64))
    assert jit.specialisations(first) == (2 if hasattr(first, "signatures") else 1)


def test_kernels_cannot_allocate_and_do_not_leak_references():
    import numpy as np

    @jit.kernel
    def tail(values):
        part = values[2:]
        part[:] = 7
        return part.shape[0]

    @jit.kernel
    def fresh(values):
        return np.zeros(3, np.int64)[0] + values[0]

    values = np.zeros(5, np.int64)
    before = sys.getrefcount(values)
    assert [tail(values) for _ in range(100)] == [3] * 100
    assert values.tolist() == [0, 0, 7, 7, 7]
    assert sys.getrefcount(values) == before
    if hasattr(fresh, "signatures"):  # compiled, not plain Python
        with pytest.raises(Exception, match="nopython"):
            fresh(values)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_literals_do_not_make_versions_of_their_own():
    """A kernel that passes 0, 1 and a variable to another one has it compiled once."""

    @jit.kernel
    def inner(x):
        return x + 1

    @jit.kernel
    def outer(x):
        return inner(0) + inner(1) + inner(x)

    assert outer(5) == 9
    assert jit.specialisations(inner) == 1


INDEXING = """
import numba, numpy, npusim.jit
def ours(a, i): return a[i]
def theirs(a, i): return a[i]
ours.__module__ = "npusim.anything"
last = numba.njit(theirs)(numpy.arange(3), -1)
try:
    numba.njit(ours)(numpy.arange(3), -1)
except IndexError:
    print("refused", last)
"""


def test_kernels_do_not_count_from_the_end_but_functions_of_other_packages_do(tmp_path):
    """Only with bounds checks can a test look: without them a negative index of a kernel reads what lies before."""
    assert run(INDEXING, NUMBA_BOUNDSCHECK="1", XDG_CACHE_HOME=str(tmp_path)).split() == ["refused", "2"]
