"""docs/isa.md is generated: it is not stale, and it lacks nothing of the table."""

from __future__ import annotations

import subprocess
import sys

import pytest

import isa
from isa.program import DESC, INSTR
from isa.reference import PAGE, ROOT, cell, main, page
from isa.table import ACTIVATIONS, TABLE, code
from isa.table_simt import SIMT_PIPES


def test_page_is_fresh() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m isa.reference`"


def test_page_names_everything() -> None:
    text = page()
    assert all(f"| `{op.name}` | " in text and cell(op.meaning) in text for op in TABLE)
    assert all(f"`{name}`" in text for name in (*(INSTR.names or ()), *(DESC.names or ())))
    assert all(name in text for name in ACTIVATIONS)
    assert all(f"\n| {name} | " in text for name in SIMT_PIPES)
    assert all(f"`{kind}` " in text for kind in ("vd", "pa", "sc"))


def test_bars_do_not_end_cells() -> None:
    rows = [line for line in page().splitlines() if line.startswith("| `")]
    ors = [row for row in rows if row.startswith("| `ior` |")]
    assert ors == [f"| `ior` | vd sa sb | vd = a \\| b | {code('ior')} |"]


def test_main_writes_the_page(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "isa.md"  # type: ignore[operator]
    monkeypatch.setattr("isa.reference.PAGE", target)
    assert main() == 0
    assert target.read_text(encoding="utf-8") == page()


def test_import_isa_is_light_and_every_public_name_exists() -> None:
    script = "import sys, isa; print([m for m in ('numpy', 'pydantic', 'numba') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    for name in isa.__all__:
        assert getattr(isa, name) is not None
    assert set(isa.__all__) <= set(dir(isa))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        isa.nothing  # noqa: B018
