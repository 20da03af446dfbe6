"""Loading a machine file: parents, parts, overrides, provenance, and every message a user can meet."""

import json
import os
from pathlib import Path

import pytest

from isa.errors import ConfigError
from isa.loader import list_machines, load_machine, machine_schema

USER = """\
name: mine
issue: inorder
default_dtype: int8
clock_mhz: 500
core:
  source: a datasheet
  spaces:
    spm: {size_bytes: 65536}
    acc: {size_bytes: {value: 4096, source: a ruler, confidence: measured}}
    wfifo: {size_bytes: 512}
  matrix:
    rows: 8
    cols: 8
    passes: {int8: 1}
    accumulate: {int8: int32}
  vector: {lanes: 8}
  dma:
    load: {outstanding: 4}
  paths:
    - {src: dram, dst: spm, pipe: load, bytes_per_cycle: 8}
    - {src: spm, dst: dram, pipe: load, bytes_per_cycle: 8}
    - {src: spm, dst: wfifo, pipe: weights, bytes_per_cycle: 8, confidence: specified}
memory:
  dram: hbm2-2400
  channels: 1
  capacity_bytes: 1e6
"""


@pytest.fixture
def write(tmp_path):
    def put(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return str(path)

    return put


def message(path, overrides=()):
    with pytest.raises(ConfigError) as error:
        load_machine(path, overrides)
    return str(error.value)


def changed(old, new):
    assert USER.count(old) == 1
    return USER.replace(old, new)


# ---- what loads


def test_user_file_loads(write):
    machine = load_machine(write(USER)).machine
    assert (machine.name, machine.clock_mhz, machine.core.matrix.rows) == ("mine", 500.0, 8)
    assert machine.memory.capacity_bytes == 1_000_000 and type(machine.memory.capacity_bytes) is int
    assert machine.memory.dram.tck_ps == 833


def test_provenance_covers_inherits_and_overrides(write):
    path = write(USER)
    given = load_machine(path).provenance
    rows, acc, clock = given["core.matrix.rows"], given["core.spaces.acc.size_bytes"], given["clock_mhz"]
    assert (rows.value, rows.source, rows.confidence) == (8, "a datasheet", "not stated")
    assert (rows.file, rows.line) == (path, 12)
    assert (acc.value, acc.source, acc.confidence, acc.line) == (4096, "a ruler", "measured", 9)
    assert (clock.source, clock.confidence) == ("not stated", "not stated")
    assert given["core.paths.2.bytes_per_cycle"].confidence == "specified"
    assert given["core.paths.1.bytes_per_cycle"].confidence == "not stated"
    assert given["memory.dram.tck_ps"].file == "configs/parts/dram/hbm2-2400.yaml"
    assert given["core.matrix.psum_hop_cycles"].source == "default of isa.machine"


def test_parent_is_a_deep_merge_and_lists_replace(write):
    write(USER, "base.yaml")
    child = "parent: base.yaml\nname: kid\ncore:\n  matrix: {rows: 16}\n  scalar: {registers: 16}\n"
    loaded = load_machine(write(child, "kid.yaml"))
    core = loaded.machine.core
    assert (core.matrix.rows, core.matrix.cols, core.scalar.registers) == (16, 8, 16)
    assert len(core.paths) == 3
    assert loaded.provenance["core.matrix.rows"].file.endswith("kid.yaml")
    assert loaded.provenance["core.matrix.cols"].file.endswith("base.yaml")
    replaced = child + "  paths: []\n"
    assert "no legal way from dram or host to 'spm'" in message(write(replaced, "kid.yaml"))


def test_a_mapping_of_indices_changes_items_of_a_list(write):
    write(USER, "base.yaml")
    kid = "parent: base.yaml\ncore:\n  paths:\n    '1': {bytes_per_cycle: 5}\n"
    assert [p.bytes_per_cycle for p in load_machine(write(kid)).machine.core.paths] == [8, 5, 8]
    assert "mine.yaml:3:3: core.paths: a mapping is not a list" in message(write(kid.replace("'1'", "'3'")))


def test_null_removes_an_optional_unit(write):
    write(USER, "base.yaml")
    assert load_machine(write("parent: base.yaml\ncore: {vector: null}\n", "kid.yaml")).machine.core.vector is None


def test_a_shipped_preset_may_be_the_parent(write):
    machine = load_machine(write("parent: tpu-v3\nname: fast\nclock_mhz: 1880\n")).machine
    assert machine.clock_mhz == 1880 and machine.core.matrix.rows == 128


def test_part_with_single_figures_changed(write):
    text = changed("dram: hbm2-2400", "dram: {part: hbm2-2400, tck_ps: 1000, timing: {nCL: 20}}")
    loaded = load_machine(write(text))
    dram = loaded.machine.memory.dram
    assert (dram.tck_ps, dram.timing.nCL, dram.timing.nRP) == (1000, 20, 17)
    assert loaded.provenance["memory.dram.tck_ps"].confidence == "not stated"


def test_a_part_may_lie_beside_the_file(write):
    write("tck_ps: 900\n" + "".join(f"{k}: {v}\n" for k, v in DRAM.items()), "own.yaml")
    assert load_machine(write(changed("hbm2-2400", "own.yaml"))).machine.memory.dram.tck_ps == 900


DRAM = {
    "bus_bits": 64, "data_rate": 2, "burst_length": 8, "bank_groups": 1, "banks_per_group": 8, "page_bytes": 1024,
    "rows": 4096,
    "timing": "{nCL: 5, nCWL: 5, nRCDRD: 5, nRCDWR: 5, nRP: 5, nRAS: 9, nRC: 14, nWR: 5, nRTP: 5, nCCD_S: 4, nCCD_L: 4,"
              " nRRD_S: 4, nRRD_L: 4, nFAW: 16, nWTR_S: 4, nWTR_L: 4, nRFC: 100, nREFI: 5000}",
}  # fmt: skip


@pytest.mark.parametrize(
    "override, read, value",
    [
        ("core.matrix.rows=64", lambda m: m.core.matrix.rows, 64),
        (" core.matrix.rows = 64", lambda m: m.core.matrix.rows, 64),
        ("clock_mhz=1e3", lambda m: m.clock_mhz, 1000.0),
        ("core.matrix={rows: 4, cols: 2}", lambda m: (m.core.matrix.rows, m.core.matrix.cols), (4, 2)),
        ("core.paths.0.latency_cycles=7", lambda m: m.core.paths[0].latency_cycles, 7),
        ("core.spaces.spm.size_bytes=4096", lambda m: m.core.spaces["spm"].size_bytes, 4096),
        ("core.vector.op_cycles.exp=5", lambda m: m.core.vector.op_cycles["exp"], 5.0),
        ("core.cross_lane={elements_per_cycle: 8, latency_cycles: 1}", lambda m: m.core.cross_lane.latency_cycles, 1),
        ("core.vector=null", lambda m: m.core.vector, None),
        ("memory.model=ideal", lambda m: m.memory.model, "ideal"),
        ("memory.dram=ddr4-3200", lambda m: m.memory.dram.tck_ps, 625),
        ("memory.dram={part: ddr4-3200, tck_ps: 700}", lambda m: m.memory.dram.tck_ps, 700),
        ("memory.dram.timing.nCL=30", lambda m: m.memory.dram.timing.nCL, 30),
        ("host.ops=[TopK]", lambda m: m.host.ops, ["TopK"]),
    ],
)
def test_overrides(write, override, read, value):
    assert read(load_machine(write(USER), [override]).machine) == value


def test_overrides_apply_in_order_and_say_so(write):
    loaded = load_machine(write(USER), ["cores=2", "cores=3"])
    assert loaded.machine.cores == 3
    assert loaded.provenance["cores"].file == "override 'cores=3'"
    assert loaded.provenance["cores"].source == "override"


# ---- what does not


@pytest.mark.parametrize(
    "old, new, wanted",
    [
        ("clock_mhz: 500", "clock_ghz: 0.5", "4:1: clock_ghz: unknown key, did you mean 'clock_mhz'?"),
        ("    rows: 8", "    row: 8", "12:5: core.matrix.row: unknown key, did you mean 'rows'?"),
        ("    rows: 8", "    row: 8", "11:3: core.matrix.rows: missing"),
        ("    rows: 8", "    zzzz: 8", "12:5: core.matrix.zzzz: unknown key; valid here: acc_space,"),
        ("clock_mhz: 500", "clock_mhz: 0.94 GHz", "'0.94 GHz' is not a number; the unit is in the key (MHz), write"),
        ("size_bytes: 65536", "size_bytes: 64KiB", "'64KiB' is not a whole number; the unit is in the key (bytes)"),
        ("clock_mhz: 500", "clock_mhz: fast", "4:1: clock_mhz: 'fast' is not a number"),
        ("clock_mhz: 500", "clock_mhz: .inf", "clock_mhz: inf is not a finite number"),
        ("clock_mhz: 500", "clock_mhz: .nan", "clock_mhz: nan is not a finite number"),
        ("clock_mhz: 500", "clock_mhz: 0.5", "clock_mhz: 0.5 is out of range; must be at least 1"),
        ("clock_mhz: 500", "clock_mhz: [500]", "clock_mhz: a list is not a number"),
        ("    rows: 8", "    rows: 0", "12:5: core.matrix.rows: 0 is out of range; must be more than 0"),
        ("    rows: 8", "    rows: -4", "core.matrix.rows: -4 is out of range; must be more than 0"),
        ("    rows: 8", "    rows: 5000", "core.matrix.rows: 5000 is out of range; must be at most 4096"),
        ("    rows: 8", "    rows: 8.5", "core.matrix.rows: 8.5 is not a whole number"),
        ("    rows: 8", "    rows: true", "core.matrix.rows: True is not a whole number"),
        ("    rows: 8", "    rows: '8'", "core.matrix.rows: '8' is not a whole number; write a plain number"),
        ("    rows: 8", "    rows: {value: 8, unit: PE}", "core.matrix.rows.unit: unknown key; beside 'value'"),
        ("channels: 1", "channels: 5000", "memory.channels: 5000 is out of range; must be at most 4096"),
        ("issue: inorder", "issue: outoforder", "2:1: issue: 'outoforder' is not allowed; one of 'inorder'"),
        ("issue: inorder", "issue: vliw", "core.bundle: issue slots are needed by"),
        ("default_dtype: int8", "default_dtype: bf16", "3:1: default_dtype: 'bf16' is not in core.matrix.passes"),
        ("passes: {int8: 1}", "passes: {int8: 1, intt8: 1}", "passes: unknown name 'intt8', did you mean 'int8'?"),
        ("passes: {int8: 1}", "passes: {int8: 1, bf16: 1}", "no accumulator type for operands of 'bf16'"),
        ("{lanes: 8}", "{lanes: 8, op_cycles: {expp: 2}}", "op_cycles: unknown name 'expp', did you mean 'exp'?"),
        ("{lanes: 8}", "[8]", "core.vector: a list is not a mapping"),
        ("    wfifo: {", "    fifo: {", "core.spaces.fifo: unknown space"),
        ("pipe: weights", "pipe: weight", "22:30: core.paths.2.pipe: 'weight' is not an engine; there are load,"),
        ("dst: wfifo", "dst: spm", "22:28: core.paths.2.pipe: the pipe 'weights' and"),
        ("{src: dram, dst: spm,", "{src: dram, dst: acc,", "19:3: core.paths: no legal way from dram or host to"),
        ("{src: spm, dst: dram,", "{src: dram, dst: spm,", "core.paths.1: a second path from dram to spm"),
        ("capacity_bytes: 1e6", "capacity_bytes: 1e12", "26:3: memory.capacity_bytes: 1000000000000 is more than"),
        ("dram: hbm2-2400", "dram: hbm2-2401", "24:3: memory.dram: unknown part 'hbm2-2401', did you mean 'hbm2-24"),
        ("dram: hbm2-2400", "dram: ../x.yaml", "24:3: memory.dram: '../x.yaml' is not a name"),
        ("dram: hbm2-2400", "dram: /etc/passwd", "memory.dram: '/etc/passwd' is not a name"),
        ("dram: hbm2-2400", "dram: {part: [1]}", "memory.dram: a list is not a name"),
        ("dram: hbm2-2400", "dram: none.yaml", "none.yaml: cannot be read"),
        ("dram: hbm2-2400", "dram: {part: hbm2-2400, timing: {nRC: 1}}", "timing.nRC: 1 is less than nRAS + nRP"),
        ("dram: hbm2-2400", "dram: {part: hbm2-2400, timing: {nREFI: 9}}", "is not more than nRFC"),
        ("source: a datasheet", "source: 7", "6:3: core.source: must be text, not 7"),
        ("source: a datasheet", "source: x\n  confidence: sure", "core.confidence: 'sure' is not one of specified,"),
        ("passes: {int8: 1}", "passes: {int8: 1}\n    weight_fifo_tiles: 65",
         "weight_fifo_tiles: 65 is out of range; must be at most 64"),
        ("name: mine", "name: mine\nname: other", "2:1: name: duplicate key"),
        ("name: mine\n", "", "1:1: name: missing; this key is required"),
        ("name: mine", "name: 7", "name: 7 is not text"),
        ("name: mine", "name: mine\nparent: nobody", "2:1: parent: unknown chip 'nobody'"),
        ("name: mine", "name: mine\nparent: ../up.yaml", "2:1: parent: '../up.yaml' is not a name"),
        ("name: mine", "name: mine\nparent: gone.yaml", "gone.yaml: cannot be read: No such file"),
        ("name: mine", "name: mine\nparent: mine.yaml", "its own ancestor"),
        ("name: mine", "name: mine\nparent: tpu-v33", "unknown chip 'tpu-v33', did you mean 'tpu-v"),
    ],
)
def test_faults_name_place_key_and_remedy(write, old, new, wanted):
    path = write(changed(old, new))
    text = message(path)
    assert wanted in text
    assert all(line.startswith(path) for line in text.splitlines())


def test_all_faults_come_at_once_in_file_order(write):
    text = changed("clock_mhz", "clock_mzh").replace("rows: 8", "rows: 0").replace("channels: 1", "channels: x")
    lines = message(write(text)).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["clock_mhz", "clock_mzh", "core.matrix.rows", "memory.channels"]


def test_faults_of_references_overrides_and_values_come_at_once(write):
    text = changed("hbm2-2400", "hbm9").replace("rows: 8", "rows: 0")
    lines = message(write(text), ["core.zzz=1"]).splitlines()
    assert len(lines) == 3
    for key in ("core.matrix.rows: 0 is", "memory.dram: unknown part", "core.zzz: unknown key"):
        assert sum(key in line for line in lines) == 1


def test_an_unknown_parent_does_not_drown_in_missing_keys(write):
    lines = message(write("parent: nobody\ncores: 0\n")).splitlines()
    assert len(lines) == 2 and "unknown chip 'nobody'" in lines[0] and "cores: 0 is out of range" in lines[1]


def test_faults_of_consistency_come_at_once(write):
    text = changed("    rows: 8", "    rows: 8\n    acc_space: l0c").replace("dtype: int8", "dtype: fp16")
    lines = message(write(text)).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["default_dtype", "core.matrix.acc_space"]


def test_faults_are_placed_in_the_file_that_made_them(write):
    base = write(changed("    rows: 8", "    rows: 0"), "base.yaml")
    text = message(write("parent: base.yaml\ncores: none\n", "kid.yaml"))
    assert f"{base}:12:5: core.matrix.rows: 0 is out of range" in text
    assert "kid.yaml:2:1: cores: 'none' is not a whole number" in text


def test_parent_cycles_of_two(write):
    write("parent: b.yaml\n", "a.yaml")
    write("parent: a.yaml\n", "b.yaml")
    text = message(write("parent: a.yaml\n"))
    assert "its own ancestor" in text and "a.yaml -> " in text


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="no symbolic links here")
def test_a_link_may_not_lead_out_of_the_folder(write, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "base.yaml").write_text(USER)
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "base.yaml").symlink_to(outside / "base.yaml")
    (inside / "kid.yaml").write_text("parent: base.yaml\n")
    assert "leads out of the folder" in message(str(inside / "kid.yaml"))


