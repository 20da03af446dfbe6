"""Programs of convolutions in NC1HWC0: values, synchronisation, how weights lie, and which layout `auto` takes."""

from math import prod
from pathlib import Path

import numpy as np
import pytest
from pass_fixture import graph_of

import npusim.api as api
from compiler.compile import Compilation
from compiler.graph import Graph
from compiler.nest import Dim, Nest, statements
from compiler.text import print_graph
from isa.errors import CompileError, ConfigError
from isa.loader import load_machine
from isa.program import LAUNCH_KERNEL
from npusim.check import check
from npusim.inputs import generate

MACHINES = ("ascend-310", "ascend-910b2")  # results through the unified buffer, and straight to memory
BLOCKS = "run.layout=nc1hwc0"

# Inputs and nodes after them; %y is the output.
GRAPHS = {
    "first layer, pool": ("1,3,18,18", [
        "const %w : fp32[20,3,7,7]", "const %b : fp32[20]",
        '%c : fp32[1] = Conv(%x, %w, %b) {"pads": [3, 3, 3, 3], "strides": [2, 2]}', "%r : fp32[1] = Relu(%c)",
        '%y : fp32[1] = MaxPool(%r) {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}']),
    "residual, batch 2": ("2,40,7,9", [
        "const %w : fp32[40,40,3,3]", "const %b : fp32[40]", "const %v : fp32[24,40,1,1]",
        '%c : fp32[1] = Conv(%x, %w, %b) {"pads": [1, 1, 1, 1]}', "%s : fp32[1] = Add(%c, %x)",
        "%r : fp32[1] = Relu(%s)", "%y : fp32[1] = Conv(%r, %v)"]),
    "channel vector": ("1,24,6,6", [
        "const %w : fp32[40,24,3,3]", "const %k : fp32[40,1,1]", "const %v : fp32[16,40,1,1]",
        '%c : fp32[1] = Conv(%x, %w) {"pads": [1, 1, 1, 1]}', "%m : fp32[1] = Mul(%c, %k)",
        "%y : fp32[1] = Conv(%m, %v)"]),
    "depthwise": ("2,36,9,9", [
        "const %w : fp32[36,1,3,3]", "const %b : fp32[36]", "const %v : fp32[20,36,1,1]",
        '%c : fp32[1] = Conv(%x, %w, %b) {"pads": [1, 1, 1, 1], "group": 36, "strides": [2, 2]}',
        '%r : fp32[1] = Clip(%c) {"min": 0.0, "max": 6.0}', "%y : fp32[1] = Conv(%r, %v)"]),
    "groups, dilated": ("1,32,9,9", [
        "const %w : fp32[64,4,3,3]", "const %v : fp32[5,64,2,1]",
        '%c : fp32[1] = Conv(%x, %w) {"pads": [2, 2, 2, 2], "group": 8, "dilations": [2, 2]}',
        '%y : fp32[1] = Conv(%c, %v) {"pads": [0, 1, 1, 0]}']),
    "squeeze and excite, concat": ("1,16,6,6", [
        "const %w : fp32[32,16,1,1]", "const %u : fp32[32,32,1,1]", "const %v : fp32[18,48,3,3]",
        "%c : fp32[1] = Conv(%x, %w)", '%m : fp32[1] = ReduceMean(%c) {"axes": [2, 3], "keepdims": 1}',
        "%e : fp32[1] = Conv(%m, %u)", "%s : fp32[1] = Sigmoid(%e)", "%p : fp32[1] = Mul(%c, %s)",
        '%q : fp32[1] = Concat(%p, %x) {"axis": 1}', '%y : fp32[1] = Conv(%q, %v) {"pads": [1, 1, 1, 1]}']),
}  # fmt: skip


def compiled(name: str, hw: str, *settings: str, dtype: str = "") -> Compilation:
    shape, lines = GRAPHS[name]
    graph = graph_of("\n".join(['graph "t"', f"input %x : fp32[{shape}]", *lines, "output %y"]))
    return api.compile(graph, hw, settings=settings, dtype=dtype, calibrated=True)


