"""The sampler: Bayesian optimisation over candidates; it knows nothing of models."""