@pytest.mark.parametrize(
    "override, wanted",
    [
        ("core.matrix.rows", "override 'core.matrix.rows': is not key.path=value"),
        ("=3", "is not key.path=value"),
        ("core..rows=3", "is not key.path=value"),
        ("core.matrix.rows=", "is not key.path=value"),
        ("core.matrx.rows=3", "core.matrx: unknown key, did you mean 'matrix'?"),
        ("core.matrix.row=3", "core.matrix.row: unknown key, did you mean 'rows'?"),
        ("cores.x=3", "cores.x: cores is a value, it has no keys"),
        ("core.matrix.rows=0", "override 'core.matrix.rows=0': core.matrix.rows: 0 is out of range"),
        ("core.matrix.rows=8 PEs", "core.matrix.rows: '8 PEs' is not a whole number"),
        ("core.paths.3.latency_cycles=1", "core.paths.3: there is no item '3'; the items are 0 to 2"),
        ("core.paths.-1.latency_cycles=1", "there is no item '-1'"),
        ("core.matrix=[", "the value cannot be read"),
        ("core.matrix={rows: 1, rows: 2}", "core.matrix={rows: 1, rows: 2}': rows: duplicate key"),
        ("memory.dram=hbm9", "memory.dram: unknown part 'hbm9'"),
        ("memory.dram=mine.yaml", "memory.dram: unknown part 'mine.yaml'"),
        ("run.cores=1", "run: unknown key"),
        ("core.spaces.spm.ports=70000", "core.spaces.spm.ports: 70000 is out of range; must be at most 65536"),
    ],
)
def test_wrong_overrides(write, override, wanted):
    assert wanted in message(write(USER), [override])


