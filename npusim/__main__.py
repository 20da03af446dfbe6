"""`python -m npusim` is the command line."""

from npusim.cli import main

main(prog_name="npusim")
