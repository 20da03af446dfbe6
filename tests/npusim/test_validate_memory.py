"""Kinds that stress a chip's memory: which rows are a chip's own, what a row simulates, and the plateaus it reaches."""

from __future__ import annotations

from pathlib import Path

import pytest

from isa.errors import NpuError
from npusim.validate import MEMORY_KINDS, TABLES, Summary, kind_of, text_lines, validate
from npusim.validate.devices import DEVICES, FAMILY, preset_of
from npusim.validate.index import table_text
from npusim.validate.table import parse_table

CHASE = "device,clock_mhz,buffer_kib,latency_cycles,latency_ns\n"
CACHE = "device,test,kb_per_block,data_set_kb,effective_gb_per_s\n"
STREAM = "device,kernel,block_size,total_threads,occupancy_pct,gb_per_s\n"


def run(tmp_path: Path, kind: str, text: str, hw: str, **options: object) -> Summary:
    path = tmp_path / "t.csv"
    path.write_text(text, encoding="utf-8")
    return validate(kind, path, hw, **options)


# ---- whose rows


@pytest.mark.parametrize(
    ("device", "hw", "wanted"),
    [
        ("v100", "v100-pcie", "v100-pcie"), ("v100", "v100", "v100-pcie"), ("a100_80", "a100", "a100-80-pcie"),
        ("A100_80", "a100-80-pcie", "a100-80-pcie"), ("a100_40", "a100", ""), ("h100_pcie", "h100", ""),
        ("h200", "h100", ""), ("h100_pcie", "h800-pcie", "h100-pcie"), ("my-card", "h100", "h100"),
        ("", "mi210", "mi210"),
        ("v100", "mine.yaml", "mine.yaml"),
    ],
)  # fmt: skip
def test_a_device_names_a_chip(device: str, hw: str, wanted: str) -> None:
    assert preset_of(device, hw) == wanted


def test_presets_of_the_device_table_exist() -> None:
    from isa.loader import list_chips

    known = {name for name, _ in list_chips()}
    assert {*DEVICES.values()} - {""} <= known and {*FAMILY} <= known


def test_rows_of_other_devices_are_counted_apart(tmp_path: Path) -> None:
    text = STREAM + "v100,init,64,5120,6.2,306\nl40,init,64,9088,8.3,643\nl40,read,64,9088,8.3,320\na40,init,64,1,8,1\n"
    summary = run(tmp_path, "stream", text, "v100-pcie")
    assert len(summary.lines) == 1 and summary.others == {"l40": 2, "a40": 1}
    assert summary.as_dict()["other_devices"] == {"l40": 2, "a40": 1} and summary.as_dict()["rows"] == 1
    assert "neither run nor judged: l40 2, a40 1" in list(text_lines(summary))[-1]


def test_a_table_without_a_row_of_the_chip_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NpuError, match="no row was measured on mi210; the devices are l40: give --hw"):
        run(tmp_path, "stream", STREAM + "l40,init,64,9088,8.3,643\n", "mi210")


def test_rows_are_spread_over_the_chips_own(tmp_path: Path) -> None:
    rows = [f"{device},1410,{kib},36,\n" for device in ("l40", "a100_80", "a40") for kib in (4, 8, 16)]
    summary = run(tmp_path, "pointer_chase", CHASE + "".join(rows), "a100-80-pcie", rows=2)
    assert [line.number for line in summary.lines] == [4, 6]


@pytest.mark.parametrize(
    ("kind", "text", "hw", "options", "reason"),
    [
        ("stream", STREAM + "v100,init,64,1,6,306\n", None, {}, "needs a chip: give --hw"),
        ("stream", STREAM + "v100,init,64,1,6,306\n", "v100", {"settings": ("run.cores=1",)}, "runs no program"),
        ("stream", STREAM + "v100,init,64,1,6,306\n", "v101", {}, "unknown chip 'v101'"),
        ("stream", "device,kernel\nv100,init\n", "v100", {}, "needs a column block_size; occupancy_pct; gb_per_s"),
    ],
)
def test_what_cannot_be_asked(tmp_path: Path, kind: str, text: str, hw: str, options: dict, reason: str) -> None:
    with pytest.raises(NpuError, match=reason):
        run(tmp_path, kind, text, hw, **options)


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("stream", STREAM + "v100,dot,64,1,6,306\n", "'dot' is not one of init, read"),
        ("stream", STREAM + "v100,init,2048,1,6,306\n", "2048 is more than 1024"),
        ("stream", STREAM + "v100,init,64,1,600,306\n", "a core has room for 32 blocks and 64 warps"),
        ("pointer_chase", CHASE + "v100,1380,64,,\n", "needs latency_cycles or latency_ns"),
        ("pointer_chase", CHASE + "v100,1380,99999999,30,\n", "more than the chip's"),
        ("cache_bandwidth", CACHE + "v100,l3,,64,9\n", "'l3' is not one of private_l1, shared_l2"),
        ("cache_bandwidth", CACHE + "v100,shared_l2,,64,9\n", "column kb_per_block"),
    ],
)
def test_rows_that_cannot_be_simulated_say_why(tmp_path: Path, kind: str, text: str, reason: str) -> None:
    line = run(tmp_path, kind, text, "v100").lines[0]
    assert line.outcome is None and reason in line.reason


