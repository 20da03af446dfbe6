"""Small hand-written programs in assembly, each with its expected summary (.json) beside it; tests assemble, verify,
execute and time each on the preset that it names. Syntax: docs/isa.md."""
