"""The price of any candidate: what the model costs without compression, less what each choice saves."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from autolr.cost.latency_model import LatencyTable
from autolr.forms import FORMS
from autolr.types import Candidate, Choice, Cost, Unit


@dataclass(frozen=True)
class CostTable:
    """What the dense model costs, and how many rows each unit multiplies in one forward pass.

    Attributes:
        dense: the dense model's cost: what ratios refer to.
        base: the cost with every unit dense; less than ``dense`` where the model was rewritten exactly.
        units: by name, those of several matrices among them.
        rows: unit name -> vectors multiplied by its weight in one forward pass under the conditions.
        biased: names of the units whose dense layer has a bias.
        bytes_per_param: of the weights.
        latency: predicts times, where a budget asks for them.
    """

    dense: Cost
    base: Cost
    units: Mapping[str, Unit]
    rows: Mapping[str, int]
    biased: frozenset[str]
    bytes_per_param: int
    latency: LatencyTable | None = None

    def with_latency(self, table: LatencyTable) -> "CostTable":
        """Return the prices with times."""
        return replace(
            self,
            dense=replace(self.dense, latency=table.dense_ms),
            base=replace(self.base, latency=table.uncompressed_ms()),
            latency=table,
        )

    def saving(self, name: str, choice: Choice) -> dict[str, int | float]:
        """Return what one choice saves against the dense layer, by quantity; negative where it costs more.

        Latency is in milliseconds.
        """
        unit, form = self.units[name], FORMS.get(choice.form)
        fewer = unit.weights - form.weights(unit, choice)
        dense_bias = sum(m.out_features for m in unit.matrices or (unit,) if m.name in self.biased)
        params = fewer + dense_bias - form.bias_entries(unit, choice, self.biased)
        multiplied = unit.multiplied - form.multiplied(unit, choice)
        looked_up = fewer - multiplied
        saved: dict[str, int | float] = {
            "flops": 2 * self.rows[name] * multiplied,
            "params": params,
            "nonembedding-params": params - looked_up,
            "memory": params * self.bytes_per_param - form.index_bytes(unit, choice),
        }
        if self.latency is not None:
            saved["latency"] = self.latency.saving(unit, choice)
        return saved

    def cost(self, candidate: Candidate) -> Cost:
        """Return the candidate's cost."""
        saved = [self.saving(name, choice) for name, choice in candidate.choices]
        amounts = {q: self.base.get(q) - sum(saving[q] for saving in saved) for q in self.base.quantities}
        return Cost.from_amounts(amounts, self.base.conditions)
