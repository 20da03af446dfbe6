"""Time of machines with threads: sub-cores that issue warps, their pipes, the load/store unit, blocks."""
