"""The ONNX importer: shapes resolved while importing, and every refusal from both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler.frontend import load_model
from compiler.frontend.onnx_import import check_finite, import_onnx
from compiler.graph import MAX_TENSOR_ELEMENTS
from compiler.ops import run_graph
from isa.errors import ModelError

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def value(name: str, shape: Any, code: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, code, shape)


def init(name: str, array: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(array), name)


def save(
    folder: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[str],
    inits: list[onnx.TensorProto] | None = None,
    opset: int = 17,
    **more: Any,
) -> Path:
    graph = helper.make_graph(nodes, "g", inputs, [onnx.ValueInfoProto(name=o) for o in outputs], inits or [])
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("custom", 1)]
    path = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9, **more), str(path))
    return path


def relu(folder: Path, shape: Any = (2, 3), **more: Any) -> Path:
    return save(folder, [helper.make_node("Relu", ["x"], ["y"])], [value("x", shape)], ["y"], **more)


# --- shapes ------------------------------------------------------------------------------------------------------


def test_shape_arithmetic_leaves_only_the_reshape(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Unsqueeze", ["n", "axis"], ["n1"]),
        helper.make_node("Concat", ["n1", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["x", "target"], ["y"]),
    ]
    inits = [init("zero", np.int64(0)), init("axis", np.int64([0])), init("rest", np.int64([-1]))]
    graph = import_onnx(save(tmp_path, nodes, [value("x", (4, 3, 5))], ["y"], inits))
    assert [(n.op, dict(n.attrs)) for n in graph.nodes] == [("Reshape", {"shape": (4, 15)})]
    assert graph.nodes[0].inputs == ("x",)
    assert not graph.constants


@pytest.mark.parametrize("shape", [(-1, 3, None, None), (-1, 3, -1, -1), ("N", 3, "H", "W")])
def test_extents_below_zero_are_unknown_and_the_example_is_positive(tmp_path: Path, shape: Any) -> None:
    path = relu(tmp_path, shape)
    with pytest.raises(ModelError, match=r"--shape x=1x3x224x224 "):
        import_onnx(path)
    assert import_onnx(path, {"x": (1, 3, 4, 4)}).tensors["y"].shape == (1, 3, 4, 4)


@pytest.mark.parametrize("unused", [("N",), (-1, 4), None])
def test_an_input_that_nobody_reads_may_stay_unknown(tmp_path: Path, unused: Any) -> None:
    node, inputs = helper.make_node("Relu", ["x"], ["y"]), [value("x", (2, 3)), value("u", unused)]
    path = save(tmp_path, [node], inputs, ["y"])
    assert import_onnx(path).inputs == ("x",)
    assert import_onnx(path, {"u": (5, 4)[: len(unused or "u")]}).inputs == ("x", "u")
    with pytest.raises(ModelError, match="unknown extents: u"):  # given back, so not unused
        import_onnx(save(tmp_path, [node], inputs, ["y", "u"]))


def test_an_input_of_a_branch_is_read(tmp_path: Path) -> None:
    branches = {
        f"{name}_branch": helper.make_graph([helper.make_node("Relu", ["u"], ["r"])], name, [], [value("r", None)])
        for name in ("then", "else")
    }
    node = helper.make_node("If", ["c"], ["y"], **branches)
    path = save(tmp_path, [node], [value("u", ("N",))], ["y"], [init("c", np.bool_(True))])
    with pytest.raises(ModelError, match="unknown extents: u"):
        import_onnx(path)


def test_names_that_are_shown_have_no_control_characters(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["r"], name="a\nb\x1b[31m, Größe"),
        helper.make_node("My\tOp", ["r"], ["y"], domain="custom"),
    ]
    path = save(tmp_path, nodes, [value("x", (2,))], ["y"])
    model = onnx.load(str(path))
    model.graph.output[0].CopyFrom(value("y", (2,)))  # nobody can infer it
    onnx.save(model, str(path))
    graph = import_onnx(path)
    assert graph.nodes[0].name == r"a\nb\x1b[31m, Größe"
    assert graph.nodes[1].attrs["operator"] == r"custom::My\tOp"


def test_symbolic_extents_are_listed_with_an_example(tmp_path: Path) -> None:
    path = relu(tmp_path, ("N", 3, "H", "W"))
    with pytest.raises(ModelError, match=r"x\[N,3,H,W\].*--shape x=1x3x224x224"):
        import_onnx(path)
    with pytest.raises(ModelError, match=r"unknown extents"):
        import_onnx(path, batch=2)
    assert import_onnx(path, shapes={"x": (2, 3, 8, 8)}).tensors["y"].shape == (2, 3, 8, 8)


def test_batch_sets_the_symbolic_or_the_common_first_extent(tmp_path: Path) -> None:
    assert import_onnx(relu(tmp_path, ("N", 3)), batch=5).tensors["y"].shape == (5, 3)
    assert import_onnx(relu(tmp_path, (1, 3)), batch=5).tensors["y"].shape == (5, 3)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    path = save(tmp_path, nodes, [value("x", (2, 4)), value("w", (4, 6))], ["y"])
    graph = import_onnx(path, batch=8)
    assert graph.tensors["w"].shape == (4, 6)
    assert graph.tensors["y"].shape == (8, 6)


def test_batch_reaches_a_reshape_that_was_exported_with_one(tmp_path: Path) -> None:
    nodes = [helper.make_node("Reshape", ["x", "t"], ["y"])]
    path = save(tmp_path, nodes, [value("x", (1, 4, 6))], ["y"], [init("t", np.int64([1, 24]))])
    assert import_onnx(path, batch=3).tensors["y"].shape == (3, 24)
    path = save(tmp_path, nodes, [value("x", (2, 4, 6))], ["y"], [init("t", np.int64([3, 16]))])
    with pytest.raises(ModelError, match="fixed batch"):
        import_onnx(path, batch=5)


def test_batch_of_a_fixed_export_equals_single_runs(tmp_path: Path) -> None:
    """Class token, split heads with -1 and merged heads: the result of a batch is that of its members."""
    nodes = [
        helper.make_node("Concat", ["token", "x"], ["t"], axis=1),
        helper.make_node("Reshape", ["t", "split"], ["h"]),
        helper.make_node("Transpose", ["h"], ["ht"], perm=[0, 2, 3, 1]),
        helper.make_node("MatMul", ["h0", "ht"], ["p"]),
        helper.make_node("Transpose", ["h"], ["h0"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["p", "merge"], ["y"]),
    ]
    nodes[3], nodes[4] = nodes[4], nodes[3]
    inits = [init("token", np.ones((1, 1, 6), np.float32)), init("split", np.int64([1, 4, -1, 3]))]
    path = save(tmp_path, nodes, [value("x", (1, 3, 6))], ["y"], [*inits, init("merge", np.int64([2, -1]))])
    x = np.arange(90, dtype=np.float32).reshape(5, 3, 6) / 50
    single = import_onnx(path)
    wanted = np.concatenate([run_graph(single, {"x": x[i : i + 1]})["y"] for i in range(5)])
    found = run_graph(import_onnx(path, batch=5), {"x": x})["y"]
    assert found.shape == (10, 16)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("shapes", "batch", "reason"),
    [({"z": (1, 3)}, None, "inputs are x"), ({"x": (1, 2, 3)}, None, "3 extents"), (None, 0, "at least 1")],
)
def test_wrong_options_are_refused(tmp_path: Path, shapes: Any, batch: Any, reason: str) -> None:
    with pytest.raises(ModelError, match=reason):
        import_onnx(relu(tmp_path), shapes=shapes, batch=batch)


def test_size_limit_from_both_sides(tmp_path: Path) -> None:
    assert import_onnx(relu(tmp_path, (MAX_TENSOR_ELEMENTS,))).tensors["y"].elements == MAX_TENSOR_ELEMENTS
    with pytest.raises(ModelError, match="elements at most"):
        import_onnx(relu(tmp_path, (MAX_TENSOR_ELEMENTS + 1,)))
    nodes = [helper.make_node("ConstantOfShape", ["s"], ["y"])]
    path = save(tmp_path, nodes, [], ["y"], [init("s", np.int64([1 << 20, 1 << 20]))])
    with pytest.raises(ModelError, match="elements at most"):
        import_onnx(path)


# --- files -------------------------------------------------------------------------------------------------------


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = relu(tmp_path)
    whole = path.read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"\xff" * 100, b"<html></html>"):
        path.write_bytes(broken)
        with pytest.raises(ModelError, match="not an ONNX model, or truncated"):
            import_onnx(path)
    with pytest.raises(ModelError, match="cannot be read"):
        import_onnx(tmp_path / "absent.onnx")


@pytest.mark.parametrize(("opset", "good"), [(6, False), (7, True), (23, True), (24, True), (25, False)])
def test_opset_range(tmp_path: Path, opset: int, good: bool) -> None:
    path = relu(tmp_path, opset=opset)
    if good:
        assert len(import_onnx(path).nodes) == 1
    else:
        with pytest.raises(ModelError, match=rf"opset {opset} is outside 7\.\.24"):
            import_onnx(path)


def test_damaged_names_ranks_and_segments(tmp_path: Path) -> None:
    path = relu(tmp_path)
    path.write_bytes(path.read_bytes().replace(b"Relu", b"R\xfflu"))
    with pytest.raises(ModelError, match="not valid UTF-8"):
        import_onnx(path)
    assert import_onnx(relu(tmp_path, (1,) * 32)).tensors["y"].elements == 1
    with pytest.raises(ModelError, match="33 axes, the limit is 32"):
        import_onnx(relu(tmp_path, (1,) * 33))
    weight = init("w", np.ones(3, np.float32))
    weight.segment.begin = 1
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    with pytest.raises(ModelError, match="segments"):
        import_onnx(save(tmp_path, nodes, [value("x", (3,))], ["y"], [weight]))


def test_wrong_length_of_weights(tmp_path: Path) -> None:
    weight = init("w", np.ones((2, 3), np.float32))
    weight.raw_data = weight.raw_data[:-4]
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    with pytest.raises(ModelError, match=r"'w'.*holds 20 bytes, 24 are needed"):
        import_onnx(save(tmp_path, nodes, [value("x", (2, 3))], ["y"], [weight]))


def external(location: str, offset: str = "0", length: str = "24") -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="w", data_type=FLOAT, dims=[2, 3], data_location=TensorProto.EXTERNAL)
    for key, text in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=text)
    return tensor


def save_external(folder: Path, tensor: onnx.TensorProto) -> Path:
    folder.mkdir(exist_ok=True)
    return save(folder, [helper.make_node("Add", ["x", "w"], ["y"])], [value("x", (2, 3))], ["y"], [tensor])


def test_external_data_is_read_lazily_or_stripped(tmp_path: Path) -> None:
    values = np.arange(8, dtype=np.float32)
    values.tofile(tmp_path / "w.bin")
    graph = import_onnx(save_external(tmp_path, external("w.bin", "8")))
    np.testing.assert_array_equal(graph.constants["w"].value(), values[2:].reshape(2, 3))
    stripped = import_onnx(save_external(tmp_path, external("STRIPPED"))).constants["w"]
    assert stripped.stripped
    assert stripped.type.shape == (2, 3)


def test_external_data_stays_in_the_folder(tmp_path: Path) -> None:
    secret = tmp_path / "secret.bin"
    np.zeros(6, np.float32).tofile(secret)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "link.bin").symlink_to(secret)
    for location in ("../secret.bin", str(secret), "link.bin", "", "a/../../secret.bin"):
        with pytest.raises(ModelError, match=r"(in|out)side the model's folder"):
            import_onnx(save_external(folder, external(location)))


@pytest.mark.parametrize(("offset", "length"), [("4", "24"), ("-4", "24"), ("0", "20"), ("x", "24")])
def test_external_ranges_are_checked(tmp_path: Path, offset: str, length: str) -> None:
    np.zeros(6, np.float32).tofile(tmp_path / "w.bin")
    with pytest.raises(ModelError, match="'w'"):
        import_onnx(save_external(tmp_path, external("w.bin", offset, length)))


# --- nodes -------------------------------------------------------------------------------------------------------


def test_unknown_operator_names_node_domain_opset_and_neighbours(tmp_path: Path) -> None:
    node = helper.make_node("Reluu", ["x"], ["y"], name="odd")
    with pytest.raises(ModelError, match=r"'odd' \(Reluu, opset 17\).*nearest supported: Relu"):
        import_onnx(save(tmp_path, [node], [value("x", (2,))], ["y"]))
    node = helper.make_node("Relu", ["x"], ["y"], name="odd", domain="custom")
    with pytest.raises(ModelError, match=r"custom::Relu, opset 1"):
        import_onnx(save(tmp_path, [node], [value("x", (2,))], ["y"]))


def test_loop_is_refused_with_a_remedy(tmp_path: Path) -> None:
    body = helper.make_graph([], "body", [], [])
    node = helper.make_node("Loop", ["", "", "x"], ["y"], name="again", body=body)
    with pytest.raises(ModelError, match=r"'again' \(Loop.*unroll"):
        import_onnx(save(tmp_path, [node], [value("x", (2,))], ["y"]))


def branches() -> dict[str, onnx.GraphProto]:
    found = {}
    for label, op in (("then_branch", "Neg"), ("else_branch", "Abs")):
        nodes = [helper.make_node(op, ["x"], ["t"]), helper.make_node("Add", ["t", "c"], ["r"])]
        found[label] = helper.make_graph(nodes, label, [], [value("r", (2,))], [init("c", np.float32([1, 1]))])
    return found


@pytest.mark.parametrize(("condition", "expected"), [(True, [-1.0, 3.0]), (False, [3.0, 3.0])])
def test_constant_if_is_inlined(tmp_path: Path, condition: bool, expected: list[float]) -> None:
    node = helper.make_node("If", ["c"], ["y"], name="choice", **branches())
    path = save(tmp_path, [node], [value("x", (2,))], ["y"], [init("c", np.bool_(condition))])
    found = run_graph(import_onnx(path), {"x": np.float32([2, -2])})["y"]
    np.testing.assert_array_equal(found, np.float32(expected))


def test_dynamic_if_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("If", ["c"], ["y"], **branches())
    path = save(tmp_path, [node], [value("x", (2,)), value("c", (), BOOL)], ["y"])
    with pytest.raises(ModelError, match=r"condition of If.*depends on tensor contents"):
        import_onnx(path)


def test_local_functions_are_inlined(tmp_path: Path) -> None:
    body = [helper.make_node("Neg", ["a"], ["m"]), helper.make_node("Exp", ["m"], ["b"])]
    function = helper.make_function("custom", "NegExp", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    node = helper.make_node("NegExp", ["x"], ["y"], domain="custom")
    path = save(tmp_path, [node], [value("x", (2,))], ["y"], functions=[function])
    assert [n.op for n in import_onnx(path).nodes] == ["Neg", "Exp"]


@pytest.mark.parametrize(
    ("nodes", "inputs", "reason"),
    [
        ([("Add", ["x", "nothing"], ["y"])], {"x": FLOAT}, "before anything writes it"),
        ([("Relu", ["x"], ["y"]), ("Neg", ["x"], ["y"])], {"x": FLOAT}, "written twice"),
        ([("Add", ["x"], [])], {"x": FLOAT}, "writes nothing"),
        ([("Reshape", ["x", "t"], ["y"])], {"x": FLOAT, "t": INT64}, "shape.*must be known while importing"),
        ([("NonZero", ["x"], ["y"])], {"x": FLOAT}, "depends on tensor contents"),
        ([("Relu", ["x"], ["y"])], {"x": TensorProto.STRING}, "element type STRING"),
        ([("Relu", ["x"], ["y"])], {"x": TensorProto.UINT64}, "element type UINT64"),
        ([("Conv", ["x", "x"], ["y"])], {"x": FLOAT}, "Conv"),
        ([("Gemm", ["x"], ["y"])], {"x": FLOAT}, "Gemm.*input 1"),
        ([("Transpose", [], ["y"])], {"x": FLOAT}, "Transpose"),
    ],
)
def test_malformed_graphs(tmp_path: Path, nodes: Any, inputs: dict[str, int], reason: str) -> None:
    protos = [helper.make_node(*node) for node in nodes]
    path = save(tmp_path, protos, [value(n, (2, 3), c) for n, c in inputs.items()], ["y"])
    with pytest.raises(ModelError, match=reason):
        import_onnx(path)


def test_node_names_are_unique_and_optional_inputs_empty(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["a"], name="same"),
        helper.make_node("Clip", ["a", "", "hi"], ["b"], name="same"),
        helper.make_node("Clip", ["b", "", "x0"], ["y"]),
    ]
    inputs = [value("x", (2,)), value("x0", ())]
    graph = import_onnx(save(tmp_path, nodes, inputs, ["y"], [init("hi", np.float32(1))]))
    assert len({n.name for n in graph.nodes}) == 3
    assert dict(graph.nodes[1].attrs) == {"max": 1.0}
    assert graph.nodes[2].inputs == ("b", "", "x0")


@pytest.mark.parametrize(("array", "name"), [(np.float16, "fp16"), (np.float64, "fp64"), (np.int8, "int8")])
def test_dtypes(tmp_path: Path, array: Any, name: str) -> None:
    code = helper.np_dtype_to_tensor_dtype(np.dtype(array))
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    graph = import_onnx(save(tmp_path, nodes, [value("x", (3,), code)], ["y"], [init("w", np.ones(3, array))]))
    assert graph.tensors["y"].dtype == graph.constants["w"].type.dtype == name
    assert graph.constants["w"].value().dtype == array


def test_bfloat16_weights(tmp_path: Path) -> None:
    weight = helper.make_tensor("w", TensorProto.BFLOAT16, [2], [1.5, -2.0])
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    graph = import_onnx(save(tmp_path, nodes, [value("x", (2,), TensorProto.BFLOAT16)], ["y"], [weight]))
    assert graph.constants["w"].type.dtype == "bf16"
    np.testing.assert_array_equal(graph.constants["w"].value().astype(np.float32), [1.5, -2.0])


def test_quantised_weights_are_not_folded_away(tmp_path: Path) -> None:
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["d"]), helper.make_node("Add", ["x", "d"], ["y"])]
    inits = [init("w", np.int8([1, 2])), init("s", np.float32(0.5))]
    graph = import_onnx(save(tmp_path, nodes, [value("x", (2,))], ["y"], inits))
    assert [n.op for n in graph.nodes] == ["DequantizeLinear", "Add"]


@pytest.mark.parametrize(
    ("op", "weights", "reason"),
    [("Add", [1.0, np.nan], "1 NaN"), ("Add", [1.0, -np.inf], ""), ("PRelu", [np.inf, np.inf], "2 infinite")],
)
def test_check_finite(tmp_path: Path, op: str, weights: list[float], reason: str) -> None:
    nodes = [helper.make_node(op, ["x", "w"], ["y"])]
    graph = import_onnx(save(tmp_path, nodes, [value("x", (2,))], ["y"], [init("w", np.float32(weights))]))
    if not reason:
        check_finite(graph)  # a mask may hold -inf
        return
    with pytest.raises(ModelError, match=f"'w'.*{reason}"):
        check_finite(graph)


def test_load_model_dispatches(tmp_path: Path) -> None:
    assert load_model(str(relu(tmp_path, ("N", 3))), {"x": (2, 3)}).tensors["y"].shape == (2, 3)
    with pytest.raises(ModelError, match=r"\.onnx files only"):
        load_model("resnet50", {"x": (1,)})


def test_quantisation_attributes_are_kept_or_refused(tmp_path: Path) -> None:
    half = init("s", np.float16(0.5))
    node = helper.make_node("DequantizeLinear", ["x", "s"], ["y"], output_dtype=FLOAT)
    path = save(tmp_path, [node], [value("x", (4,), onnx.TensorProto.INT8)], ["y"], [half], opset=23)
    graph = load_model(str(path))
    assert [n.op for n in graph.nodes] == ["DequantizeLinear", "Cast"] and graph.tensors["y"].dtype == "fp32"
    fp8 = onnx.TensorProto.FLOAT8E4M3FN
    for saturate in (0, 1):
        node = helper.make_node("QuantizeLinear", ["x", "s"], ["y"], output_dtype=fp8, saturate=saturate)
        path = save(tmp_path, [node], [value("x", (4,), onnx.TensorProto.FLOAT16)], ["y"], [half], opset=23)
        if saturate:
            assert load_model(str(path)).tensors["y"].dtype == "fp8_e4m3"
        else:
            with pytest.raises(ModelError, match="saturate"):
                load_model(str(path))