def test_override_faults_come_with_those_of_the_file(write):
    text = message(write(changed("name: mine", "name: mine\nname: two")), ["nonsense", "zzz=1"])
    assert len(text.splitlines()) == 3


# ---- files


@pytest.mark.parametrize("name, near", [("tpu-v33", "tpu-v3"), ("TPU-V4", "tpu-v4"), ("gemini", "gemmini-16x16")])
def test_unknown_chip_names_the_nearest(name, near):
    text = message(name)
    assert f"unknown chip {name!r}, did you mean '" in text and near in text


def test_unknown_chip_without_a_near_name_lists_all():
    text = message("qqq")
    assert "did you mean" not in text and all(name in text for name, _ in list_machines())


def test_missing_file_directory_and_binary(tmp_path):
    assert "cannot be read: No such file" in message(str(tmp_path / "no.yaml"))
    assert "is a directory" in message(str(tmp_path) + "/")
    binary = tmp_path / "b.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8 text" in message(str(binary))
    big = tmp_path / "big.yaml"
    big.write_bytes(b"#" * ((1 << 20) + 1))
    assert "larger than the limit" in message(str(big))


def test_a_message_holds_no_control_characters(write):
    text = message(write(USER + '"\\e[31m\\nred": 1\n'))
    assert "\x1b" not in text and len(text.splitlines()) == 1 and "\\x1b[31m\\nred: unknown key" in text


