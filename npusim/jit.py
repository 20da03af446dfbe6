"""The one way to compile: the `kernel` decorator and a cache directory that cannot go stale.

Numba keys its on-disk cache by the file of the compiled function alone, so an edit of a callee or of a constant in
another file keeps returning the old machine code. The cache directory is therefore named by a hash over everything
that ends up inside a kernel, and is chosen here, before numba is first imported.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

_ROOT = Path(__file__).resolve().parent.parent
# Kernels, and the modules whose constants they freeze.
_SOURCES = (
    "npusim/jit.py", "npusim/record.py", "npusim/engine/**/*.py", "npusim/units/**/*.py", "npusim/memory/**/*.py",
    "npusim/functional/simt*.py", "npusim/functional/simt*/**/*.py", "isa/*.py",
)  # fmt: skip
KEEP = 5  # cache directories that survive: a few branches or working copies side by side
_GRACE_S = 3600.0  # a younger directory may belong to a running process

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel_sources(root: Path = _ROOT) -> list[Path]:
    """Return every file below `root` whose text can change compiled code, sorted by path."""
    return sorted({path for pattern in _SOURCES for path in root.glob(pattern)})


def cache_key(root: Path = _ROOT, environment: Mapping[str, str] | None = None) -> str:
    """Return the hash of all kernel sources, the tool versions and the NUMBA_* flags (but the directory itself)."""
    flags = os.environ if environment is None else environment
    digest = hashlib.sha256()
    for path in kernel_sources(root):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    digest.update(f"{platform.python_version()} {version('numba')} {version('numpy')}".encode())
    for name in sorted(flags):
        if name.startswith("NUMBA_") and name != "NUMBA_CACHE_DIR":
            digest.update(f"\0{name}={flags[name]}".encode())
    return digest.hexdigest()[:20]


def cache_root(environment: Mapping[str, str] | None = None) -> Path:
    """Return a writable per-user directory for caches: XDG_CACHE_HOME, ~/.cache, else a temporary directory."""
    flags = os.environ if environment is None else environment
    home = flags.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    fallback = Path(tempfile.gettempdir()) / f"npusim-{os.getuid() if hasattr(os, 'getuid') else 'user'}"
    for root in (Path(home) / "npusim", fallback):
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(root, os.W_OK | os.X_OK) and _ours(root):
            return root
    return Path(tempfile.mkdtemp(prefix="npusim-"))


def _ours(root: Path) -> bool:
    """Numba unpickles what lies in its cache, so a directory that another user owns is never trusted."""
    return not hasattr(os, "getuid") or root.stat().st_uid == os.getuid()


def prune(root: Path, keep: int = KEEP, grace_s: float = _GRACE_S) -> None:
    """Delete all but the `keep` newest cache directories of `root`; those younger than `grace_s` seconds stay."""
    ages: list[tuple[float, Path]] = []
    for path in root.iterdir():
        try:
            if path.is_dir():
                ages.append((path.stat().st_mtime, path))
        except OSError:  # another process was faster
            continue
    for changed, path in sorted(ages, reverse=True)[keep:]:
        if time.time() - changed > grace_s:
            shutil.rmtree(path, ignore_errors=True)


def _choose_cache() -> None:
    root = cache_root()
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    # A directory inside our root was set by a parent process, maybe for other sources; any other is the user's wish.
    if chosen and root not in Path(chosen).parents:
        return
    directory = root / cache_key()
    directory.mkdir(exist_ok=True)
    os.utime(directory)
    prune(root)
    os.environ["NUMBA_CACHE_DIR"] = str(directory)
    if "numba" in sys.modules:
        sys.modules["numba"].config.CACHE_DIR = str(directory)  # imported before us: its config is already read


_choose_cache()

import numba  # noqa: E402  (reads NUMBA_CACHE_DIR on import)


def _count_from_the_start() -> None:
    """Compile indices of our kernels as they are: numba lets a negative one count from the end, at every access.

    No kernel uses that, and it costs a fifth of their time. Functions of other packages keep it. NUMBA_BOUNDSCHECK
    refuses a negative index of ours. Where numba has no such function, kernels are as slow as it makes them.
    """
    from numba.np import arrayobj

    known = getattr(arrayobj, "fix_integer_index", None)
    if known is None or [*inspect.signature(known).parameters] != ["context", "builder", "idxty", "idx", "size"]:
        return

    def fix_integer_index(context: Any, builder: Any, idxty: Any, idx: Any, size: Any) -> Any:
        if builder.function.name.startswith("_ZN6npusim"):  # the mangled name begins with the package
            return context.cast(builder, idx, idxty, numba.types.intp)
        return known(context, builder, idxty, idx, size)

    arrayobj.fix_integer_index = fix_integer_index


_count_from_the_start()

_OPTIONS: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy", "_nrt": False}


def kernel(function: Function) -> Function:
    """Compile `function` on first call, without the GIL, cached on disk; plain Python under NUMBA_DISABLE_JIT=1.

    A kernel works on the arrays it is given: it may slice them, but allocating or returning one is a compile error.
    That lets numba drop its reference counts (`_nrt`), whose atomics at every inner call cost more than the work:
    the DRAM kernel runs three times as fast without. error_model is 'numpy': no branch and no exception path behind
    every division; divisors are checked once by the driver that builds the arguments. Bounds checks are left to
    NUMBA_BOUNDSCHECK.
    """
    return _once(numba.njit(**_OPTIONS)(function))  # type: ignore[no-any-return]


def inlined(function: Function) -> Function:
    """A kernel that is copied into its callers: for small ones whose call would cost more than their work."""
    return _once(numba.njit(**_OPTIONS, forceinline=True)(function))  # type: ignore[no-any-return]


def _once(compiled: Any) -> Any:
    """Let kernels that pass a literal share the version for its type: each of those would be compiled anew."""
    if hasattr(compiled, "get_call_template"):
        template: Any = compiled.get_call_template
        plain: Any = numba.types.unliteral
        compiled.get_call_template = lambda args, kws: template(
            tuple(plain(a) for a in args), {k: plain(a) for k, a in kws.items()}
        )
    return compiled


def specialisations(function: Callable[..., Any]) -> int:
    """Return how many argument-type combinations of a kernel were compiled or loaded; 1 for plain Python."""
    signatures: Iterable[Any] | None = getattr(function, "signatures", None)
    return 1 if signatures is None else len(list(signatures))
