"""What a warp does, without time: lanes, predicates, divergence, memory. The engine and the functional executor share it."""
