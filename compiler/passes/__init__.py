"""Graph passes, one a file: `run(graph, ...) -> Graph`, valid in, valid out. `pipeline` gives their order."""
