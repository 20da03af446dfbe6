"""Sample kernels of threads, for `npusim kernel`; each file says how it is run. `checks` has what they must compute."""
