"""Event-driven engine: the kernels that turn a program into cycles."""