def assert_right(compilation: Compilation, hw: str) -> None:
    machine = load_machine(hw).machine
    found = check(compilation, machine, generate(compilation.reference, 0))
    assert found.ok, [r for r in found.rows if not r["ok"]] + list(found.hazards)
    assert found.executed_share == 1.0


def layouts_of(compilation: Compilation) -> set[str]:
    return {str(n.attrs["layout"]) for n in compilation.graph.nodes if n.op == "Conv"}


@pytest.mark.parametrize("hw", MACHINES)
@pytest.mark.parametrize("name", GRAPHS)
def test_values_and_synchronisation(name: str, hw: str) -> None:
    compilation = compiled(name, hw, BLOCKS)
    assert layouts_of(compilation) == {"NC1HWC0"}
    assert_right(compilation, hw)


@pytest.mark.parametrize("tile", ["2x16x16", "3x24x40", "1x32x32"])
def test_tiles_of_any_extent_keep_whole_blocks(tile: str) -> None:
    compilation = compiled("residual, batch 2", "ascend-310", BLOCKS, f"run.tile={tile}")
    assert_right(compilation, "ascend-310")


STRIPS = {  # a padded border on both sides, gaps between taps, a last strip of one pixel, work for the vector cores
    "padded": ("1,24,10,45", "const %w : fp32[40,24,3,3]", "40,24,3,3", '"pads": [1, 1, 1, 1]'),
    "strided": ("2,32,11,45", "const %w : fp32[48,32,3,3]", "48,32,3,3", '"pads": [1, 1, 1, 1], "strides": [2, 2]'),
    "wide taps": ("1,16,9,33", "const %w : fp32[20,16,3,5]", "20,16,3,5", '"pads": [0, 2, 0, 2]'),
    "dilated, bare": ("1,16,9,40", "const %w : fp32[20,16,1,3]", "20,16,1,3", '"dilations": [1, 3]'),
    "pointwise": ("1,40,5,33", "const %w : fp32[20,40,1,1]", "20,40,1,1", '"pads": [0, 0, 0, 0]'),
}


@pytest.mark.parametrize("layout", ["channels_last", "nc1hwc0"])
@pytest.mark.parametrize("hw", MACHINES)
@pytest.mark.parametrize("name", STRIPS)
def test_rows_of_pixels_may_be_cut(name: str, hw: str, layout: str) -> None:
    """Strips of 16 pixels give the values of whole rows, and fetch the columns that neighbours share twice."""
    shape, weight, _, attributes = STRIPS[name]
    lines = ['graph "t"', f"input %x : fp32[{shape}]", weight, f"%c : fp32[1] = Conv(%x, %w) {{{attributes}}}",
             "%s : fp32[1] = Sigmoid(%c)", "%y : fp32[1] = Mul(%c, %s)", "output %y"]  # fmt: skip
    settings = [f"run.layout={layout}", "run.tile=2x16x16x16"]
    compilation = api.compile(graph_of("\n".join(lines)), hw, settings=settings, calibrated=True)
    strips = [loop for nest in compilation.built.nests.values() for loop in nest.loops if loop.name == "w"]
    assert strips and all(loop.tile == 16 and loop.count > 1 for loop in strips)
    assert_right(compilation, hw)


@pytest.mark.parametrize(("pixels", "cut"), [(1024, False), (1040, True)])
def test_rows_that_no_buffer_holds_are_cut(pixels: int, cut: bool) -> None:
    """L0A of ascend-310 holds 16 channels of 1024 pixels in fp16 twice."""
    compilation = api.compile(f"conv:1x1x{pixels}x16x16x1x1x0", "ascend-310", settings=["run.layout=channels_last"])
    assert any(loop.name == "w" for nest in compilation.built.nests.values() for loop in nest.loops) == cut
    assert_right(compilation, "ascend-310")


