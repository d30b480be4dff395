"""The processes of one proposal: each objective's and each constraint's, fitted or, where it is known, computed.

Symbols:
    n: trials that teach; d: features; m: objectives; X (n, d): features of the trials; stderr (n, m).
"""

from functools import partial

import numpy as np

from autolr.search.sampler.encoding import Array
from autolr.search.sampler.gaussian_process import Process, fit
from autolr.search.sampler.history import History
from autolr.search.sampler.known import Known
from autolr.search.sampler.outcome_models import Scale, slack, utilities


def objective_processes(
    history: History, X: Array, stderr: Array, known: Known | None
) -> tuple[list[Process], Array, Array]:
    """Return the m objectives' processes, and what they are fitted to: utilities and variances, two of (n, m)."""
    found: list[Process] = []
    values = history.values()
    y, noise = utilities(values, history.maximize, stderr)
    for j, maximize in enumerate(history.maximize.tolist()):
        if known and j in known.columns:
            scale = Scale.of(values[:, j], stderr[:, j], maximize)
            found.append(known.process(j, history.encoding, scale.utility))
        else:
            found.append(fit(X, y[:, j], noise[:, j]))
    return found, y, noise


def constraint_processes(history: History, X: Array, known: Known | None) -> list[Process]:
    """Return a process for each constraint that was ever violated, on a scale of its own that keeps the zero."""
    found: list[Process] = []
    for name, (rows, values) in history.constraints().items():
        if not (values > 0.0).any():
            continue
        if known and name in known.columns:
            size = float(np.sqrt(np.mean(values**2)))
            found.append(known.process(name, history.encoding, partial(np.multiply, 1.0 / size)))
        else:
            found.append(fit(X[rows], slack(values)))
    return found
