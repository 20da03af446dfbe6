"""MatMul takes in biases, transposes and flattening views; written-out composites are found."""

import math

import pytest
from pass_fixture import apply, assert_body, feeds_of, graph_of, ops

from compiler.compile import compile_graph
from compiler.passes import composites, fusion, matmul_fuse, shapes
from compiler.passes.fusion import activation_bytes
from compiler.passes.pipeline import optimised
from compiler.zoo import build
from isa.loader import load_machine
from npusim.check import check


def model(*lines: str, out: str = "y", x: str = "fp32[2,3,4]") -> str:
    return "\n".join(['graph "t"', f"input %x : {x}", *lines, f"output %{out}"])


BIAS = {
    "vector": ("const %b : fp32[5]", "%y : fp32[2,3,5] = Add(%m, %b)", {"MatMul": 1}),
    "vector first": ("const %b : fp32[5]", "%y : fp32[2,3,5] = Add(%b, %m)", {"MatMul": 1}),
    "row": ("const %b : fp32[1,1,5]", "%y : fp32[2,3,5] = Add(%m, %b)", {"MatMul": 1}),
    "matrix": ("const %b : fp32[3,5]", "%y : fp32[2,3,5] = Add(%m, %b)", {"MatMul": 1, "Add": 1}),
    "scalar": ("const %b : fp32[]", "%y : fp32[2,3,5] = Add(%m, %b)", {"MatMul": 1, "Add": 1}),
    "input": ("input %b : fp32[5]", "%y : fp32[2,3,5] = Add(%m, %b)", {"MatMul": 1, "Add": 1}),
    "itself": ("const %b : fp32[5]", "%y : fp32[2,3,5] = Add(%m, %m)", {"MatMul": 1, "Add": 1}),
    "subtracted": ("const %b : fp32[5]", "%y : fp32[2,3,5] = Sub(%m, %b)", {"MatMul": 1, "Sub": 1}),
}


@pytest.mark.parametrize("name", BIAS)
def test_bias(name: str) -> None:
    constant, line, expected = BIAS[name]
    text = model("const %w : fp32[4,5]", constant, "%m : fp32[2,3,5] = MatMul(%x, %w)", line)
    assert ops(apply(matmul_fuse.run, text)) == expected


def test_bias_keeps_the_name_of_what_was_added() -> None:
    text = model(
        "const %w : fp32[4,5]",
        "const %b : fp32[5]",
        "%m : fp32[2,3,5] = MatMul(%x, %w)",
        "%y : fp32[2,3,5] = Add(%m, %b)",
    )
    assert_body(apply(matmul_fuse.run, text), "%y : fp32[2,3,5] = MatMul(%x, %w, %b) as m")


def test_transposes_are_read_in_place() -> None:
    text = model(
        "input %k : fp32[2,5,4]",
        '%t : fp32[2,4,5] = Transpose(%k) {"perm": [0, 2, 1]}',
        '%u : fp32[2,4,3] = Transpose(%x) {"perm": [0, 2, 1]}',
        "%p : fp32[2,3,5] = MatMul(%x, %t)",
        '%y : fp32[2,4,5] = MatMul(%u, %p)',
    )  # fmt: skip
    assert_body(
        apply(matmul_fuse.run, text),
        """%p : fp32[2,3,5] = MatMul(%x, %k) {"transB": 1}
        %y : fp32[2,4,5] = MatMul(%x, %p) {"transA": 1}""",
    )


def test_two_transposes_cancel() -> None:
    text = model(
        "input %k : fp32[2,4,5]",
        '%t : fp32[2,5,4] = Transpose(%k) {"perm": [0, 2, 1]}',
        '%y : fp32[2,3,5] = MatMul(%x, %t) {"transB": 1}',
    )
    assert_body(apply(matmul_fuse.run, text), "%y : fp32[2,3,5] = MatMul(%x, %k)")


def test_other_permutations_stay() -> None:
    text = model(
        "input %k : fp32[4,2,5]",
        '%t : fp32[2,4,5] = Transpose(%k) {"perm": [1, 0, 2]}',
        "%y : fp32[2,3,5] = MatMul(%x, %t)",
    )
    assert ops(apply(matmul_fuse.run, text)) == {"Transpose": 1, "MatMul": 1}


