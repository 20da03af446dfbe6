"""Transformers, as HF and torchvision export them: MatMul + Add projections, Gelu, LayerNormalization."""

from __future__ import annotations

import numpy as np

from compiler.graph import Graph
from compiler.zoo.net import Net
from isa.errors import ModelError

_MASKED = -10000.0  # added to scores that must not be seen; fits fp16


def _attention(net: Net, x: str, name: str, heads: int) -> str:
    q, k, v = (net.linear(x, f"{name}.{part}", net.shape(x)[-1]) for part in ("query", "key", "value"))
    q, v = net.heads(q, f"{name}.query", heads), net.heads(v, f"{name}.value", heads)
    k = net.heads(k, f"{name}.key", heads, turned=True)
    mixed = net.merge_heads(net.scaled_dot_product(q, k, v, name), name)
    return net.linear(mixed, f"{name}.output", net.shape(x)[-1])


def _feed_forward(net: Net, x: str, name: str) -> str:
    width = net.shape(x)[-1]
    hidden = net.op(f"{name}.gelu", "Gelu", net.linear(x, f"{name}.up", 4 * width))
    return net.linear(hidden, f"{name}.down", width)


def _post_norm_block(net: Net, x: str, name: str, heads: int) -> str:
    """BERT's encoder layer: normalisation after each residual sum."""
    x = net.op(f"{name}.attention.add", "Add", _attention(net, x, f"{name}.attention", heads), x)
    x = net.layer_norm(x, f"{name}.attention.norm")
    x = net.op(f"{name}.mlp.add", "Add", _feed_forward(net, x, f"{name}.mlp"), x)
    return net.layer_norm(x, f"{name}.norm")


def _embedding(net: Net, ids: str, vocabulary: int, width: int) -> str:
    """Word embeddings plus learned positions."""
    tokens = net.shape(ids)[1]
    words = net.op(
        "embeddings.words", "Gather", net.normal("embeddings.word.weight", (vocabulary, width), 0.5), ids, axis=0
    )
    return net.op("embeddings.sum", "Add", words, net.normal("embeddings.position.weight", (1, tokens, width), 0.5))


def bert_base(batch: int, tokens: int = 128) -> Graph:
    """BERT base, uncased (Devlin et al. 2019): ids [batch, tokens] -> hidden states; 11.2 GMAC at 128 tokens."""
    _check_tokens("bert-base", tokens, 512)
    net = Net("bert-base")
    ids = net.input("input_ids", (batch, tokens), "int64")
    x = _embedding(net, ids, 30522, 768)
    x = net.op("embeddings.typed", "Add", x, net.normal("embeddings.type.weight", (768,), 0.5))
    x = net.layer_norm(x, "embeddings.norm")
    for layer in range(12):
        x = _post_norm_block(net, x, f"layer.{layer}", 12)
    return net.finish(x)


def bert_block(batch: int, tokens: int = 128, width: int = 768, heads: int = 12) -> Graph:
    """One BERT encoder layer on x[batch, tokens, width]; raises ModelError unless heads divide the width."""
    if width % heads:
        raise ModelError(f"bert-block: width {width} is not a multiple of {heads} heads")
    net = Net(f"bert-block-{tokens}x{width}x{heads}")
    return net.finish(_post_norm_block(net, net.input("x", (batch, tokens, width)), "layer", heads))


def vit_b16(batch: int) -> Graph:
    """ViT-B/16 (Dosovitskiy et al. 2021): 17.6 GMAC an image, 86.6 M parameters."""
    net = Net("vit-b16")
    x = net.conv(net.input("image", (batch, 3, 224, 224)), "patches", 768, 16, 16, 0, bias=True)
    x = net.op("patches.flat", "Reshape", x, shape=(batch, 768, 196))
    x = net.op("patches.turn", "Transpose", x, perm=(0, 2, 1))
    token = net.op("class.expand", "Expand", net.normal("class.token", (1, 1, 768), 0.5), shape=(batch, 1, 768))
    x = net.op("tokens", "Concat", token, x, axis=1)
    x = net.op("positions", "Add", x, net.normal("position.weight", (1, 197, 768), 0.5))
    for layer in range(12):
        name = f"layer.{layer}"
        normal = net.layer_norm(x, f"{name}.norm1", 1e-6)
        x = net.op(f"{name}.add1", "Add", x, _attention(net, normal, f"{name}.attention", 12))
        normal = net.layer_norm(x, f"{name}.norm2", 1e-6)
        x = net.op(f"{name}.add2", "Add", x, _feed_forward(net, normal, f"{name}.mlp"))
    x = net.layer_norm(x, "norm", 1e-6)
    first = net.op("class", "Slice", x, starts=(0,), ends=(1,), axes=(1,), steps=(1,))
    return net.finish(net.gemm(net.op("class.flat", "Reshape", first, shape=(batch, 768)), "head", 1000))


def _causal_mask(net: Net, tokens: int) -> str:
    return net.value("causal.mask", np.triu(np.full((1, 1, tokens, tokens), _MASKED, np.float32), 1))


def _conv1d(net: Net, x: str, name: str, width: int) -> str:
    """HF's Conv1D: a Gemm on flattened tokens with [in, out] weights."""
    batch, tokens, depth = net.shape(x)
    flat = net.op(f"{name}.flat", "Reshape", x, shape=(batch * tokens, depth))
    return net.op(f"{name}.out", "Reshape", net.gemm(flat, name, width, transposed=False), shape=(batch, tokens, width))


