"""The price of any candidate: what the model costs without compression, less what each choice saves."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from autolr.cost.latency_model import LatencyTable
from autolr.forms import FORMS
from autolr.forms.base import Form
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
        pairs: unit of attention -> pairs of positions at which a query meets a key in one forward pass.
    """

    dense: Cost
    base: Cost
    units: Mapping[str, Unit]
    rows: Mapping[str, int]
    biased: frozenset[str]
    bytes_per_param: int
    latency: LatencyTable | None = None
    pairs: Mapping[str, int] = field(default_factory=dict)

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
            "flops": self._flops(unit, choice, form),
            "params": params,
            "nonembedding-params": params - looked_up,
            "memory": params * self.bytes_per_param - form.index_bytes(unit, choice),
        }
        if self.latency is not None:
            saved["latency"] = self.latency.saving(unit, choice)
        return saved

    def _flops(self, unit: Unit, choice: Choice, form: Form) -> int:
        """Return the FLOPs that a choice saves, in products with weights and of attention's heads with each other."""
        before = sum(self.rows[matrix.name] * matrix.multiplied for matrix in unit.matrices or (unit,))
        after = sum(self.rows[module] * weights for module, weights in form.products(unit, choice).items())
        saved = 2 * (before - after)
        if unit.heads is None:
            return saved
        fewer = unit.heads.groups * unit.heads.read - form.attention(unit, choice)
        return saved + 4 * fewer * self.pairs[unit.name]  # scores, and what they weigh: two products

    def cost(self, candidate: Candidate) -> Cost:
        """Return the candidate's cost."""
        saved = [self.saving(name, choice) for name, choice in candidate.choices]
        amounts = {q: self.base.get(q) - sum(saving[q] for saving in saved) for q in self.base.quantities}
        return Cost.from_amounts(amounts, self.base.conditions)
