"""Caches without a clock: lines of sectors, and tables of what is outstanding."""
