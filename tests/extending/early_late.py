"""A search space from elsewhere: how much more the first half of the layers keeps than the second.

Its entry point is ``early-late = "early_late:SPACE"`` in the group ``autolr.spaces``; a YAML file of the user's may say
``kind: early-late`` and another range.
"""

from dataclasses import dataclass
from typing import Literal

from optuna.distributions import FloatDistribution

from autolr.optimization.spaces.grouped import from_shares, largest_that_fits
from autolr.spec.spaces import Factor, Named, SpaceKind

RATIO = "early over late"


class EarlyLateConfig(Named):
    kind: Literal["early-late"]
    ratio: Factor = Factor(low=0.25, high=4.0)


@dataclass(frozen=True)
class EarlyLate:
    config: EarlyLateConfig
    units: dict
    method: str
    multiple: int
    fits: object

    def distributions(self):
        return {RATIO: FloatDistribution(self.config.ratio.low, self.config.ratio.high, log=True)}

    def decode(self, params):
        shares = {name: params[RATIO] if unit.depth < 0.5 else 1.0 for name, unit in self.units.items()}
        methods = dict.fromkeys(self.units, self.method)

        def at(scale):
            return from_shares(self.units, {n: scale * s for n, s in shares.items()}, methods, self.multiple)

        return largest_that_fits(at, 1.0 / min(shares.values()), self.fits)

    def seeds(self, seed, trials):
        return {"same share": {RATIO: 1.0}}


def build(config, problem, bank, progress):
    method = problem.methods[0].name
    return EarlyLate(config, problem.units.by_name(), method, problem.spec.search.multiple, problem.fits)


SPACE = SpaceKind("early-late", EarlyLateConfig, build, "what the first half keeps over the second")
