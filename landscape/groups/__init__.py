"""Groups of runs: the records of several seeds of each model, as means with bands, and their differences."""

from landscape.groups.compare import compare_groups
from landscape.groups.comparison import GroupComparison

__all__ = ["GroupComparison", "compare_groups"]
