"""What a model costs."""

from autolr.cost.flops import CostTable, measure_costs

__all__ = ["CostTable", "measure_costs"]
