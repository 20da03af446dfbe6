"""Small hand-written programs in assembly; tests assemble, verify and execute each. Syntax: docs/isa.md."""
