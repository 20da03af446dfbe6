"""npusim: a cycle-level simulator of AI accelerators; one program gives both the values and the cycles."""

from __future__ import annotations

from typing import Any

from npusim.version import VERSION

__version__ = VERSION

_FROM_API = ("run", "compile", "validate")


def __getattr__(name: str) -> Any:
    """Load `run`, `compile`, `validate` on first use, so that `import npusim` imports neither numba nor matplotlib."""
    if name not in _FROM_API:
        raise AttributeError(f"module 'npusim' has no attribute {name!r}; it offers {', '.join(_FROM_API)}")
    from npusim import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return ["__version__", *_FROM_API]
