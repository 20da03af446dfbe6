"""One-operator models: what measurements and unit studies are made of."""

from __future__ import annotations

from compiler.graph import Graph
from compiler.zoo.net import Net
from isa.errors import ModelError


def mlp(batch: int) -> Graph:
    """784-512-512-10 perceptron with Relu."""
    net = Net("mlp")
    x = net.input("x", (batch, 784))
    for index, width in enumerate((512, 512, 10)):
        x = net.gemm(x, f"fc{index}", width)
        x = net.op(f"relu{index}", "Relu", x) if width != 10 else x
    return net.finish(x)


def gemm(rows: int, cols: int, inner: int) -> Graph:
    """y[M, N] = x[M, K] w[K, N], the weight a constant."""
    net = Net(f"gemm-{rows}x{cols}x{inner}")
    x = net.input("x", (rows, inner))
    return net.finish(net.op("y", "MatMul", x, net.weight("w", (inner, cols), inner)))


def bmm(count: int, rows: int, cols: int, inner: int) -> Graph:
    """y[B, M, N] = a[B, M, K] b[B, K, N], both graph inputs."""
    net = Net(f"bmm-{count}x{rows}x{cols}x{inner}")
    a, b = net.input("a", (count, rows, inner)), net.input("b", (count, inner, cols))
    return net.finish(net.op("y", "MatMul", a, b))


def conv(
    batch: int, height: int, width: int, depth: int, maps: int, kernel: int, stride: int, pad: int, group: int = 1,
    dilation: int = 1,
) -> Graph:  # fmt: skip
    """One 2-D convolution without bias on x[N, Cin, H, W]; raises ModelError without output or for uneven groups."""
    name = "x".join(map(str, (batch, height, width, depth, maps, kernel, stride, pad, group, dilation)[:8]))
    name += f"x{group}x{dilation}" if dilation > 1 else f"x{group}" if group > 1 else ""
    if depth % group or maps % group:
        raise ModelError(f"conv:{name}: GROUP {group} must divide CIN {depth} and COUT {maps}")
    reach = dilation * (kernel - 1) + 1
    if min(height, width) + 2 * pad < reach:
        raise ModelError(f"conv:{name}: the window spans {reach}, the padded image {min(height, width) + 2 * pad}")
    net = Net(f"conv-{name}")
    x = net.input("x", (batch, depth, height, width))
    return net.finish(net.conv(x, "y", maps, kernel, stride, pad, group, dilation=dilation))


def attention(heads: int, tokens: int, depth: int) -> Graph:
    """y = softmax(q k^T / sqrt(D)) v for each head; q, k, v [H, S, D] are graph inputs."""
    net = Net(f"attention-{heads}x{tokens}x{depth}")
    q, k, v = (net.input(name, (heads, tokens, depth)) for name in "qkv")
    return net.finish(net.scaled_dot_product(q, net.op("kt", "Transpose", k, perm=(0, 2, 1)), v, "attention"))


def layernorm(rows: int, cols: int) -> Graph:
    """Layer normalisation of x[R, C] along C."""
    net = Net(f"layernorm-{rows}x{cols}")
    return net.finish(net.layer_norm(net.input("x", (rows, cols)), "y", 1e-5))


def softmax(rows: int, cols: int) -> Graph:
    """Softmax of x[R, C] along C."""
    net = Net(f"softmax-{rows}x{cols}")
    return net.finish(net.op("y", "Softmax", net.input("x", (rows, cols)), axis=-1))


def add(*shape: int) -> Graph:
    """y = a + b, both graph inputs of the given shape."""
    net = Net("add-" + "x".join(map(str, shape)))
    return net.finish(net.op("y", "Add", net.input("a", shape), net.input("b", shape)))


def unary(op: str, *shape: int) -> Graph:
    """y = op(x) for an elementwise operator, x a graph input of the given shape."""
    net = Net(f"{op.lower()}-" + "x".join(map(str, shape)))
    return net.finish(net.op("y", op, net.input("x", shape)))
