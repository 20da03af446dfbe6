"""The numpy meaning of every instruction: what a program computes, without time."""

from npusim.functional.execute import LaunchWork, Values, execute

__all__ = ["LaunchWork", "Values", "execute"]
