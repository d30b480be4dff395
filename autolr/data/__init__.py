"""Natural language inference data from files, from the hub and from the embedded example."""

from autolr.data.nli import Columns, NliData, load_nli
from autolr.data.splits import split_by_premise

__all__ = ["Columns", "NliData", "load_nli", "split_by_premise"]
