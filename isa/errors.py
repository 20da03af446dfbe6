"""The exception tree that users catch by.

NpuError
  ConfigError        a machine description (YAML) is wrong
  ModelError         a model cannot be imported
  AssemblyError      a line of assembly text cannot be read
  ProgramError       a program breaks a rule of the ISA or of its machine
  CompileError       the compiler cannot map a graph to a machine
    CapacityError    something does not fit even when tiled
  SimulationError    the engine cannot go on
    DeadlockError    every pipe waits
    HazardError      two accesses are not ordered
  CheckError         a program that was to be checked does not run to its end
"""

from __future__ import annotations


class NpuError(Exception):
    """The root of every error that a user can cause and mend."""


class ConfigError(NpuError):
    """A machine description is wrong; the message lists every fault with file:line:column."""


class ModelError(NpuError):
    """A model file cannot be imported; the message names node, operator and remedy."""


class AssemblyError(NpuError):
    """A line of assembly cannot be read; the message holds its number and text."""


class ProgramError(NpuError):
    """A program is illegal for its machine; the message holds the instruction index and the reason."""


class CompileError(NpuError):
    """A stage of the compiler cannot map a node; the message names both."""


class CapacityError(CompileError):
    """Something needs more than the machine has; the message says what it needs, what there is and what would fit."""


class SimulationError(NpuError):
    """The engine cannot go on; the message names cycle, core and instruction."""


class DeadlockError(SimulationError):
    """Every pipe waits for another; the message names who waits for what."""


class HazardError(SimulationError):
    """Two accesses to the same bytes are not ordered by synchronisation."""


class CheckError(NpuError):
    """A program under check does not run to its end; the message holds the hazards found and why it stops."""
