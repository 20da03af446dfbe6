"""Prove that a program is synchronised: every two accesses to the same bytes are ordered by happens-before."""

from npusim.hazards.checker import Finding, check_hazards
from npusim.hazards.redundant import redundant_waits

__all__ = ["Finding", "check_hazards", "redundant_waits"]
