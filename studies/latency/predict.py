"""Predicted against measured latency of 30 random candidates that the table has not seen, in two profiles.

The table is measured as a study does; then 30 other random candidates (another seed, ranks of all sizes, in groups of
ten) are timed in turn with the dense model. Writes predict.json. ``python studies/latency/predict.py [PROFILE …]``
"""

import json
import sys
from pathlib import Path

import numpy as np
from common import PROFILES, Lines, spec

from autolr.checkpoint.runtime import rewrites
from autolr.cost.measure_latency import random_candidates, shared_copy, time_models, with_random_factors
from autolr.problem import open_inputs

OUT = Path(__file__).parent / "predict.json"
N, GROUP = 30, 10


def main(profiles: list[str]) -> None:
    rows = json.loads(OUT.read_text()) if OUT.exists() else {}
    for profile in profiles:
        inputs = open_inputs(spec(profile, "0.9x-latency"), Lines())
        table, units = inputs.costs.latency, inputs.units.units
        candidates = random_candidates(units, N + 1, seed=1)[1:]  # without the dense one
        plain = shared_copy(inputs.model)
        rewrites.undo(plain)
        pairs = []
        for start in range(0, N, GROUP):
            models = {"dense": plain}
            for index in range(start, start + GROUP):
                models[str(index)] = with_random_factors(inputs.model, candidates[index], units)
            timed = time_models(models, inputs.costs.dense.conditions, 0.01, 60.0, Lines())
            for index in range(start, start + GROUP):
                one = timed[str(index)]
                pairs.append([table.share(candidates[index]), one.ratio, one.ratio_low, one.ratio_high])
        found = np.array(pairs)
        errors = np.abs(found[:, 0] / found[:, 1] - 1)
        rows[profile] = {
            "median_error": float(np.median(errors)),
            "worst_error": float(errors.max()),
            "stated_median_error": float(np.median(table.errors)),
            "predicted, measured, interval": pairs,
        }
        print(profile, {k: v for k, v in rows[profile].items() if "error" in k}, flush=True)
        OUT.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or list(PROFILES))
