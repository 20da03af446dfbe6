"""The slow truth: an executor that steps every core cycle in plain Python and shares no code with the engine.

Nothing here is clever: queues are deques, every unit acts once a cycle, no cycle is skipped. The compiled engine must
agree with it in every number; where they differ, one of them is wrong, and this one can be read.
"""

from npusim.stepper.run import Stepped, step

__all__ = ["Stepped", "step"]
