"""The way of a request through the shared cache to the DRAM and back."""
