"""Optuna's own samplers, for comparison; candidates are proposed one by one, and none asks whether they are new."""

from optuna.samplers import GPSampler, NSGAIISampler, RandomSampler, TPESampler

from autolr.optimization.sampler.base import Sampler

SAMPLERS = (
    Sampler("gp", lambda seed, info: GPSampler(seed=seed, n_startup_trials=info.n_startup)),
    Sampler("tpe", lambda seed, info: TPESampler(seed=seed, n_startup_trials=info.n_startup, multivariate=True)),
    Sampler("nsga2", lambda seed, info: NSGAIISampler(seed=seed, population_size=max(info.n_startup, 2))),
    Sampler("random", lambda seed, info: RandomSampler(seed=seed)),
)