@pytest.mark.parametrize("name", ["residual, batch 2", "depthwise"])
@pytest.mark.parametrize("dtype", ["int8", "fp32"])
def test_a_block_of_other_formats_has_other_channels(name: str, dtype: str) -> None:
    compilation = compiled(name, "ascend-910b2", BLOCKS, dtype=dtype)
    assert {n.attrs["c0"] for n in compilation.graph.nodes if n.op == "Conv"} == {{"int8": 32, "fp32": 8}[dtype]}
    assert_right(compilation, "ascend-910b2")


def test_weights_are_converted_by_the_compiler() -> None:
    """Nothing but the two conversions of activations and the convolutions runs."""
    compilation = compiled("residual, batch 2", "ascend-310", BLOCKS)
    program = compilation.built.program
    assert set(program.launches["kind"]) == {LAUNCH_KERNEL}
    assert [o.op_type.split("+")[0] for o in program.operators if o.nodes and "#" not in o.name] == [
        "TransData", "Conv", "Conv", "TransData"]  # fmt: skip
    shapes = [t.shape for t in program.tensors if t.role == "weight" and len(t.shape) == 6]
    assert sorted(shape[2] for shape in shapes) == [3, 27]  # C1 Kh Kw: channels 40 fill three blocks
    assert {shape[-2:] for shape in shapes} == {(16, 16)}


def test_a_dumped_graph_in_blocks_compiles_to_the_same_program(tmp_path: Path) -> None:
    seen: dict[str, Graph] = {}
    first = api.compile("conv:1x9x9x20x40x3x2x1", "ascend-310", settings=[BLOCKS], dump=seen.__setitem__)
    path = tmp_path / "again.npu"
    path.write_text(print_graph(seen["fractal"]), encoding="utf-8")
    again = api.compile(str(path), "ascend-310", settings=[BLOCKS])
    for name in ("instrs", "descs", "launches", "args"):
        assert np.array_equal(getattr(again.built.program, name), getattr(first.built.program, name))


def load_of(nest: Nest, buffer: str) -> tuple[Dim, ...]:
    """Dimensions, in memory, of what a buffer is filled with."""
    loads = [s for stage in nest.stages for placed in stage.placed for s in statements(placed.body)]
    (found,) = (s.srcs[0] for s in loads if s.op == "cp" and s.dst is not None and s.dst.base == buffer)
    assert found is not None
    return found.dims


def runs(dims: tuple[Dim, ...]) -> int:
    """Contiguous runs of a tile."""
    step, inside = 2, True
    count = 1
    for dim in reversed(dims):
        inside = inside and dim.stride == step
        count *= 1 if inside else dim.most
        step *= dim.most
    return count


@pytest.mark.parametrize("layout", ["channels_last", "nc1hwc0"])
@pytest.mark.parametrize("channels", [64, 40])
def test_a_tile_of_weights_is_one_run_even_with_few_of_the_channels(layout: str, channels: int) -> None:
    model, settings = f"conv:1x8x8x{channels}x64x3x1x1", [f"run.layout={layout}", "run.tile=8x32x32"]
    compilation = api.compile(model, "ascend-310", settings=settings, calibrated=True)
    nest = next(n for n in compilation.built.nests.values() if n.buffer("W"))
    assert prod(d.most for d in load_of(nest, "W")) == 9 * 32 * 32
    assert runs(load_of(nest, "W")) == 1
    assert_right(compilation, "ascend-310")


def test_a_tile_of_a_products_weights_is_one_run() -> None:
    compilation = api.compile("gemm:64x96x128", "ascend-310", settings=["run.tile=32x48x64"])
    (nest,) = compilation.built.nests.values()
    assert prod(d.most for d in load_of(nest, "W")) == 48 * 64
    assert runs(load_of(nest, "W")) == 1


