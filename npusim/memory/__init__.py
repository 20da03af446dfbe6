"""The memory behind the port: request rings, response heaps and the DRAM model."""
