"""Experiments of the Chaos Toolkit, run as they are: JSON or YAML in, `journal.json` out.

`experiment` reads the file, `values` fills in configuration and secrets, `providers` does what an activity says,
`tolerance` judges what a probe said, `controls` tells the modules that watch, `runner` is the course, `journal` what
came of it, `will` the rollbacks when all else has died, and `command` the way in.

Verdicts are the Chaos Toolkit's, but where those leave a fault in place or call a failure a success;
`docs/chaos/chaostoolkit.md` says where.
"""

from hormesis.gameday.chaostoolkit.command import plan_of, run_file
from hormesis.gameday.chaostoolkit.experiment import is_experiment

__all__ = ["is_experiment", "plan_of", "run_file"]
