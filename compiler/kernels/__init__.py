"""Tile programs of the kernels, one file a family: a frozen spec and `build(spec, ...) -> Nest`."""
