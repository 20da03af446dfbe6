"""Which chip the `device` column of a table means, and which of its rows belong to the chip under test."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from npusim.validate.table import Row

# Names of gpu-benches (te42kyfo/gpu-benches) and of the preset that describes that card; '': there is none yet.
# fmt: off
DEVICES: dict[str, str] = {
    "v100":      "v100-pcie",     # clock 1380 MHz; README: Tesla V100 PCIe 16 GB
    "a100_40":   "a100-40",       # fills reach 1505 GB/s: 97 % of 1555
    "a100_80":   "a100-80-pcie",  # fills reach 1897 GB/s: 98 % of 1935 (PCIe), 93 % of 2039 (SXM)
    "h100_pcie": "h100-pcie",     # 114 SMs at 1755 MHz; fills reach 2017 GB/s: 99 % of 2039
    "mi210":     "mi210",         # clock 1700 MHz
    "h200": "", "l40": "", "a40": "", "mi100": "", "rx6900xt": "",
}
# Presets of the same chip in another shape, or with another amount of the same memory: a table of the card is theirs.
FAMILY: dict[str, tuple[str, ...]] = {"v100": ("v100-pcie",), "a100": ("a100-80-pcie",), "h800-pcie": ("h100-pcie",)}
# fmt: on


def preset_of(device: str, hw: str) -> str:
    """The preset to simulate for a row: `hw`, or the shape of `hw` that the device names; '' for another chip."""
    name = device.strip().lower()
    if not name or name not in DEVICES:
        return hw  # a name of the user's own: the chip is what --hw says
    wanted = DEVICES[name]
    if wanted == hw or wanted in FAMILY.get(hw, ()):
        return wanted
    # A file is the user's own description of what was measured.
    return hw if hw.endswith((".yaml", ".yml")) or "/" in hw else ""


def split(rows: Sequence[Row], hw: str) -> tuple[list[Row], Mapping[str, int]]:
    """The rows of the chip under test, and how many there are of each other device."""
    own = [row for row in rows if preset_of(row.text("device"), hw)]
    others = Counter(row.text("device") for row in rows if not preset_of(row.text("device"), hw))
    return own, dict(others)
