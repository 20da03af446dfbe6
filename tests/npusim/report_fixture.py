"""A synthetic, deterministic Result that obeys the invariants of a real one: 100 operators on two tpu-v3-like cores.

Reports are developed and tested on it without the engine. Every operator's cycles are at least what its MACs and its
bytes need, and the states of every pipe sum to the launch's span.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from isa.machine import Machine
from isa.program import (
    INSTR,
    LAUNCH,
    LAUNCH_ESTIMATE,
    LAUNCH_HOST,
    LAUNCH_KERNEL,
    Kernel,
    Operator,
    Program,
    instruction,
)
from isa.table import code
from npusim.record import CAUSE_ID, CAUSES, EVENT, CheckResult, PipeInfo, Record, Result

CORES = 2

# class, unit, label and, for a matrix and a vector operator, how the cycles that are not busy split up
PIPES = (
    PipeInfo(0, "scalar", 0, "SCALAR"),
    PipeInfo(1, "weights", 0, "WLOAD0"),
    PipeInfo(2, "weights", 1, "WLOAD1"),
    PipeInfo(3, "matrix", 0, "MXU0"),
    PipeInfo(4, "matrix", 1, "MXU1"),
    PipeInfo(5, "vector", 0, "VPU"),
    PipeInfo(6, "cross_lane", 0, "XLU"),
    PipeInfo(7, "dma", 0, "DMA IN"),
    PipeInfo(8, "dma", 0, "DMA OUT"),
)
STALLS = {
    "scalar": {"queue_full": 5, "dispatch": 1, "barrier": 1, "drained": 1},
    "weights": {"wait_dma": 4, "queue_full": 3, "port_conflict": 1, "drained": 2},
    "matrix": {"wait_dma": 6, "wait_weights": 3, "dispatch": 1, "drained": 1},
    "vector": {"wait_matrix": 5, "wait_dma": 2, "port_conflict": 1, "drained": 3},
    "cross_lane": {"wait_vector": 2, "drained": 8},
    "dma": {"memory_bandwidth": 6, "memory_latency": 3, "queue_full": 1, "drained": 1},
}

# op type, output shape, MACs, flops, bytes moved to and from DRAM: a transformer layer with a convolution stem
LAYER = (
    ("LayerNormalization", (8, 384, 768), 0, 8, 2),
    ("Gemm", (8, 384, 2304), 768, 0, 2),
    ("Transpose", (8, 12, 384, 64), 0, 0, 2),
    ("MatMul", (8, 12, 384, 384), 64, 0, 1),
    ("Softmax", (8, 12, 384, 384), 0, 5, 2),
    ("MatMul", (8, 12, 384, 64), 384, 0, 3),
    ("Gemm", (8, 384, 768), 768, 0, 2),
    ("Add", (8, 384, 768), 0, 1, 3),
)
STEM = (
    ("Conv", (8, 64, 112, 112), 147, 0, 2),
    ("Conv", (8, 128, 56, 56), 576, 0, 2),
    ("MaxPool", (8, 128, 28, 28), 0, 4, 5),
    ("Gather", (8, 384, 768), 0, 0, 2),
)


def machine(**changes: Any) -> Machine:
    """A tpu-v3-like machine; figures are for tests only."""
    # fmt: off
    timing = dict(
        nCL=14, nCWL=4, nRCDRD=14, nRCDWR=10, nRP=14, nRAS=33, nRC=47, nWR=16, nRTP=5, nCCD_S=1, nCCD_L=2,
        nRRD_S=4, nRRD_L=6, nFAW=16, nWTR_S=6, nWTR_L=8, nRFC=350, nREFI=3900,
    )
    # fmt: on
    part = dict(
        tck_ps=1067.0,
        bus_bits=64,
        data_rate=2,
        burst_length=4,
        bank_groups=4,
        banks_per_group=4,
        page_bytes=1024,
        rows=65536,
        timing=timing,
    )
    data: dict[str, Any] = dict(
        name="tpu-v3-like",
        description="two cores, two 128 x 128 arrays each",
        issue="vliw",
        default_dtype="bf16",
        clock_mhz=940.0,
        cores=CORES,
        launch_cycles=200,
        core=dict(
            bundle=dict(scalar=2, vector=2, matrix=2, dma=1),
            spaces=dict(
                spm=dict(size_bytes=16 << 20, label="VMEM"),
                acc=dict(size_bytes=4 << 20),
                wfifo=dict(size_bytes=1 << 18),
            ),
            matrix=dict(
                count=2, rows=128, cols=128, passes=dict(bf16=1.0, fp32=6.0), accumulate=dict(bf16="fp32", fp32="fp32")
            ),
            vector=dict(lanes=128, sublanes=8, alus=2),
            cross_lane=dict(elements_per_cycle=1024.0, latency_cycles=64),
            dma={"in": dict(label="DMA IN"), "out": dict(label="DMA OUT")},
            paths=[
                dict(src="dram", dst="spm", pipe="in", bytes_per_cycle=512.0),
                dict(src="spm", dst="dram", pipe="out", bytes_per_cycle=512.0),
                dict(src="spm", dst="wfifo", pipe="weights", bytes_per_cycle=256.0),
                dict(src="acc", dst="spm", pipe="out", bytes_per_cycle=1024.0),
            ],
        ),
        memory=dict(dram=part, channels=60, capacity_bytes=32 << 30),
    )
    return Machine.model_validate({**data, **changes})


def _operators(count: int) -> tuple[list[Operator], list[int]]:
    rows = [*STEM, *(LAYER * (count // len(LAYER) + 1))][:count]
    operators, moved = [], []
    for i, (op_type, shape, depth, per_element, accesses) in enumerate(rows):
        elements = int(np.prod(shape))
        macs = elements * depth
        name = (
            f"/encoder/layer.{(i - len(STEM)) // len(LAYER)}/{op_type.lower()}_{i}"
            if i >= len(STEM)
            else f"/stem/{op_type.lower()}_{i}"
        )
        size_bytes = 2 * elements * accesses + 2 * depth * shape[-1]
        operators.append(
            Operator(
                name,
                op_type,
                shape,
                (name,),
                "bf16",
                macs,
                2 * macs + elements * per_element,
                size_bytes,
                padded_macs=int(macs * 1.04),
                approximated=op_type == "Gather",
            )
        )
        moved.append(size_bytes)
    return operators, moved


def _split(cycles: int, busy: int, stalls: dict[str, int], rng: np.random.Generator) -> np.ndarray:
    """Distribute `cycles` over causes so that they sum exactly."""
    states = np.zeros(len(CAUSES), np.int64)
    busy = min(busy, cycles)
    states[0] = busy
    rest = cycles - busy
    weights = np.array(list(stalls.values()), float) * rng.uniform(0.5, 1.5, len(stalls))
    parts = np.floor(rest * weights / weights.sum()).astype(np.int64)
    parts[0] += rest - parts.sum()
    for name, part in zip(stalls, parts):
        states[CAUSE_ID[name]] += part
    return states


def _launch_states(host: Machine, operator: Operator, cycles: int, moved: int, rng: np.random.Generator) -> np.ndarray:
    launch_cycles = min(host.launch_cycles, cycles)
    body = cycles - launch_cycles
    array = operator.padded_macs / host.peak_macs_per_cycle
    elements = (operator.flops - 2 * operator.macs) / (CORES * 2048)
    busy = {
        "scalar": 0.1 * body,
        "weights": array * 0.3,
        "matrix": array,
        "cross_lane": elements * 0.2,
        "vector": max(elements, array * 0.1),
        "dma": moved / CORES / 512,
    }
    states = np.zeros((CORES, len(PIPES), len(CAUSES)), np.int64)
    for core in range(CORES):
        for pipe in PIPES:
            stalls = STALLS[pipe.pipe_class]
            if pipe.pipe_class == "matrix" and not operator.macs:
                stalls = {"drained": 1}
            states[core, pipe.index] = _split(body, int(busy[pipe.pipe_class]), stalls, rng)
            states[core, pipe.index, CAUSE_ID["launch"]] += launch_cycles
    return states


def _events(spans: np.ndarray, per_launch: int) -> np.ndarray:
    """A few back-to-back instructions a pipe in every launch, in time order."""
    rows = []
    for launch, (start, end) in enumerate(spans):
        edges = np.linspace(start + (end - start) // 10, end, per_launch + 1).astype(np.int64)
        for core in range(CORES):
            for pipe, instr in ((0, 5), (3, 2), (4, 2), (5, 3), (7, 0), (8, 4)):
                rows += [(edges[i], edges[i + 1], core, pipe, launch, instr) for i in range(per_launch)]
    events = np.array(rows, EVENT)
    return events[np.argsort(events["start"], kind="stable")]


def _program(operators: list[Operator]) -> Program:
    instrs = np.array([instruction(code(n)) for n in ("cp", "ldw", "mm", "v.add", "cp", "wait", "halt")], INSTR)
    launches = np.zeros(len(operators), LAUNCH)
    launches["operator"] = np.arange(len(operators))
    launches["kind"] = LAUNCH_KERNEL
    launches["host_op"] = -1
    for i, operator in enumerate(operators):
        if operator.op_type == "MaxPool":
            launches[i]["kind"] = LAUNCH_HOST
        elif operator.op_type == "Gather":
            launches[i]["kind"] = LAUNCH_ESTIMATE
    kernel = Kernel("kernel", 0, len(instrs), (), {"spm": 3 << 20, "acc": 1 << 20})
    return Program(
        "synthetic",
        "tpu-v3-like",
        instrs,
        np.zeros(0),
        (kernel,),
        launches,
        np.zeros(0, np.int64),
        (),
        tuple(operators),
        memory_bytes={"dram": 1 << 30},
    )


def result(count: int = 100, events_per_launch: int = 3, model: str = "bert-stem", **changes: Any) -> Result:
    """The synthetic run: `count` operators, a fixed seed; `changes` replace fields of the machine."""
    chip, rng = machine(**changes), np.random.default_rng(7)
    operators, moved = _operators(count)
    dram_rate = chip.dram_bytes_per_second / (chip.clock_mhz * 1e6)
    states, spans, path_bytes, dram, clock = [], [], [], [], 0
    for operator, size_bytes in zip(operators, moved):
        ideal = max(operator.padded_macs / chip.peak_macs_per_cycle, size_bytes / dram_rate, 400.0)
        ideal = max(ideal, (operator.flops - 2 * operator.macs) / (CORES * 2048))
        cycles = int(np.ceil(ideal / rng.uniform(0.35, 0.93))) + chip.launch_cycles
        states.append(_launch_states(chip, operator, cycles, size_bytes, rng))
        if operator.op_type == "MaxPool":
            states[-1][:] = 0
            states[-1][:, :, CAUSE_ID["host"]] = cycles
        spans.append((clock, clock + cycles))
        read = size_bytes * 2 // 3
        weights = min(size_bytes // 4, cycles * 256) if operator.macs else 0
        path_bytes.append((read, size_bytes - read, weights, (size_bytes - read) if operator.macs else 0))
        dram.append((read, size_bytes - read))
        clock += cycles
    span = np.array(spans, np.int64).reshape(-1, 2)
    bins = 256
    wave = 0.5 + 0.35 * np.sin(np.arange(bins) / 5.0) * rng.uniform(0.6, 1.0, bins)
    series = np.stack([wave * 0.6, wave * 0.3]) * dram_rate * clock / bins
    issued = np.tile(np.array([40, 4, 8, 6, 2, 0, 12, 9]), (count, 1))
    record = Record(
        PIPES,
        clock,
        np.array(states, np.int64).reshape(count, CORES, len(PIPES), len(CAUSES)),
        span,
        np.array(path_bytes, np.int64).reshape(-1, 4),
        np.array(dram, np.int64).reshape(-1, 2),
        np.array([o.padded_macs for o in operators], np.int64),
        issued,
        {"row_hits": 90210, "row_misses": 8190, "refreshes": 77},
        series,
        clock / bins,
        _events(span, events_per_launch),
        0,
        0.42,
    )
    check = CheckResult(True, 0.0021, 0.0150, 0.991, {"logits": 0.0031})
    return Result(
        model,
        chip.name,
        "bf16",
        "cycle",
        chip,
        _program(operators),
        record,
        assumptions=("gather indices: uniform (seed 0)",),
        check=check,
        wall_s=1.9,
        host_us=12.5,
        graph_macs=sum(o.macs for o in operators),
        graph_flops=sum(o.flops for o in operators),
    )


def renamed(source: Result, index: int, name: str) -> Result:
    """The same run with operator `index` called `name`."""
    operators = list(source.program.operators)
    operators[index] = replace(operators[index], name=name)
    return replace(source, program=replace(source.program, operators=tuple(operators)))
