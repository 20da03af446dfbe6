"""Colours of all reports: one table, after Okabe and Ito (2008), so that no meaning rests on red against green.

Light and dark values have a contrast of at least 3 : 1 against their background; a test computes it.
"""

from __future__ import annotations

BACKGROUND = {"light": "#ffffff", "dark": "#14171c"}

# fmt: off
#  name          light      dark
COLOURS: dict[str, tuple[str, str]] = {
    "blue":     ("#0067a5", "#5ab4f0"),
    "orange":   ("#c8500a", "#ff9447"),
    "green":    ("#007a55", "#35c998"),
    "purple":   ("#a23b84", "#e48fca"),
    "yellow":   ("#8f7000", "#eadb52"),
    "sky":      ("#2a8ab8", "#9bd8f5"),
    "brown":    ("#7a4a2a", "#c79c7b"),
    "grey":     ("#6b7280", "#9aa3b0"),
    "dark":     ("#374151", "#d5dae1"),
    "quiet":    ("#868d98", "#707988"),
}

BOUND_COLOURS = {
    "compute": "blue", "memory": "orange", "host link": "grey", "on-chip": "purple", "latency": "yellow",
    "dispatch": "green", "launch": "sky", "sync": "brown", "host": "dark", "none": "quiet",
}
FAMILY_COLOURS = {
    "convolution": "blue", "matrix product": "orange", "attention": "purple", "normalise, reduce": "green",
    "element-wise": "yellow", "data movement": "grey",
}
FAMILY_MARKERS = {
    "convolution": "o", "matrix product": "s", "attention": "h", "normalise, reduce": "D", "element-wise": "^",
    "data movement": "v",
}
CAUSE_GROUPS = {
    "busy": "busy",
    "wait_scalar": "operand wait", "wait_weights": "operand wait", "wait_matrix": "operand wait",
    "wait_vector": "operand wait", "wait_cross_lane": "operand wait", "wait_drain": "operand wait",
    "wait_dma": "operand wait", "wait_core": "operand wait",
    "memory_bandwidth": "memory bandwidth", "memory_latency": "memory latency", "port_conflict": "port conflict",
    "queue_full": "dispatch, queue full", "dispatch": "dispatch, queue full",
    "barrier": "barrier", "launch": "launch, host", "host": "launch, host", "drained": "drained",
}
CAUSE_GROUP_COLOURS = {
    "busy": "blue", "operand wait": "yellow", "memory bandwidth": "orange", "memory latency": "brown",
    "port conflict": "purple", "dispatch, queue full": "green", "barrier": "sky", "launch, host": "dark",
    "drained": "quiet",
}
# fmt: on
