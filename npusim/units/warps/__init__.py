"""What a warp does, without time: lanes, divergence, memory. Engine and functional executor share it."""
