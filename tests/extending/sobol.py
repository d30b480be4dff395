"""A sampler from elsewhere: Optuna's Sobol sequence.

Its entry point is ``sobol = "sobol:SAMPLER"`` in the group ``autolr.samplers``.
"""

from optuna.samplers import QMCSampler

from autolr.optimization.sampler.base import Sampler

SAMPLER = Sampler("sobol", lambda seed, info: QMCSampler(seed=seed, scramble=True), stateless=True)
