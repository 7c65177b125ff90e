"""A module that ends the process which imports it, unless that is the one of the tests."""

from __future__ import annotations

import os
import sys

if "pytest" not in sys.modules:
    os._exit(7)


def function() -> None: ...
