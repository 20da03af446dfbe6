"""The shipped tables: which preset each one is measured on, how it was timed, and where its numbers come from."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from npusim.validate.table import TableError


@dataclass(frozen=True)
class Table:
    """One shipped table. `settings` are machine and run settings; `dtype` replaces the rows' own.

    `timing` is what a time covers: `kernel` (device time of the kernels), `graph` (launches back to back) or `eager`.
    `caches` is what a shared cache holds at the start, as in `npusim.run`.
    """

    kind: str
    hw: str
    settings: tuple[str, ...] = ()
    dtype: str = ""
    timing: str = "kernel"
    caches: str = ""


# fmt: off
TABLES: dict[str, Table] = {
    "scalesim_gemm":               Table("systolic", ""),
    "scalesim_conv":               Table("systolic", ""),
    "systolic_rtl":                Table("systolic", ""),
    "ramulator2_dram":             Table("dram", ""),
    "textbook":                   Table("textbook", ""),
    # TPU v3 at its 940 MHz, one TensorCore with its half of the HBM (workload.SOURCES); whole runs.
    "tpu_v3_pytorchsim_artifact":  Table("workload", "tpu-v3", timing="graph"),
    # TPU v4 at its 1050 MHz, both TensorCores; times of kernels on the device.
    "tpu_v4_matmul_f16":           Table("gemm", "tpu-v4"),
    "tpu_v4_elementwise_f16":      Table("vector", "tpu-v4"),
    "tpu_v4_normalization_f16":    Table("vector", "tpu-v4", ("run.rows=reread",)),
    "tpu_v4_hbm_to_cmem_copy":     Table("copy", "tpu-v4"),
    # gpu-benches: rates and latencies of whole kernels, at the clock in the row or of the card.
    "v100_pcie_pointer_chase":       Table("pointer_chase", "v100-pcie"),
    "a100_40_pointer_chase":         Table("pointer_chase", "a100-40"),
    "a100_80_pcie_pointer_chase":    Table("pointer_chase", "a100-80-pcie"),
    "h100_pcie_pointer_chase":       Table("pointer_chase", "h100-pcie"),
    "mi210_pointer_chase":           Table("pointer_chase", "mi210"),
    "v100_pcie_cache_bandwidth":     Table("cache_bandwidth", "v100-pcie"),
    "a100_80_pcie_cache_bandwidth":  Table("cache_bandwidth", "a100-80-pcie"),
    "h100_pcie_cache_bandwidth":     Table("cache_bandwidth", "h100-pcie"),
    "mi210_cache_bandwidth":         Table("cache_bandwidth", "mi210"),
    "v100_pcie_stream":              Table("stream", "v100-pcie"),
    "a100_40_stream":                Table("stream", "a100-40"),
    "a100_80_pcie_stream":           Table("stream", "a100-80-pcie"),
    "h100_pcie_stream":              Table("stream", "h100-pcie"),
    "mi210_stream":                  Table("stream", "mi210"),
    # pto-isa: whole kernels, launches included, right after the host has copied their inputs through the L2; products
    # of fp32 results, convolutions of fp16 ones, maps NC1HWC0 before and after; blocks of 128 x 256 as READMEs state.
    "ascend_a3_gemm":       Table("gemm", "ascend-a3", ("run.tile=128x256x256", "run.output_dtype=fp32"), "", "graph",
                                  "warm"),
    "ascend_a3_conv2d":     Table("conv", "ascend-a3", ("run.layout=nc1hwc0",), "", "graph", "warm"),
    "ascend_a3_attention":     Table("attention", "ascend-a3", (), "fp16", "graph"),
    "ascend_910b2_attention":  Table("attention", "ascend-910b2", (), "fp16", "graph"),
}
# fmt: on


def table_text(name: str) -> str:
    """The CSV text of a shipped table; raises TableError for an unknown name."""
    find(name)
    return resources.files("npusim.validate").joinpath("data", f"{name}.csv").read_text(encoding="utf-8")


def find(name: str) -> Table:
    """The entry of a shipped table; raises TableError for an unknown name."""
    if name not in TABLES:
        raise TableError(f"no shipped table is called {name!r}; there are {', '.join(TABLES)}")
    return TABLES[name]
