"""Shipped machine descriptions: one YAML a chip, `parts/` shared by name. Read them through `isa.loader`."""
