"""Machines for the tests of assembler and verifier, built here so that no shipped figure is assumed."""

from __future__ import annotations

from typing import Any

from isa.machine import Machine

_TIMING = {
    "nCL": 4, "nCWL": 4, "nRCDRD": 4, "nRCDWR": 4, "nRP": 4, "nRAS": 4, "nRC": 8, "nWR": 4, "nRTP": 4, "nCCD_S": 2,
    "nCCD_L": 4, "nRRD_S": 4, "nRRD_L": 4, "nFAW": 4, "nWTR_S": 4, "nWTR_L": 4, "nRFC": 4, "nREFI": 1000,
}  # fmt: skip
_DRAM = {
    "tck_ps": 1000, "bus_bits": 64, "data_rate": 2, "burst_length": 4, "bank_groups": 1, "banks_per_group": 4,
    "page_bytes": 1024, "rows": 8192, "timing": _TIMING,
}  # fmt: skip


def path(src: str, dst: str, pipe: str) -> dict[str, Any]:
    """One legal way."""
    return {"src": src, "dst": dst, "pipe": pipe, "bytes_per_cycle": 8}


def machine(**changes: Any) -> Machine:
    """A 4 x 4 weight-stationary inorder machine with a drain; `changes` replace keys, `core__x` those of the core."""
    core: dict[str, Any] = {
        "scalar": {"registers": 16},
        "flags": 8,
        "spaces": {"spm": {"size_bytes": 8192, "align_bytes": 4}, "acc": {"size_bytes": 4096},
                   "wfifo": {"size_bytes": 1024}},
        "matrix": {"count": 2, "rows": 4, "cols": 4, "passes": {"int8": 1, "fp32": 4},
                   "accumulate": {"int8": "int32", "fp32": "fp32"}},
        "vector": {"lanes": 8},
        "cross_lane": {"elements_per_cycle": 8, "latency_cycles": 4},
        "drain": {"elements_per_cycle": 4, "latency_cycles": 4, "activations": ["relu"]},
        "dma": {"load": {"count": 2}, "store": {}},
        "paths": [path("dram", "spm", "load"), path("spm", "dram", "store"), path("dram", "wfifo", "weights")],
    }  # fmt: skip
    core |= {k[6:]: v for k, v in changes.items() if k.startswith("core__")}
    top: dict[str, Any] = {
        "name": "test4x4", "issue": "inorder", "default_dtype": "int8", "clock_mhz": 1000, "cores": 2, "core": core,
        "memory": {"dram": _DRAM, "channels": 1, "capacity_bytes": 1 << 20},
    }  # fmt: skip
    top |= {k: v for k, v in changes.items() if not k.startswith("core__")}
    return Machine.model_validate(top)


def matrix(**changes: Any) -> dict[str, Any]:
    """The array's description with changes."""
    return machine().core.matrix.model_dump(exclude_none=True) | changes


def vliw() -> Machine:
    """The same chip with bundles."""
    return machine(issue="vliw", core__bundle={"scalar": 2, "vector": 1, "matrix": 2, "dma": 1, "misc": 1})
