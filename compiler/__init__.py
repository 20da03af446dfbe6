"""The compiler: operator graphs in, programs of the ISA out. It knows the machine description, never the simulator."""
