"""The end of a study tried before its beginning: what would fail after hours fails in seconds.

One layer, factorized on a few examples, goes the whole way: statistics, decomposition, a trial, refit, report, model
card, checkpoint, reloaded to equal logits, and where a budget is a time a clock in a process of its own. A tokenizer
that cannot be saved, settings that transformers refuses to write, a full disk, custom code that does not load again:
each is met here.
"""

import errno
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError

from autolr.bank import Bank
from autolr.data.parts import Data, Parts
from autolr.errors import AutolrError
from autolr.forms.low_rank import low_rank
from autolr.forms.swap import given
from autolr.machine.temporary import passing_folder
from autolr.methods import METHODS
from autolr.model.units import Units
from autolr.optimization.preparation import build_bank
from autolr.optimization.scorers import scorer_of
from autolr.optimization.study.evaluator import Objective
from autolr.problem import LoadedProblem
from autolr.progress import Progress, Silent
from autolr.results import FrontMember, RelativeCost, Variant
from autolr.types import Candidate, Choice, Unit
from autolr.workflows.export import EXPORT_FORMAT, export
from autolr.workflows.final_report import report_on
from autolr.workflows.finalists import changes_of
from autolr.workflows.verify_latency import latency_budgets, time_checkpoint

EXAMPLES = 4
"""Of each part."""
_METHOD = "svd"
_SECONDS = 1.0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FAILED = "the end of the study was tried before its beginning, and failed"


def rehearse(
    inputs: LoadedProblem, folder: Path, progress: Progress, formats: Sequence[str] = (EXPORT_FORMAT,)
) -> None:
    """Export one compressed layer to a temporary folder, by way of everything that a study does.

    Its rank is the highest that saves anything: what it computes is nearly what the dense model does, so that no model
    is refused for what a low rank makes of it.

    Args:
        inputs: the opened inputs.
        folder: of the study; the temporary folder is in it, since that is the disk that must have room.
        progress: told what is under way.
        formats: in which checkpoints will be wanted.

    Raises:
        AutolrError: something failed that would have failed at the end of the study.
    """
    progress.start("rehearse the end of the study on one layer")
    with passing_folder(folder, "rehearsal-") as temporary:
        try:
            _rehearse(_small(inputs), temporary, formats)
        except AutolrError as error:
            raise type(error)(f"{_FAILED}: {error}") from error
        except Exception as error:  # whatever a model's or tokenizer's own code raises, what was tried is to be told
            if isinstance(error, SafetensorError) or getattr(error, "errno", None) in _FULL:  # they name no file
                raise AutolrError(
                    f"{_FAILED}: not all could be written to {folder}: {error}; make room there, or choose another "
                    f"--study"
                ) from error
            raise AutolrError(f"{_FAILED}: {type(error).__name__}: {error}") from error
    progress.update(1.0)


def _rehearse(inputs: LoadedProblem, folder: Path, formats: Sequence[str]) -> None:
    silent = Silent()
    bank = build_bank(inputs, folder / "bank", silent)
    unit = inputs.units.units[0]
    candidate = Candidate.of({unit.name: _choice(inputs, bank, unit)})
    evaluation = Objective(inputs, bank, scorer_of(inputs, bank, "search", silent)).evaluate(candidate, silent.check)
    cost = RelativeCost.of(evaluation.cost, inputs.costs.dense)
    member = FrontMember(0, "rehearsal", Variant(candidate), cost, evaluation.scores, {})
    changes = changes_of(inputs, bank, candidate, silent)
    report = report_on(inputs, bank, candidate, changes, silent)
    for name in formats:
        export(inputs, bank, member, changes, report, folder / name, name, silent)
    if latency_budgets(inputs):
        time_checkpoint(inputs, folder / formats[0], silent, processes=1, seconds=_SECONDS)


def _choice(inputs: LoadedProblem, bank: Bank, unit: Unit) -> Choice:
    """Return the dearest option of the study's first form that applies, or a low rank where none does."""
    for form in inputs.forms:
        if form.applies(unit, METHODS.get(_METHOD)):
            choices, _ = form.options(given(inputs.model, bank, unit.name, _METHOD), 1)
            if choices:
                return max(choices, key=lambda choice: form.weights(unit, choice))
    return low_rank(_METHOD, max(1, unit.break_even - 1))


def _small(inputs: LoadedProblem) -> LoadedProblem:
    """Return the inputs with a few examples, without probes, and with the first layer alone."""

    def few(part: str) -> Data:
        data: Data = getattr(inputs.parts, part)
        return data.select(range(min(EXAMPLES, len(data))))

    parts = Parts(few("calibration"), few("search"), few("selection"), few("report"))
    units = Units(inputs.units.units[:1], inputs.units.excluded)
    search = inputs.spec.search.model_copy(update={"methods": (_METHOD,)})
    return replace(inputs, spec=inputs.spec.model_copy(update={"search": search}), parts=parts, units=units, probes={})
