"""`python -m hormesis` is the `hormesis` command."""

import sys

from hormesis.cli import main

sys.exit(main())
