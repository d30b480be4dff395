"""What a model costs: counted, and on the clock."""

from autolr.cost.count import measure_costs
from autolr.cost.table import CostTable

__all__ = ["CostTable", "measure_costs"]
