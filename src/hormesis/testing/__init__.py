"""What users need in tests of their own: time that passes at once, dependencies that follow a script, and assertions.

`ManualClock` is for a test with one caller; `run_virtual` and `VirtualClock` are for tasks that run side by side.
`Scripted` is what a policy protects, `hear` writes down what the policy did, `assert_parts` and `assert_has` look at
what it is made of, and `no_waiting` lets retries follow at once. None of it needs a particular test runner.
"""

from hormesis.testing.clock import ManualClock
from hormesis.testing.heard import Heard, hear
from hormesis.testing.parts import assert_has, assert_parts, no_waiting
from hormesis.testing.scripted import Arguments, Scripted, ScriptError
from hormesis.testing.virtual import DeadlockError, VirtualClock, run_virtual

__all__ = [
    "Arguments",
    "DeadlockError",
    "Heard",
    "ManualClock",
    "ScriptError",
    "Scripted",
    "VirtualClock",
    "assert_has",
    "assert_parts",
    "hear",
    "no_waiting",
    "run_virtual",
]
