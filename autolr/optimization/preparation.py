"""What is computed once before the search: the bank, the scorer, the space, the first candidates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path

from autolr.bank import Bank, masked_readers
from autolr.errors import BudgetError
from autolr.forms.low_rank import NAME as LOW_RANK
from autolr.methods.shrinkage import TOKENS_PER_FEATURE, too_few_tokens
from autolr.optimization.scorers import probe_scorer, scorer_of
from autolr.optimization.spaces import Space
from autolr.optimization.spaces.build import build_space
from autolr.optimization.spaces.grouped import uniform_candidate
from autolr.probes.scorer import ProbeScorer
from autolr.problem import LoadedProblem
from autolr.progress import Progress
from autolr.statistics.calibrate import calibrate, pass_count
from autolr.statistics.stream import stream_calibrate
from autolr.tasks import Scorer
from autolr.types import Candidate, LayerStats, Unit


@dataclass(frozen=True)
class Prepared:
    """What the trials share.

    Attributes:
        bank: decompositions.
        scorer: of the search part.
        probe: the probes of the search part, where the study has some.
        space: what the sampler proposes.
        fixed: candidates to evaluate first, by name: the dense model and uniform compression.
    """

    bank: Bank
    scorer: Scorer
    probe: ProbeScorer | None
    space: Space
    fixed: dict[str, Candidate]


def prepare(inputs: LoadedProblem, bank: Bank, progress: Progress) -> Prepared:
    """Build the search space and the scorer; what is on disk already is reused.

    Args:
        inputs: the opened inputs.
        bank: decompositions, complete.
        progress: told what is under way.
    """
    space = build_space(inputs, bank, progress)
    scorer = scorer_of(inputs, bank, "search", progress)
    fixed = {"dense": Candidate()}
    method, units = inputs.methods[0].name, inputs.units.by_name()
    if LOW_RANK in inputs.form_names:
        try:
            fixed[f"uniform {method}"] = uniform_candidate(units, method, inputs.spec.search.multiple, inputs.fits)
        except BudgetError as error:
            progress.note(f"no uniform candidate: {error}")
    return Prepared(bank, scorer, probe_scorer(inputs, bank, "search", progress), space, fixed)


def build_bank(inputs: LoadedProblem, directory: Path, progress: Progress) -> Bank:
    """Open the bank and compute what it lacks."""
    bank = Bank(directory, inputs.model, inputs.units.all, inputs.calibration_key)
    methods = inputs.bank_methods
    gradients = any("gradients" in method.needs for method in methods)
    masks = masked_readers(inputs.units.all, methods)

    def measure(units: Sequence[Unit]) -> Iterator[tuple[Unit, LayerStats]]:
        passes = 1 if inputs.spec.run.stream else pass_count(units, gradients=gradients, masks=masks)
        progress.start(
            f"calibrate {len(units)} layers on {len(inputs.parts.calibration)} {inputs.task.noun}"
            + (f", {passes} passes" if passes > 1 else "")
        )
        batches = inputs.batches("calibration")

        def step(share: float) -> None:
            progress.update(share)
            progress.check()

        cotangents = inputs.task.cotangents if gradients else None
        if inputs.spec.run.stream:
            return stream_calibrate(inputs.model, units, batches, cotangents, directory, progress=step, masks=masks)
        return calibrate(inputs.model, units, batches, cotangents, progress=step, masks=masks)

    def decomposing(what: str, done: int, total: int) -> None:
        if done == 1:
            progress.start(f"{what} {len(inputs.units.units)} layers by {', '.join(m.name for m in methods)}")
        progress.update(done / total)
        progress.check()

    bank.build(methods, measure, decomposing)
    _warn_of_few_tokens(inputs, bank, progress)
    return bank


def _warn_of_few_tokens(inputs: LoadedProblem, bank: Bank, progress: Progress) -> None:
    lacking = [
        TOKENS_PER_FEATURE * unit.in_features / max(tokens, 1)
        for unit in inputs.units.units
        if too_few_tokens(unit.in_features, tokens := bank.summary(unit.name).n_tokens)
    ]
    if lacking:
        used, there_are = len(inputs.parts.calibration), inputs.parts.train
        enough = rounded_up(used * max(lacking))
        remedy = f"--calibration-examples {enough} would do (now {used})"
        if there_are is not None and enough > there_are:
            noun = inputs.task.noun
            remedy = f"more train data is needed: about {enough} {noun} would do, the train data has {there_are}"
        progress.note(
            f"{len(lacking)} of {len(inputs.units.units)} layers have fewer than {TOKENS_PER_FEATURE} calibration "
            f"tokens for each input feature, so their statistics are shrunk; {remedy}"
        )


def rounded_up(number: float) -> int:
    """Return a number rounded up to two digits.

    Example:
        >>> rounded_up(1203.4), rounded_up(37.2), rounded_up(3.0)
        (1300, 38, 3)
    """
    step = int(10 ** max(len(str(ceil(number))) - 2, 0))
    return ceil(number / step) * step
