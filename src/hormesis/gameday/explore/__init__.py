"""Exploration: find what a system does not survive, make it small, and name what contains it.

All of it is a conversation (`trials`): trials go out, what was seen comes back, from a real system or a simulated one.
`catalogue` says which faults there are, `pruning` which combinations need no trial and which come first, `search`
tries the rest, `shrink` (with `milder`) makes a failure as small as it gets, `counterfactual` finds the change of the
policies that contains it, `fixes` makes those changes, `corpus` keeps the failures, and `hunt` puts it together. `real`
and `setup` answer from a real system, `expedition` is `hormesis explore`, `progress` and `show` are what people read.
"""

from hormesis.gameday.explore.corpus import Case, load_corpus, replayed_first, save_case
from hormesis.gameday.explore.counterfactual import Cost, Counterfactual, Effect, Tolerance, Tried, try_changes
from hormesis.gameday.explore.hunt import Finding, Hunt
from hormesis.gameday.explore.pruning import Wiring
from hormesis.gameday.explore.search import Fate, Record, Search
from hormesis.gameday.explore.shrink import Shrunk, shrink
from hormesis.gameday.explore.trials import Budget, Injection, Seen, Trial, answered, metered

__all__ = [
    "Budget",
    "Case",
    "Cost",
    "Counterfactual",
    "Effect",
    "Fate",
    "Finding",
    "Hunt",
    "Injection",
    "Record",
    "Search",
    "Seen",
    "Shrunk",
    "Tolerance",
    "Trial",
    "Tried",
    "Wiring",
    "answered",
    "load_corpus",
    "metered",
    "replayed_first",
    "save_case",
    "shrink",
    "try_changes",
]
