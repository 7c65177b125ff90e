"""A module that is slow to import, but not in the process of the tests."""

from __future__ import annotations

import sys
import time

if "pytest" not in sys.modules:
    time.sleep(0.5)


def function() -> int:
    return 3