def test_flattening_views_go() -> None:
    text = model(
        "const %w : fp32[4,5]",
        '%f : fp32[6,4] = Reshape(%x) {"shape": [6, 4]}',
        "%m : fp32[6,5] = MatMul(%f, %w)",
        '%y : fp32[2,3,5] = Reshape(%m) {"shape": [2, 3, 5]}',
    )
    assert_body(apply(matmul_fuse.run, text), "%y : fp32[2,3,5] = MatMul(%x, %w) as m")
    other = text.replace("[2,3,5]", "[3,2,5]").replace("[2, 3, 5]", "[3, 2, 5]")
    assert ops(apply(matmul_fuse.run, other)) == {"Reshape": 2, "MatMul": 1}


# --- composites ------------------------------------------------------------------------------------------------------

T = "fp32[2,3,4]"
NUMBERS = [
    f"const %{name} : fp32[] = {value!r}"
    for name, value in {
        "root2": 1.4142135, "half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "cubic": 0.044715,
        "scale": math.sqrt(2 / math.pi), "rroot2": 0.70710678, "eps": 1e-5,
    }.items()
]  # fmt: skip
ERF = ["%e : {T} = Erf(%s)", "%p : {T} = Add(%e, %one)"]
HALVED = ["%q : {T} = Mul(%half, %x)", "%y : {T} = Mul(%q, %p)"]
CUBE = ["%c : {T} = Pow(%x, %three)", "%d : {T} = Mul(%cubic, %c)", "%f : {T} = Add(%x, %d)"]
GELU = {
    "HF": (["%s : {T} = Div(%x, %root2)", *ERF, "%q : {T} = Mul(%x, %p)", "%y : {T} = Mul(%q, %half)"], "none"),
    "halved first": (["%s : {T} = Mul(%rroot2, %x)", *ERF, *HALVED], "none"),
    "tanh": ([*CUBE, "%s : {T} = Mul(%scale, %f)", "%e : {T} = Tanh(%s)", "%p : {T} = Add(%one, %e)", *HALVED], "tanh"),
}


@pytest.mark.parametrize("name", GELU)
def test_gelu(name: str) -> None:
    lines, approximate = GELU[name]
    text = model(*NUMBERS, *(line.replace("{T}", T) for line in lines))
    assert_body(apply(composites.run, text), f'%y : {T} = Gelu(%x) {{"approximate": "{approximate}"}}')


def test_gelu_with_another_constant_is_something_else() -> None:
    lines = [line.replace("{T}", T).replace("%root2", "%two") for line in GELU["HF"][0]]
    assert "Gelu" not in ops(apply(composites.run, model(*NUMBERS, *lines)))


MEAN = '{"axes": [-1], "keepdims": 1}'
NORMAL = [
    f"%m : fp32[2,3,1] = ReduceMean(%x) {MEAN}", f"%d : {T} = Sub(%x, %m)", f"%s : {T} = Pow(%d, %two)",
    f"%v : fp32[2,3,1] = ReduceMean(%s) {MEAN}", "%u : fp32[2,3,1] = Add(%v, %eps)", "%r : fp32[2,3,1] = Sqrt(%u)",
    f"%n : {T} = Div(%d, %r)", "const %g : fp32[4]", "const %b : fp32[4]", f"%k : {T} = Mul(%n, %g)",
]  # fmt: skip


def test_layer_norm_with_and_without_shift() -> None:
    full = apply(composites.run, model(*NUMBERS, *NORMAL, f"%y : {T} = Add(%k, %b)"))
    assert_body(full, f'%y : {T} = LayerNormalization(%x, %g, %b) {{"axis": -1, "epsilon": 9.999999747378752e-06}}')
    assert ops(apply(composites.run, model(*NUMBERS, *NORMAL, f"%y : {T} = Neg(%k)"))) == {
        "LayerNormalization": 1, "Neg": 1,
    }  # fmt: skip


def test_one_pass_normalisation_reads_its_input_once() -> None:
    before = graph_of(model(*NUMBERS, *NORMAL, f"%y : {T} = Add(%k, %b)"))
    after = composites.run(before)
    tensor, column = before.tensors["x"].size_bytes, before.tensors["m"].size_bytes
    # Written out and fused as far as operator classes allow, x or what comes of it is read three times.
    assert activation_bytes(fusion.run(before)) > 5 * tensor + column
    assert activation_bytes(fusion.run(after)) == 2 * tensor


def test_normalisation_over_another_axis_stays() -> None:
    lines = [line.replace("[-1]", "[1]").replace("fp32[2,3,1]", "fp32[2,1,4]") for line in NORMAL]
    assert "LayerNormalization" not in ops(apply(composites.run, model(*NUMBERS, *lines, f"%y : {T} = Add(%k, %b)")))


