"""The account of one trial: why each layer is what it is."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class LayerAccount:
    """What decided about one layer. Losses are in nats per example; steps in nats per million FLOPs.

    Attributes:
        unit: the layer's name.
        form: what it became; None: it stayed dense.
        method: by which method; None likewise.
        sizes: of the form; None likewise.
        break_even: the rank at which low rank costs as much as dense; None of several matrices together.
        loss: the curve at the choice: what cutting this layer alone is predicted to cost.
        curve: (share of the break-even rank, loss there) pairs.
        multiplier: the trial's own factor on the curve.
        next_step: what one step more would save, after the multiplier; None where there is none.
        last_step: what one step less would cost.
    """

    unit: str
    form: str | None
    method: str | None
    sizes: Mapping[str, int] | None
    break_even: int | None
    loss: float | None
    curve: tuple[tuple[float, float | None], ...]
    multiplier: float
    next_step: float | None
    last_step: float | None

    def to_json(self) -> dict[str, Any]:
        """Return the form of layers.json; ``rank`` and ``rows`` are those of low-rank forms."""
        sizes = self.sizes or {}
        rows = 0 if self.sizes is None else sizes.get("rows", 0)
        return {**asdict(self), "curve": [list(pair) for pair in self.curve], "rank": sizes.get("rank"), "rows": rows}


@dataclass(frozen=True)
class Account:
    """The account of a trial.

    Attributes:
        trial: its number.
        params: its parameters.
        layers: in the model's order.
        importances: of the search's parameters for the objective, shares of one; empty in small studies.
    """

    trial: int
    params: Mapping[str, Any]
    layers: tuple[LayerAccount, ...]
    importances: Mapping[str, float]

    def to_json(self) -> dict[str, Any]:
        """Return the form of layers.json and of ``autolr sensitivity --json``."""
        layers = [layer.to_json() for layer in self.layers]
        return {
            "trial": self.trial,
            "params": dict(self.params),
            "layers": layers,
            "importances": dict(self.importances),
        }
