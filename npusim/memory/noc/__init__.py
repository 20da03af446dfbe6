"""The on-chip network: one graph, three models of it (flits, packets, bandwidth)."""