@pytest.mark.parametrize(("model", "layout"), [
    ("mobilenetv2", "NC1HWC0"),  # a depthwise tile takes one block: runs of 32 bytes with channels last
    ("resnet18", "NHWC"),  # dense tiles take all channels: nothing is gained, and padding and conversion cost
])  # fmt: skip
def test_auto_takes_blocks_where_they_are_expected_to_be_faster(model: str, layout: str) -> None:
    chosen = api.compile(model, "ascend-310")
    assert layouts_of(chosen) == {layout}
    assert any("NC1HWC0" in note for note in chosen.built.assumptions) == (layout == "NC1HWC0")
    other = api.compile(model, "ascend-310", settings=[BLOCKS if layout == "NHWC" else "run.layout=channels_last"])
    assert chosen.built.expected_cycles < other.built.expected_cycles


def test_auto_does_not_change_layout_for_less_than_expectations_are_off() -> None:
    model, expected = "conv:1x28x28x128x128x3x1x1", {}
    for layout in ("channels_last", "nc1hwc0", "auto"):
        compilation = api.compile(model, "ascend-310", settings=[f"run.layout={layout}"])
        expected[layout] = compilation.built.expected_cycles
    assert 0.9 * expected["channels_last"] < expected["nc1hwc0"] < expected["channels_last"] == expected["auto"]


def test_auto_reads_three_channels_last() -> None:
    """Padded to a block the first convolution would have 5.33 times the work."""
    graph = api.compile("mobilenetv2", "ascend-310").graph
    first = next(n for n in graph.nodes if n.op == "Conv")
    assert graph.tensors[first.inputs[0]].shape == (1, 224, 224, 3)
    assert graph.tensors[first.outputs[0]].shape == (1, 2, 112, 112, 16)
    assert not [n for n in graph.nodes if n.op == "TransData"]


@pytest.mark.parametrize("hw", ["ascend-310", "ascend-910b2"])
@pytest.mark.parametrize("batch", [1, 2])
def test_few_channels_read_last_and_written_in_a_block_that_they_do_not_fill(
    tmp_path: Path, hw: str, batch: int
) -> None:
    """Five channels in, nineteen out: filters of zeros fill the second block of results."""
    path = tmp_path / "few.yaml"
    path.write_text(
        f"""name: few
inputs: {{x: "fp16[{batch},5,13,11]"}}
constants: {{w: "fp16[19,5,3,3]", d: "fp16[19,1,3,3]"}}
nodes:
  - {{op: Conv, inputs: [x, w], outputs: [c], attrs: {{pads: [1, 1, 1, 1]}}}}
  - {{op: Conv, inputs: [c, d], outputs: [y], attrs: {{pads: [1, 1, 1, 1], group: 19}}}}
outputs: [y]
""",
        encoding="utf-8",
    )
    result = api.run(str(path), hw, check=True, fidelity="roofline")
    assert result.check is not None and result.check.ok, result.check


def test_machines_without_fractals_have_one_layout() -> None:
    with pytest.raises(CompileError, match=r"run.layout=nc1hwc0: tpu-v3 has no core.matrix.fractal_bytes"):
        api.compile("conv:1x8x8x4x4x3x1x1", "tpu-v3", settings=[BLOCKS])
    for layout in ("auto", "channels_last"):
        compilation = api.compile("conv:1x8x8x4x4x3x1x1", "tpu-v3", settings=[f"run.layout={layout}"])
        assert layouts_of(compilation) == {"NHWC"}
    with pytest.raises(ConfigError, match=r"run\.layout is auto or channels_last or nc1hwc0"):
        api.run_settings(["run.layout=nhwc"])


@pytest.mark.parametrize(("hw", "value"), [("ascend-310", 16), ("tpu-v3", 32)])
def test_a_fractals_row_is_a_row_of_the_cubes_block(hw: str, value: int) -> None:
    with pytest.raises(ConfigError, match="fractal_bytes: a row of a fractal is one of a cube's block"):
        load_machine(hw, [f"core.matrix.fractal_bytes={value}"])