def test_rms_norm() -> None:
    text = model(
        *NUMBERS, "const %g : fp32[4]", f"%s : {T} = Pow(%x, %two)", f"%v : fp32[2,3,1] = ReduceMean(%s) {MEAN}",
        "%u : fp32[2,3,1] = Add(%v, %eps)", "%r : fp32[2,3,1] = Sqrt(%u)", "%i : fp32[2,3,1] = Reciprocal(%r)",
        f"%n : {T} = Mul(%x, %i)", f"%y : {T} = Mul(%g, %n)",
    )  # fmt: skip
    assert ops(apply(composites.run, text)) == {"RMSNormalization": 1}


def test_transformers_end_in_fused_products() -> None:
    found = ops(optimised(build("gpt2:4")))
    # 12 layers of 4 projections and 2 attention products, and the LM head; of 50 sums only residuals, masks, positions.
    assert found["MatMul"] == 12 * 6 + 1 and found["Add"] == 12 * 3 + 1


def test_shapes_agree_with_the_extended_matmul() -> None:
    graph = graph_of(model("input %k : fp32[2,5,4]", '%y : fp32[1] = MatMul(%x, %k) {"transB": 1}'))
    assert shapes.run(graph).tensors["y"].shape == (2, 3, 5)


STORED = {
    "heads": ("fp32[2,3,4,6]", "fp32[2,3,6,5]", (0, 2, 1, 3), 1),
    "batch first": ("fp32[3,4,6]", "fp32[3,6,5]", (1, 0, 2), 1),
    "one batch axis of two": ("fp32[1,3,4,6]", "fp32[1,3,6,5]", (2, 1, 0, 3), 1),
    "columns move": ("fp32[3,4,6]", "fp32[3,6,5]", (0, 2, 1), 0),
    "three batch axes": ("fp32[2,3,2,4,6]", "fp32[2,3,2,6,5]", (0, 3, 1, 2, 4), 0),
}


def turned(name: str, *lines: str) -> str:
    left, right, perm, _ = STORED[name]
    rows, columns = [[int(e) for e in t[5:-1].split(",")] for t in (left, right)]
    result = [*rows[:-1], columns[-1]]
    shapes_ = {"P": str(result).replace(" ", ""), "T": str([result[i] for i in perm]).replace(" ", "")}
    text = model(f"input %v : {right}", "%p : fp32{P} = MatMul(%x, %v)",
                 f'%t : fp32{{T}} = Transpose(%p) {{{{"perm": {list(perm)}}}}}', *lines, x=left)  # fmt: skip
    return text.format(**shapes_)


@pytest.mark.parametrize("name", STORED)
def test_results_are_stored_as_they_are_read(name: str) -> None:
    after = apply(matmul_fuse.run, turned(name, "%y : fp32{T} = Neg(%t)"))
    assert ops(after)["Transpose"] == 1 - STORED[name][3]


def test_transposes_of_results_stay_where_others_read() -> None:
    both = turned("heads", "%y : fp32{T} = Neg(%t)", "%z : fp32{P} = Neg(%p)").replace("output", "output %z\noutput")
    assert ops(apply(matmul_fuse.run, both))["Transpose"] == 1
    product = turned("batch first", "input %w : fp32[4,5,2]", "%y : fp32[4,3,2] = MatMul(%t, %w)")
    assert ops(apply(matmul_fuse.run, product))["Transpose"] == 1  # a view


@pytest.mark.parametrize("hw", ["tpu-v3", "tpu-v1", "gemmini-16x16"])
@pytest.mark.parametrize("name", [n for n in STORED if STORED[n][3]])
@pytest.mark.parametrize("tail", ["Neg(%t)", "Relu(%t)", "Add(%t, %r)", "Add(%t, %b)"])
def test_stored_permuted_by_the_kernel(hw: str, name: str, tail: str) -> None:
    machine = load_machine(hw).machine
    text = turned(name, "input %r : fp32{T}", "const %b : fp32[5]", f"%y : fp32{{T}} = {tail}")
    text = text.replace("input %v", "const %v") if machine.default_dtype == "int8" else text
    graph = graph_of(text)
    feeds = feeds_of(graph)
    compilation = compile_graph(graph, machine, "", feeds)
    result = check(compilation, machine, feeds)
    assert not result.hazards and [r for r in result.rows if not r["ok"]] == []
    assert not any("Transpose" in o.op_type for o in compilation.built.program.operators)
