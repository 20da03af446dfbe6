"""npusim: a cycle-level simulator of AI accelerators; one program gives both the values and the cycles."""

from __future__ import annotations

import importlib
from typing import Any

from npusim.version import VERSION

__version__ = VERSION

_HOMES = {
    "run": "npusim.api", "compile": "npusim.api", "validate": "npusim.api", "sim": "npusim.programs",
    "write_reports": "npusim.report",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load what the package offers on first use, so that `import npusim` imports neither numba nor matplotlib."""
    if name not in _HOMES:
        raise AttributeError(f"module 'npusim' has no attribute {name!r}; it offers {', '.join(_HOMES)}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return ["__version__", *_HOMES]
