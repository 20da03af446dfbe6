"""Requests as cores would make them: warps with loads and stores, or copy engines, that follow a pattern given as data.

It stands at the place of a core's model for chips of which only the memory is described (`isa.chip.MemoryChip`).
"""
