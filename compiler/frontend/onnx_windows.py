"""Rules for operators with windows or coordinates: auto_pad and output_shape resolved, Resize and Upsample unified."""

from __future__ import annotations

import numpy as np

from compiler.frontend.builder import Builder
from compiler.frontend.call import Call, rule
from compiler.graph import Constant, TensorType


def _window(b: Builder, call: Call, kernel: tuple[int, ...]) -> dict[str, object]:
    """Return strides, dilations, pads and kernel_shape, all explicit."""
    extents = b.type(call.inputs[0]).shape[2:]
    rank = len(extents)
    strides = tuple(call.attrs.get("strides", (1,) * rank))
    dilations = tuple(call.attrs.get("dilations", (1,) * rank))
    pads = tuple(call.attrs.get("pads", (0,) * (2 * rank)))
    if not len(kernel) == len(strides) == len(dilations) == rank or min(strides, default=1) < 1:
        raise call.fail(f"kernel {kernel}, strides {strides}, dilations {dilations} do not fit {rank} spatial axes")
    mode = call.attrs.get("auto_pad", "NOTSET")
    if mode == "VALID":
        pads = (0,) * (2 * rank)
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max(0, (-(-x // s) - 1) * s + (k - 1) * d + 1 - x)
            for x, s, k, d in zip(extents, strides, kernel, dilations)
        ]
        pads = _halves(totals, lower=mode == "SAME_LOWER")
    elif mode not in ("NOTSET", ""):
        raise call.fail(f"auto_pad {mode!r} is not NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    return {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}


def _halves(totals: list[int], lower: bool) -> tuple[int, ...]:
    """Divide padding between begin and end; the odd one goes to the end, or to the begin with `lower`."""
    begins = [(t + lower) // 2 for t in totals]
    return (*begins, *(t - b for t, b in zip(totals, begins)))


@rule("Conv")
def conv(b: Builder, call: Call) -> None:
    """Window attributes explicit."""
    kernel = b.type(call.inputs[1]).shape[2:]
    attrs = {**_window(b, call, kernel), "group": int(call.attrs.get("group", 1))}
    b.emit(call.name, "Conv", call.inputs, call.outputs, attrs)


@rule("MaxPool", "AveragePool", "LpPool")
def pool(b: Builder, call: Call) -> None:
    """Window attributes explicit."""
    attrs = {**call.kept("auto_pad", "storage_order"), **_window(b, call, tuple(call.attrs.get("kernel_shape", ())))}
    b.emit(call.name, call.op, call.inputs[:1], call.outputs, attrs)


@rule("GlobalLpPool")
def global_lp_pool(b: Builder, call: Call) -> None:
    """The p-norm over the spatial axes."""
    kind, order = b.type(call.inputs[0]), int(call.attrs.get("p", 2))
    attrs = {"axes": tuple(range(2, len(kind.shape))), "keepdims": 1}
    if order in (1, 2):
        b.emit(call.name, f"ReduceL{order}", call.inputs[:1], call.outputs, attrs)
        return
    power, root = (b.array(f"{call.name}/{k}", v, kind.dtype) for k, v in (("power", order), ("root", 1.0 / order)))
    x = b.emit(f"{call.name}/abs", "Abs", call.inputs[:1])
    x = b.emit(f"{call.name}/raise", "Pow", [x, power])
    x = b.emit(f"{call.name}/sum", "ReduceSum", [x], attrs=attrs)
    b.emit(call.name, "Pow", [x, root], call.outputs)


@rule("ConvTranspose")
def conv_transpose(b: Builder, call: Call) -> None:
    """Pads follow from auto_pad or output_shape where those are given (ONNX ConvTranspose)."""
    extents, kernel = b.type(call.inputs[0]).shape[2:], b.type(call.inputs[1]).shape[2:]
    mode, rank = call.attrs.get("auto_pad", "NOTSET"), len(extents)
    explicit = call.kept("auto_pad", "output_shape")
    attrs = _window(b, Call(call.name, call.op, call.domain, call.version, call.inputs, call.outputs, explicit), kernel)
    extra = tuple(call.attrs.get("output_padding", (0,) * rank))
    strides, dilations = attrs["strides"], attrs["dilations"]
    target = call.attrs.get("output_shape")
    if target is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        target = [x * s for x, s in zip(extents, strides)]  # type: ignore[call-overload]
    if target is not None:
        full = [
            (x - 1) * s + e + (k - 1) * d + 1
            for x, s, e, k, d in zip(extents, strides, extra, kernel, dilations)  # type: ignore[call-overload]
        ]
        spatial = list(target)[-rank:]
        attrs["pads"] = _halves([max(0, f - t) for f, t in zip(full, spatial)], lower=mode != "SAME_UPPER")
        extra = tuple(e + max(0, t - f) for e, f, t in zip(extra, full, spatial))
    elif mode == "VALID":
        attrs["pads"] = (0,) * (2 * rank)
    attrs |= {"group": int(call.attrs.get("group", 1)), "output_padding": extra}
    b.emit(call.name, "ConvTranspose", call.inputs, call.outputs, attrs)


@rule("BatchNormalization")
def batch_norm(b: Builder, call: Call) -> None:
    """Inference only: one output."""
    if call.attrs.get("training_mode", 0):
        raise call.fail("training_mode is on; export the model for inference")
    attrs = {"epsilon": float(call.attrs.get("epsilon", 1e-5))}
    b.emit(call.name, "BatchNormalization", call.inputs, call.outputs[:1], attrs)


@rule("GroupNormalization")
def group_norm(b: Builder, call: Call) -> None:
    """Before opset 21 scale and bias were one value a group: repeat them for every channel."""
    channels, groups = b.type(call.inputs[0]).shape[1], int(call.attrs.get("num_groups", 0))
    inputs = list(call.inputs)
    for index in (1, 2):
        kind = b.type(inputs[index])
        if kind.shape != (groups,) or groups == channels or groups < 1:
            continue
        source = b.constants.get(inputs[index])
        if source is None:
            raise call.fail(f"input {index} must be a constant when it has one value a group")
        wide = TensorType((channels,), kind.dtype)
        spread: Constant = source.map(wide, lambda v: np.repeat(v, channels // groups))
        inputs[index] = b.constant(b.fresh(f"{inputs[index]}/channels"), spread)
    b.emit(call.name, "GroupNormalization", inputs, call.outputs, call.kept("stash_type"))


@rule("Resize", "Upsample")
def resize(b: Builder, call: Call) -> None:
    """Sizes and scales of every axis become attributes; Upsample and opset 10 use asymmetric coordinates."""
    extents = b.type(call.inputs[0]).shape
    old = call.op == "Upsample" or call.version < 11
    scales = call.attrs.get("scales")
    if scales is None:
        known = call.fixed(b, 1 if old else 2, "scales")
        scales = [float(v) for v in known.reshape(-1)] if known is not None else []
    sizes = None if old else call.fixed(b, 3, "sizes")
    axes = [a % len(extents) for a in call.attrs.get("axes", range(len(extents)))]
    full_scales, full_sizes = [1.0] * len(extents), list(extents)
    if sizes is not None and sizes.size:
        _sizes(call, [int(v) for v in sizes.reshape(-1)], axes, full_sizes, full_scales)
    elif len(scales) == len(axes):
        for axis, scale in zip(axes, scales):
            full_scales[axis], full_sizes[axis] = float(scale), int(np.floor(extents[axis] * np.float32(scale)))
    else:
        raise call.fail(f"needs scales or sizes for {len(axes)} axes")
    attrs = call.kept("scales", "axes", "keep_aspect_ratio_policy")
    if attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        attrs["roi"] = _roi(b, call, axes, len(extents))
    if old:
        attrs |= {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    attrs |= {"sizes": tuple(full_sizes), "scales": tuple(full_scales)}
    b.emit(call.name, "Resize", call.inputs[:1], call.outputs, attrs)


def _roi(b: Builder, call: Call, axes: list[int], rank: int) -> tuple[float, ...]:
    """The part of the input to resize, a begin and then an end for every axis; 0 to 1 where none is given."""
    given = call.fixed(b, 1, "roi")
    full = [0.0] * rank + [1.0] * rank
    if given is None or given.size != 2 * len(axes):
        raise call.fail(f"tf_crop_and_resize needs a roi of {2 * len(axes)} numbers")
    for place, axis in enumerate(axes):
        full[axis] = float(given.reshape(-1)[place])
        full[axis + rank] = float(given.reshape(-1)[place + len(axes)])
    return tuple(full)


def _sizes(call: Call, wanted: list[int], axes: list[int], sizes: list[int], scales: list[float]) -> None:
    """Fill in sizes and scales from wanted sizes, keeping the aspect ratio if asked to."""
    extents = list(sizes)
    if len(wanted) != len(axes) or min(extents, default=1) < 1:
        raise call.fail(f"sizes {wanted} must have one entry for each of {len(axes)} axes")
    policy = call.attrs.get("keep_aspect_ratio_policy", "stretch")
    ratios = [w / extents[a] for w, a in zip(wanted, axes)]
    if policy != "stretch":
        common = min(ratios) if policy == "not_larger" else max(ratios)
        ratios = [common] * len(ratios)
        wanted = [int(np.floor(common * extents[a] + 0.5)) for a in axes]
    for axis, size, ratio in zip(axes, wanted, ratios):
        sizes[axis], scales[axis] = size, ratio
