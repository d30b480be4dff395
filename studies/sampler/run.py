"""Samplers on synthetic rank allocation: fraction of the attainable hypervolume, and processor seconds per proposal.

    python studies/sampler/run.py quality --layers 12 24 --trials 100 --startup 12 --seeds 5
    python studies/sampler/run.py speed --layers 12 24 --at 50 100 200

Every line of output is one JSON object. Seconds are of the process's processor time, which other load disturbs little.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import optuna

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
from synthetic_allocation import Allocation, run

from autolr.optimization.sampler.base import SpaceInfo
from autolr.optimization.sampler.botorch_sampler import BoTorchSampler
from autolr.optimization.sampler.registry import SAMPLERS, build_sampler


def quality(options: argparse.Namespace) -> None:
    for name in options.samplers:
        for layers in options.layers:
            fractions, began = [], time.process_time()
            for seed in range(options.seeds):
                problem = Allocation.random(layers, seed)
                sampler = build_sampler(name, seed, SpaceInfo(n_startup=options.startup))
                if options.computed:
                    sampler = BoTorchSampler(seed, options.startup, computed=problem.computed())
                study = run(problem, sampler, options.trials)
                fractions.append(round(problem.fraction(study), 4))
            seconds = (time.process_time() - began) / (options.seeds * (options.trials - options.startup))
            show(sampler=name, layers=layers, mean=np.mean(fractions), fractions=fractions, seconds=seconds)


def speed(options: argparse.Namespace) -> None:
    """Seconds of a proposal after n trials that spread over the space, the best of three."""
    for name in options.samplers:
        for layers in options.layers:
            for n_trials in options.at:
                problem = Allocation.random(layers, 0)
                study = run(problem, build_sampler("random", 0), n_trials)
                study.sampler = build_sampler(name, 0, SpaceInfo(n_startup=8))
                show(sampler=name, layers=layers, trials=n_trials, seconds=min(ask(study) for _ in range(3)))


def ask(study: optuna.Study) -> float:
    space = study.trials[0].distributions
    began = time.process_time()
    trial = study.ask(space)
    seconds = time.process_time() - began
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return seconds


def show(**record: object) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in record.items()}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["quality", "speed"])
    parser.add_argument(
        "--samplers", nargs="+", default=["botorch", "tpe", "nsga2", "random"], choices=sorted(SAMPLERS.names())
    )
    parser.add_argument("--layers", nargs="+", type=int, default=[24])
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--startup", type=int, default=20)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--computed", action="store_true", help="botorch: the cost is computed, not modelled")
    parser.add_argument("--at", nargs="+", type=int, default=[50, 100, 200])
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore")
    {"quality": quality, "speed": speed}[options.what](options)


if __name__ == "__main__":
    main()
