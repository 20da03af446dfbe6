"""The contract between compiler and simulator: instructions, programs, machines, and the tools that work on them.

The names below are imported when they are first used, so that `import isa` loads neither numpy nor pydantic.
The verifier is `isa.verify.verify`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isa.asm import assemble as assemble
    from isa.binary import load as load
    from isa.binary import save as save
    from isa.disasm import disassemble as disassemble
    from isa.disasm import instr_text as instr_text
    from isa.loader import list_chips as list_chips
    from isa.loader import list_machines as list_machines
    from isa.loader import load_chip as load_chip
    from isa.loader import load_machine as load_machine
    from isa.machine import Machine as Machine
    from isa.program import Program as Program
    from isa.table import TABLE as TABLE

_HOME = {
    "assemble": "asm", "disassemble": "disasm", "instr_text": "disasm", "load": "binary", "save": "binary",
    "list_chips": "loader", "list_machines": "loader", "load_chip": "loader", "load_machine": "loader",
    "Machine": "machine", "Program": "program", "TABLE": "table",
}  # fmt: skip
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'isa' has no attribute {name!r}")
    return getattr(import_module(f"isa.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
