"""What Python users see: the names of the command line, and the files' contents as objects."""

import csv
import json

import pytest

import npusim
from isa.errors import NpuError


def test_a_result_holds_what_its_files_hold(tmp_path):
    result = npusim.run("mlp", "tpu-v3")
    npusim.write_reports(result, str(tmp_path / "out"))
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert json.loads(json.dumps(result.summary)) == written
    with (tmp_path / "out" / "ops.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], int(row["cycles"])) for row in rows] == [(op.name, op.cycles) for op in result.operators]


def test_the_package_offers_the_commands_names():
    for name in ("run", "compile", "sim", "validate", "write_reports"):
        assert callable(getattr(npusim, name)) and name in dir(npusim)
    for _ in range(2):  # the first call imports the package of the same name
        assert len(npusim.validate(table="systolic_rtl", rows=1).lines) == 1
    with pytest.raises(AttributeError, match="it offers run, compile"):
        npusim.nothing  # noqa: B018


def test_an_empty_folder_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NpuError, match="names no folder"):
        npusim.run("gemm:8x8x8", "tiny", out="")
    assert list(tmp_path.iterdir()) == []
