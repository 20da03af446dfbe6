"""The built-in models: networks written in code, and single operators by shape.

A name may carry numbers after a colon, joined by 'x' or ',': `gemm:512x512x512`, `bert-block:128,768,12`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from compiler.graph import Graph
from compiler.ops import nearest
from compiler.zoo import convnets, single, transformers
from isa.errors import ModelError

MAX_EXTENT = 1 << 24


@dataclass(frozen=True)
class Entry:
    """One zoo model: its builder, the meaning of its numbers ('' = none), how many are needed, whether it has a batch.

    A builder with a batch takes it first. `most` is -1 where any count of numbers (a shape) is accepted.
    """

    build: Callable[..., Graph]
    form: str
    least: int
    most: int
    batched: bool
    about: str


# fmt: off
_ENTRIES: dict[str, Entry] = {
    "resnet18":    Entry(convnets.resnet18,        "",          0, 0, True, "ResNet-18, 224 x 224, 1.82 GMAC"),
    "resnet50":    Entry(convnets.resnet50,        "",          0, 0, True, "ResNet-50 v1.5, 224 x 224, 4.09 GMAC"),
    "mobilenetv2": Entry(convnets.mobilenetv2,     "",          0, 0, True, "MobileNetV2, 224 x 224, 0.30 GMAC"),
    "alexnet":     Entry(convnets.alexnet,         "",          0, 0, True, "AlexNet, 224 x 224, 0.714 GMAC"),
    "vgg16":       Entry(convnets.vgg16,           "",          0, 0, True, "VGG-16, 224 x 224, 15.5 GMAC"),
    "bert-base":   Entry(transformers.bert_base,   "TOKENS",    0, 1, True, "BERT base from token ids, 128 tokens"),
    "bert-block":  Entry(transformers.bert_block,  "S,H,HEADS", 0, 3, True, "one BERT encoder block (128,768,12)"),
    "vit-b16":     Entry(transformers.vit_b16,     "",          0, 0, True, "ViT-B/16, 224 x 224, 17.6 GMAC"),
    "gpt2":        Entry(transformers.gpt2,        "TOKENS",    0, 1, True, "GPT-2 small with its LM head, 128 tokens"),
    "llama-block": Entry(transformers.llama_block, "TOKENS",    0, 1, True, "one Llama block, 2048 wide"),
    "mlp":         Entry(single.mlp,               "",          0, 0, True, "784-512-512-10 perceptron"),
    "gemm":        Entry(single.gemm,              "MxNxK",     3, 3, False, "y[M,N] = x[M,K] w[K,N], constant weight"),
    "bmm":         Entry(single.bmm,               "BxMxNxK",   4, 4, False, "batched product of two inputs"),
    "conv":        Entry(single.conv, "NxHxWxCINxCOUTxKxSTRIDExPAD[xGROUP[xDILATION]]", 8, 10, False,
                         "one 2-D convolution"),
    "attention":   Entry(single.attention,         "HxSxD",     3, 3, False, "softmax(Q K^T / sqrt(D)) V for H heads"),
    "layernorm":   Entry(single.layernorm,         "RxC",       2, 2, False, "layer normalisation along C"),
    "softmax":     Entry(single.softmax,           "RxC",       2, 2, False, "softmax along C"),
    "add":         Entry(single.add,               "SHAPE",     1, -1, False, "sum of two inputs"),
    "relu":        Entry(partial(single.unary, "Relu"), "SHAPE", 1, -1, False, "elementwise Relu"),
    "gelu":        Entry(partial(single.unary, "Gelu"), "SHAPE", 1, -1, False, "elementwise Gelu"),
}
# fmt: on


def names() -> list[tuple[str, str]]:
    """Return (name with the form of its numbers, description) of every zoo model; optional numbers in brackets."""
    found = []
    for name, entry in _ENTRIES.items():
        suffix = f":{entry.form}" if entry.least else f"[:{entry.form}]" if entry.form else ""
        found.append((name + suffix, entry.about))
    return found


def build(name: str, batch: int | None = None) -> Graph:
    """Return the graph of a zoo model; raises ModelError for an unknown name, wrong numbers or a batch it lacks."""
    base, colon, text = name.partition(":")
    entry = _ENTRIES.get(base)
    if entry is None:
        raise ModelError(
            f"no file and no zoo model is called {name!r}; nearest: {nearest(base, list(_ENTRIES))}; "
            "'npusim models' lists them all"
        )
    numbers = _numbers(name, entry, text) if colon else []
    if len(numbers) < entry.least:
        raise ModelError(f"{name!r} needs its extents: {base}:{entry.form}")
    if batch is not None and batch < 1:
        raise ModelError(f"batch {batch} of {name!r} must be at least 1")
    if not entry.batched:
        if batch not in (None, 1):
            raise ModelError(f"batch {batch} does not apply to {name!r}: its name fixes every extent")
        return entry.build(*numbers)
    return entry.build(batch or 1, *numbers)


def _numbers(name: str, entry: Entry, text: str) -> list[int]:
    parts = re.split("[x,]", text)
    allowed = entry.most < 0 or max(1, entry.least) <= len(parts) <= entry.most
    valid = all(re.fullmatch("[0-9]{1,9}", part) for part in parts)
    if not entry.form or not allowed or not valid:
        form = f"takes {name.partition(':')[0]}:{entry.form}" if entry.form else "takes no numbers"
        raise ModelError(f"{name!r}: the model {form}, positive integers joined by 'x' or ','")
    numbers = [int(part) for part in parts]
    # Only the padding of a convolution may be 0.
    pad = entry.form.split("[")[0].split("x").index("PAD") if "PAD" in entry.form else -1
    checked = [n for i, n in enumerate(numbers) if i != pad]
    if min(checked) < 1 or max(numbers) > MAX_EXTENT:
        raise ModelError(f"{name!r}: every extent must lie in [1, {MAX_EXTENT}]")
    return numbers