def test_a_chip_with_a_program_has_no_threads(tmp_path: Path) -> None:
    line = run(tmp_path, "stream", STREAM + "mine,init,64,1,6,306\n", "tpu-v3").lines[0]
    assert line.outcome is None and "has no cores with threads" in line.reason


# ---- shipped tables


def test_every_shipped_table_is_of_its_chip() -> None:
    names = [name for name, table in TABLES.items() if table.kind in MEMORY_KINDS]
    assert len(names) == 14
    for name in names:
        table = TABLES[name]
        rows = parse_table(table_text(name), name, table.kind, kind_of(table.kind).COLUMNS)
        assert 20 <= len(rows) <= 60 and {DEVICES[row.text("device")] for row in rows} == {table.hw}


# ---- what a row simulates


def test_latency_in_ns_is_the_same_as_in_cycles(tmp_path: Path) -> None:
    lines = run(tmp_path, "pointer_chase", CHASE + "v100,1380,8,30,\nv100,1380,8,,21.739\n", "v100").lines
    first, second = (line.outcome for line in lines)
    assert first.measured == 30 and second.measured == pytest.approx(30, rel=1e-3)
    assert first.simulated == second.simulated == pytest.approx(30, abs=0.5)


def test_the_clock_of_a_row_is_the_chips(tmp_path: Path) -> None:
    """DRAM keeps its own clock: at half the core clock a miss takes fewer cycles."""
    text = CHASE + "v100,1380,200000,435,\nv100,690,200000,435,\n"
    fast, slow = (line.outcome.simulated for line in run(tmp_path, "pointer_chase", text, "v100-pcie").lines)
    assert slow < fast - 10


# Plateaus that the measured cards show, away from the sizes of their caches: (row, per cent that the model may be off).
PLATEAUS = [
    ("pointer_chase", "v100", "v100,1380,64,30.1,", 3), ("pointer_chase", "v100", "v100,1380,1029,215.1,", 3),
    ("pointer_chase", "v100", "v100,1380,20000,420.7,", 8), ("pointer_chase", "a100", "a100_80,1410,4333,211.0,", 3),
    ("pointer_chase", "a100", "a100_80,1410,35343,424.3,", 8),
    ("cache_bandwidth", "v100", "v100,private_l1,,64,13873.4", 8),
    ("cache_bandwidth", "v100", "v100,private_l1,,1576,2450.5", 8),
    # Beyond the near L2 what a core may have in flight decides.
    ("cache_bandwidth", "v100-pcie", "v100,private_l1,,26632,2171.1", 8),
    ("cache_bandwidth", "a100-80-pcie", "a100_80,private_l1,,42656,2889.2", 8),
    ("cache_bandwidth", "a100-80-pcie", "a100_80,private_l1,,68320,2574.3", 8),
    ("cache_bandwidth", "h100-pcie", "h100_pcie,private_l1,,42656,3663.8", 8),
    ("cache_bandwidth", "h100-pcie", "h100_pcie,shared_l2,512,33792,6925.4", 8),
    ("cache_bandwidth", "h100-pcie", "h100_pcie,shared_l2,512,5120,7122.9", 8),
    ("stream", "v100", "v100,init,1024,81920,100.0,895", 5), ("stream", "v100", "v100,read,1024,81920,100.0,866", 5),
    ("stream", "v100", "v100,triad,1024,81920,100.0,814", 5), ("stream", "v100", "v100,read,32,2560,3.0,72", 7),
    ("stream", "v100", "v100,read,512,40960,50.0,746", 5), ("stream", "v100", "v100,scale,512,40960,50.0,784", 5),
    ("stream", "h100-pcie", "h100_pcie,triad,1024,116736,100.0,1832", 5),
]  # fmt: skip
HEADERS = {"pointer_chase": CHASE, "cache_bandwidth": CACHE, "stream": STREAM}


@pytest.mark.parametrize(("kind", "hw", "row", "limit_pct"), PLATEAUS)
def test_plateaus_of_measured_cards(tmp_path: Path, kind: str, hw: str, row: str, limit_pct: float) -> None:
    outcome = run(tmp_path, kind, HEADERS[kind] + row + "\n", hw).lines[0].outcome
    assert abs(outcome.error_pct) < limit_pct


def test_far_lines_cost_a_plateau_of_their_own(tmp_path: Path) -> None:
    """Between one partition and the whole L2, half of the lines are far hits and half misses; with one partition all
    are hits."""
    text = CHASE + "a100_80,1410,35343,424.3,\n"
    one = ("memory.l2.partitions=1", "memory.l2.core_partitions=[]")
    whole = run(tmp_path, "pointer_chase", text, "a100-80-pcie", settings=one)
    assert whole.lines[0].outcome.simulated < 220


def test_bandwidth_needs_enough_threads(tmp_path: Path) -> None:
    """Twice the threads, nearly twice the bandwidth; of the DRAM's 898 GB/s all threads reach the most, but not all."""
    rows = "".join(f"v100,read,{block},{80 * block},{block / 10.24:.1f},100\n" for block in (64, 128, 1024))
    low, twice, full = (line.outcome.simulated for line in run(tmp_path, "stream", STREAM + rows, "v100").lines)
    assert 1.8 * low < twice <= 2 * low and 840 < full < 880