def _gpt2_block(net: Net, x: str, name: str, mask: str) -> str:
    width = net.shape(x)[-1]
    joint = _conv1d(net, net.layer_norm(x, f"{name}.ln_1", 1e-5), f"{name}.attn.c_attn", 3 * width)
    parts = [f"{name}.attn.{part}" for part in "qkv"]
    net.b.emit(f"{name}.attn.split", "Split", [joint], parts, {"axis": 2, "split": (width,) * 3})
    q, k, v = (net.heads(part, part, 12, turned=part.endswith("k")) for part in parts)
    mixed = net.merge_heads(net.scaled_dot_product(q, k, v, f"{name}.attn", mask), f"{name}.attn")
    x = net.op(f"{name}.add1", "Add", _conv1d(net, mixed, f"{name}.attn.c_proj", width), x)
    hidden = _conv1d(net, net.layer_norm(x, f"{name}.ln_2", 1e-5), f"{name}.mlp.c_fc", 4 * width)
    hidden = net.op(f"{name}.mlp.gelu", "Gelu", hidden, approximate="tanh")
    return net.op(f"{name}.add2", "Add", x, _conv1d(net, hidden, f"{name}.mlp.c_proj", width))


def gpt2(batch: int, tokens: int = 128) -> Graph:
    """GPT-2 small (Radford et al. 2019) prefill with its LM head: ids [batch, tokens] -> logits of every token."""
    _check_tokens("gpt2", tokens, 1024)
    net = Net("gpt2")
    x = _embedding(net, net.input("input_ids", (batch, tokens), "int64"), 50257, 768)
    mask = _causal_mask(net, tokens)
    for layer in range(12):
        x = _gpt2_block(net, x, f"h.{layer}", mask)
    return net.finish(net.linear(net.layer_norm(x, "ln_f", 1e-5), "lm_head", 50257, bias=False))


def _rotary(net: Net, x: str, name: str, cosine: str, sine: str) -> str:
    """Rotary position embedding, HF's rotate-half form."""
    depth = net.shape(x)[-1]
    halves = [f"{name}.low", f"{name}.high"]
    net.b.emit(f"{name}.halves", "Split", [x], halves, {"axis": 3, "split": (depth // 2,) * 2})
    turned = net.op(f"{name}.turned", "Concat", net.op(f"{name}.neg", "Neg", halves[1]), halves[0], axis=3)
    direct, crossed = net.op(f"{name}.cos", "Mul", x, cosine), net.op(f"{name}.sin", "Mul", turned, sine)
    return net.op(f"{name}.rotary", "Add", direct, crossed)


def llama_block(batch: int, tokens: int = 128) -> Graph:
    """One Llama block (Touvron et al. 2023): grouped heads, rotary positions, SwiGLU; 45.1 M weights."""
    _check_tokens("llama-block", tokens, 1 << 17)
    width, heads, kv_heads, depth, inner = 2048, 16, 4, 128, 5632
    net = Net("llama-block")
    x = net.input("x", (batch, tokens, width))
    angles = np.arange(tokens)[:, None] / 10000.0 ** (np.arange(0, depth, 2) / depth)
    angles = np.concatenate([angles, angles], axis=1)[None, None]
    cosine, sine = net.value("rotary.cos", np.cos(angles)), net.value("rotary.sin", np.sin(angles))

    def norm(tensor: str, name: str) -> str:
        return net.op(
            name, "RMSNormalization", tensor, net.uniform(f"{name}.weight", width, 0.5, 1.5), axis=-1, epsilon=1e-5
        )

    normal = norm(x, "input_norm")
    q = _rotary(net, net.heads(net.linear(normal, "q_proj", width, False), "q", heads), "q", cosine, sine)
    k = _rotary(net, net.heads(net.linear(normal, "k_proj", kv_heads * depth, False), "k", kv_heads), "k", cosine, sine)
    v = net.heads(net.linear(normal, "v_proj", kv_heads * depth, False), "v", kv_heads)
    # Heads that share a KV head are stacked as rows: a view, where Expand would copy keys and values.
    q = net.op("q.grouped", "Reshape", q, shape=(batch, kv_heads, heads // kv_heads * tokens, depth))
    rows = np.tile(np.triu(np.full((tokens, tokens), _MASKED, np.float32), 1), (heads // kv_heads, 1))
    mask = net.value("causal.mask", rows[None, None])
    mixed = net.scaled_dot_product(q, net.op("k.turned", "Transpose", k, perm=(0, 1, 3, 2)), v, "attention", mask)
    mixed = net.op("attention.heads", "Reshape", mixed, shape=(batch, heads, tokens, depth))
    x = net.op("add1", "Add", x, net.linear(net.merge_heads(mixed, "attention"), "o_proj", width, False))
    normal = norm(x, "post_norm")
    gate, up = net.linear(normal, "gate_proj", inner, False), net.linear(normal, "up_proj", inner, False)
    swish = net.op("silu", "Mul", gate, net.op("sigmoid", "Sigmoid", gate))
    return net.finish(
        net.op("add2", "Add", x, net.linear(net.op("gated", "Mul", swish, up), "down_proj", width, False))
    )


def _check_tokens(name: str, tokens: int, most: int) -> None:
    if tokens > most:
        raise ModelError(f"{name}: {tokens} tokens, the model takes at most {most}")