ODD_NAMES = ["a" * 5000, "a" * 5000 + ".yaml", "\udc80.yaml", "../configs/tpu-v3", "", "a\0b", "parts/dram/hbm2-2400"]


@pytest.mark.parametrize("name", ODD_NAMES, ids=range(len(ODD_NAMES)))
def test_odd_names_are_config_errors(name):
    message(name)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "p.yaml")
    assert "not a regular file" in message(str(tmp_path / "p.yaml"))


@pytest.mark.parametrize("text", ["- a\n", "just text\n", "3\n"])
def test_a_machine_is_a_mapping(write, text):
    assert "a machine is a mapping of keys" in message(write(text))


def test_byte_order_mark_is_accepted(write):
    assert load_machine(write("\ufeff" + USER)).machine.name == "mine"


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Take `tmp_path` for the folder of shipped machines."""
    monkeypatch.setattr("isa.loader.resources.files", lambda package: tmp_path)
    (tmp_path / "parts" / "dram").mkdir(parents=True)
    return tmp_path


def test_a_shipped_figure_must_state_source_and_confidence(shipped):
    text = USER.replace("dram: hbm2-2400", "dram: own")
    part = "tck_ps: 900\n" + "".join(f"{k}: {v}\n" for k, v in DRAM.items())
    (shipped / "parts" / "dram" / "own.yaml").write_text("source: x\nconfidence: inferred\n" + part)
    (shipped / "chip.yaml").write_text(text)
    lines = message("chip").splitlines()
    assert "configs/chip.yaml:4:1: clock_mhz: a shipped figure must state its source and its confidence" in lines
    assert any("core.matrix.rows: a shipped" in line for line in lines)  # a source without confidence
    assert not any("acc.size_bytes" in line or "memory.dram" in line for line in lines)  # both stated
    (shipped / "chip.yaml").write_text("source: y\nconfidence: specified\n" + text)
    assert load_machine("chip").provenance["clock_mhz"].source == "y"


def test_a_shipped_part_is_checked_too(shipped):
    (shipped / "parts" / "dram" / "own.yaml").write_text("tck_ps: 900\n")
    text = "source: y\nconfidence: specified\n" + USER.replace("dram: hbm2-2400", "dram: own")
    (shipped / "chip.yaml").write_text(text)
    assert "configs/parts/dram/own.yaml:1:1: memory.dram.tck_ps: a shipped figure" in message("chip")


def test_a_shipped_machine_refers_to_shipped_files_only(shipped):
    (shipped / "chip.yaml").write_text("parent: base.yaml\n")
    (shipped / "base").write_text(USER)
    assert "unknown chip 'base.yaml'" in message("chip")


# ---- schema


def test_schema_is_json_and_closed():
    schema = json.loads(json.dumps(machine_schema()))
    assert schema["additionalProperties"] is False
    assert {"parent", "source", "confidence", "core", "memory"} <= set(schema["properties"])
    rows = schema["$defs"]["MatrixUnit"]["properties"]["rows"]["anyOf"]
    assert rows[0]["maximum"] == 4096 and rows[1]["properties"]["value"]["maximum"] == 4096
    assert {"type": "string"} in schema["$defs"]["Memory"]["properties"]["dram"]["anyOf"]
    assert "required" not in schema["$defs"]["MatrixUnit"]


def test_schema_knows_every_key_of_a_preset():
    definitions = machine_schema()["$defs"]
    core = load_machine("tpu-v3").machine.core
    assert set(core.model_dump()) <= set(definitions["Core"]["properties"])


@pytest.mark.parametrize(
    ("overrides", "blamed"),
    [
        (["default_dtype=bf16"], "override 'default_dtype=bf16': default_dtype: 'bf16' is not in core.matrix.passes"),
        (["core.matrix.operand_space=acc"], "override 'core.matrix.operand_space=acc': core.paths: no legal way"),
        (["core.matrix.rows=8", "memory.interleave_bytes=96"], "override 'memory.interleave_bytes=96': memory."),
        (["core.matrix.rows=8", "default_dtype=bf16"], "override 'default_dtype=bf16': default_dtype"),
    ],
)
def test_a_fault_that_overrides_bring_about_is_theirs(overrides: list[str], blamed: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_machine("tiny", overrides)
    assert str(caught.value).startswith(blamed) and ".yaml" not in str(caught.value)


UNITS = [(16, "set it to 64"), (96, "set it to 64"), (1 << 31, "set it to 4096 or so")]


@pytest.mark.parametrize(("unit", "remedy"), UNITS)
def test_interleave_units_are_some_bursts_and_leave_every_channel_one(unit: int, remedy: str) -> None:
    with pytest.raises(ConfigError, match=rf"memory.interleave_bytes: {unit} is .*: .*{remedy}"):
        load_machine("tiny", ["memory.capacity_bytes=1073741824", f"memory.interleave_bytes={unit}"])


def test_an_interleave_unit_may_be_a_channels_whole_share() -> None:
    sizes = ["memory.capacity_bytes=1073741824", "memory.interleave_bytes=1073741824"]
    assert load_machine("tiny", sizes).machine.memory.channels == 1


def test_a_fault_of_the_file_is_not_blamed_on_an_override(tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "configs" / "tiny.yaml").read_text(encoding="utf-8")
    path = tmp_path / "m.yaml"
    path.write_text(text.replace("default_dtype: fp32", "default_dtype: bf16"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"m\.yaml:\d+:\d+: default_dtype"):
        load_machine(str(path), ["clock_mhz=500"])


@pytest.mark.parametrize(
    ("setting", "reason"),
    [
        ("core.vector.lane_bytes=3", "lane_bytes: 3 is not a power of two; 2 and 4 are the nearest"),
        ("core.vector.lane_bytes=-1", "lane_bytes"), ("core.vector.lane_bytes=1000000000", "lane_bytes"),
        ("core.spaces.ub.bank_groups=12", "bank_groups: 12 is not a power of two; 8 and 16 are the nearest"),
        ("core.spaces.ub.bank_groups=-1", "bank_groups"), ("core.spaces.ub.bank_groups=128", "bank_groups"),
        ("core.spaces.ub.bank_bytes=0", "bank_bytes"),
        ("core.spaces.ub.bank_bytes=48", "bank_bytes: 48 is not a power of two; 32 and 64 are the nearest"),
        ("core.spaces.ub.bank_size_bytes=4100", "bank_size_bytes: 4100 is no multiple of bank_bytes, 32"),
        ("core.spaces.ub.bank_bytes=65536", "a block of each of 16 groups is 1048576 bytes, but"),
        ("core.spaces.ub.bank_groups=0", "bank_size_bytes: 4096, but bank_groups is 0"),
        ("core.spaces.l1.write_stall_cycles=-1", "write_stall_cycles"),
        ("core.spaces.l1.write_stall_cycles=65537", "write_stall_cycles"),
        ("core.spaces.l1.write_stall_cycles=0.5", "write_stall_cycles"),
        ("core.spaces.ub.write_stall_cycles=1", "does nothing, because no path fills ub from memory while another"),
        ("core.spaces.l0a.write_stall_cycles=1", "does nothing, because no path fills l0a from memory"),
    ],
)  # fmt: skip
def test_lanes_and_banks_have_bounds(setting: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_machine("ascend-910b2", [setting])
    assert reason in str(caught.value)
    for legal in ("core.vector.lane_bytes=8", "core.spaces.ub.bank_groups=32", "core.spaces.ub.bank_size_bytes=0",
                  "core.spaces.ub.size_bytes=16384", "core.spaces.l1.write_stall_cycles=65536"):
        load_machine("ascend-910b2", [legal])
