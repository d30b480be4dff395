"""Predicted against measured latency of 30 random candidates of all forms that no fit has seen, in two profiles.

The table is measured as a study does; then 30 random candidates (another seed, sizes of every kind that the forms
offer, in groups of ten) are timed in turn with the dense model. Writes predict.json.
``python studies/latency/predict.py [PROFILE …]``
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from common import PROFILES, THREADS, Lines, spec

from autolr.cost.latency_model import fit
from autolr.cost.measure_latency import time_candidates
from autolr.forms.low_rank import low_rank, rank_grid
from autolr.forms.low_rank_rows import SHARES, low_rank_rows
from autolr.forms.neurons import neurons
from autolr.forms.neurons_low_rank import neurons_low_rank
from autolr.methods.remainders import remainder_counts
from autolr.problem import open_inputs
from autolr.records import Candidate, Choice, Unit, break_even_rank

OUT = Path(__file__).parent / "predict.json"
N, GROUP = 30, 10
SECONDS = 40.0
MULTIPLE = 8


def main(profiles: list[str]) -> None:
    rows = json.loads(OUT.read_text()) if OUT.exists() else {}
    for profile in profiles:
        before = os.getloadavg()[0]
        inputs = open_inputs(spec(profile, "0.9x-latency"), Lines())
        table, conditions = inputs.costs.latency, inputs.costs.dense.conditions
        candidates = [mixed(inputs.units.all, level, seed) for seed, level in enumerate(np.linspace(0.05, 0.9, N))]
        order = np.random.default_rng(0).permutation(N)  # small and large ones in each group
        pairs, dense = [], []
        for group in order.reshape(-1, GROUP):
            chosen = [candidates[index] for index in group]
            plain, *timed = time_candidates(inputs.model, chosen, inputs.units.all, conditions, 0.01, SECONDS, Lines())
            dense.append(1e3 * plain.median)
            for candidate, one in zip(chosen, timed, strict=True):
                pairs.append([table.share(candidate), one.ratio, one.ratio_low, one.ratio_high])
        found = np.array(pairs)
        errors = np.abs(found[:, 0] / found[:, 1] - 1)
        wide = (found[:, 3] - found[:, 2]) / 2 / found[:, 1]
        alone = (found[:, 0] - table.fixed) / table.slope
        crossed = refitted(alone, found[:, 1])
        rows[profile] = {
            "threads": THREADS,
            "median_error": float(np.median(errors)),
            "worst_error": float(errors.max()),
            "refitted_median_error": float(np.median(crossed)),
            "refitted_worst_error": float(crossed.max()),
            "fixed, slope": [table.fixed, table.slope],
            "median_bias": float(np.median(found[:, 0] / found[:, 1] - 1)),
            "median_half_width": float(np.median(wide)),
            "stated_median_error": float(np.median(table.errors)),
            "dense_ms": [table.dense_ms, *dense],
            "load_before_and_after": [before, os.getloadavg()[0]],
            "predicted, measured, interval": pairs,
        }
        print(profile, {k: v for k, v in rows[profile].items() if "interval" not in k}, flush=True)
        OUT.write_text(json.dumps(rows, indent=1) + "\n")


def refitted(alone: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """Return the errors of each group predicted with the fixed part and the slope of the others: of the same minutes.

    What these leave is wrong with the times of layers alone; the rest is what the machine did between the measurement
    of the table and that of the candidates.
    """
    terms = np.column_stack([np.ones(len(alone)), alone])
    groups = np.arange(len(alone)) // GROUP
    predicted = np.empty(len(alone))
    for group in np.unique(groups):
        inside = groups == group
        predicted[inside] = terms[inside] @ fit(terms[~inside], measured[~inside])
    return np.asarray(np.abs(predicted / measured - 1))


def mixed(units: Sequence[Unit], level: float, seed: int) -> Candidate:
    """Return a candidate of all forms whose sizes are about a level, as a share of what would save nothing.

    Half of the feed-forward pairs have fewer neurons, half of those low rank besides; of the matrices a quarter keep
    rows.
    """
    rng = np.random.default_rng(seed)
    choices: dict[str, Choice] = {}
    for pair in (unit for unit in units if unit.matrices):
        if rng.random() < 0.5:
            choices[pair.name] = of_pair(pair, level * rng.uniform(0.3, 1.7), rng)
    taken = {name for unit in units if unit.name in choices for name in unit.modules}
    for unit in (unit for unit in units if not unit.matrices and unit.name not in taken):
        ranks = rank_grid(unit, MULTIPLE)
        place = int(level * rng.uniform(0.3, 1.7) * len(ranks))
        if place >= len(ranks):
            continue
        keeps = rng.random() < 0.25
        rows = max(1, round(rng.choice(SHARES) * unit.out_features))
        choices[unit.name] = low_rank_rows("", ranks[place], rows) if keeps else low_rank("", ranks[place])
    return Candidate.of(choices)


def of_pair(pair: Unit, level: float, rng: np.random.Generator) -> Choice:
    """Return fewer neurons, or low rank of what they leave: of all matrices, or of one side alone."""
    wide, step = pair.matrices[-1].in_features, 2 * MULTIPLE
    if rng.random() < 0.5:
        return neurons("", min(max(step, round(level * wide / step) * step), wide - step))
    count = int(rng.choice([n for n in remainder_counts(wide) if n >= level * wide] or [remainder_counts(wide)[-1]]))
    share = min(level * wide / count, 0.95)
    sides = (pair.in_features, pair.out_features)
    ranks = [max(MULTIPLE, int(share * break_even_rank(count, side)) // MULTIPLE * MULTIPLE) for side in sides]
    dense = rng.integers(3)  # neither, the makers, the reader
    if dense:
        ranks[dense - 1] = min(count, sides[dense - 1])
    return neurons_low_rank("", count, *ranks)


if __name__ == "__main__":
    main(sys.argv[1:] or list(PROFILES))
