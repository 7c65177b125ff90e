"""What users need in tests of their own: time that passes at once.

`ManualClock` is for a test with one caller; `run_virtual` and `VirtualClock` are for tasks that run side by side.
"""

from hormesis.testing.clock import ManualClock
from hormesis.testing.virtual import DeadlockError, VirtualClock, run_virtual

__all__ = ["DeadlockError", "ManualClock", "VirtualClock", "run_virtual"]
