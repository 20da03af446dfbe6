"""The engine on cases small enough to run as plain Python too: compiled, interpreted and bounds-checked agree."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from npusim import api

pytestmark = pytest.mark.kernels
CASES = [
    ("gemm:8x8x8", "tiny"), ("gemm:5x7x3", "tiny"), ("softmax:4x16", "tiny"), ("conv:1x4x4x4x4x3x1x1", "tiny"),
    ("gemm:8x16x8", "tpu-v1"), ("gemm:8x8x8", "gemmini-16x16"), ("gemm:16x16x16", "tpu-v3"),
    ("layernorm:4x32", "tpu-v3"),
]  # fmt: skip


def facts(model: str, chip: str) -> list[Any]:
    """Cycles, instructions, DRAM counters and a digest of every pipe's states and every event."""
    record = api.run(model, chip).record
    digest = hashlib.sha256(record.states.tobytes() + record.events.tobytes()).hexdigest()
    return [record.total_cycles, int(record.issued.sum()), {k: int(v) for k, v in record.dram_counters.items()}, digest]


@pytest.mark.parametrize(("model", "chip"), CASES)
def test_states_sum_to_the_cycles_of_every_pipe(model: str, chip: str) -> None:
    record = api.run(model, chip).record
    assert record.total_cycles > 0
    assert (record.states.sum(axis=(0, 3)) == record.total_cycles).all()
    assert (record.states >= 0).all()


def test_plain_python_gives_the_same_counters_and_events() -> None:
    """NUMBA_DISABLE_JIT=1 in another process: every counter and event is equal, bit for bit."""
    cases = CASES[:4]
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import test_kernels_small as t;"
        f"print(json.dumps([t.facts(m, c) for m, c in {cases!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[2], env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
    )  # fmt: skip
    assert json.loads(done.stdout) == [facts(m, c) for m, c in cases]
