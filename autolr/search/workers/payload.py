"""What a worker is given: all that an evaluation needs, but for the model and the bank, which it opens itself."""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from autolr.bank import Bank
from autolr.cost import CostTable
from autolr.data.parts import Parts
from autolr.data.probe_parts import ProbeParts
from autolr.errors import AutolrError
from autolr.forms import get_forms
from autolr.machine import locks as slots
from autolr.machine.atomic import replacing
from autolr.machine.tensor_digest import tensor_digest
from autolr.methods import get_methods
from autolr.model.digests import model_digests, tokenizer_digest
from autolr.model.load import open_model
from autolr.model.units import Units
from autolr.problem import Inputs
from autolr.scores import TASKS, TaskKind, add_task
from autolr.search.preparation import Prepared
from autolr.search.scorers import stored_probes
from autolr.search.study.evaluator import Objective
from autolr.spec.study import StudySpec
from autolr.tasks import task_for

Fetch = Callable[[Path], bytes]
"""Reads a file of the driver's node."""
BANK = "bank-"
"""How the names of fetched banks begin."""
UNUSED_SECONDS = 7 * 86400.0
"""After which a fetched bank that no worker has opened is deleted."""


@dataclass(frozen=True)
class Payload:
    """What all workers of a study are given, once each.

    Attributes:
        spec: the study's.
        parts: the data.
        max_length: tokens after which a pair is cut.
        units: what can be compressed.
        costs: prices candidates.
        dense: what the scorer of the search part kept of the dense model.
        probes: part -> probing tasks.
        dense_probes: what the scorer of the search part's probes kept of the dense model; None: there are no probes.
        digests: of the model's weights and configuration, and of its tokenizer.
        calibration_key: of the bank.
        bank: its folder where the driver runs.
        threads: CPU threads of a worker.
        own_task: the study's task, where the driver's process alone knows it.
    """

    spec: StudySpec
    parts: Parts
    max_length: int
    units: Units
    costs: CostTable
    dense: Mapping[str, Tensor]
    probes: ProbeParts
    dense_probes: Mapping[str, Tensor] | None
    digests: Mapping[str, str]
    calibration_key: str
    bank: Path
    threads: int
    own_task: TaskKind | None = None

    @classmethod
    def of(cls, inputs: Inputs, prepared: Prepared, threads: int) -> "Payload":
        """Pack what the driver has; a worker has one device, whatever its number is."""
        spec = inputs.spec
        if spec.run.device.startswith("cuda"):
            spec = spec.model_copy(update={"run": spec.run.model_copy(update={"device": "cuda"})})
        return cls(
            spec,
            inputs.parts,
            inputs.max_length,
            inputs.units,
            inputs.costs,
            prepared.scorer.kept(),
            inputs.probes,
            None if prepared.probe is None else prepared.probe.kept(),
            inputs.digests,
            inputs.calibration_key,
            prepared.bank.directory.resolve(),
            threads,
            TASKS.added(spec.task),
        )

    def open(self, fetch: Fetch, tick: Callable[[], None] = lambda: None) -> Objective:
        """Load the model, map the bank, and return what evaluates candidates exactly as the driver would.

        Args:
            fetch: reads a file of the driver's node; called where the bank's folder is not reachable here.
            tick: called after each part of the work.

        Raises:
            AutolrError: the model here is another one, or cannot be loaded.
        """
        torch.set_num_threads(self.threads)
        if self.own_task is not None:
            add_task(self.own_task)
        model, tokenizer = open_model(self.spec)
        tick()
        if {**model_digests(model), "tokenizer": tokenizer_digest(tokenizer)} != self.digests:
            raise AutolrError(f"the model {self.spec.model} here is not the one that the study began with")
        methods, forms = get_methods(self.spec.search.methods), get_forms(self.spec.search.forms)
        task = task_for(self.spec, model, tokenizer, self.spec.model or "the embedded example")
        given = (self.max_length, self.parts, self.units, self.costs, methods, forms, self.probes)
        inputs = Inputs(self.spec, model, tokenizer, task, *given)
        bank = Bank(self.bank, model, self.units.units, self.calibration_key)
        if not bank.present(methods):
            bank = Bank(self._fetched(bank.files(methods), fetch, tick), model, self.units.units, self.calibration_key)
            bank.complete(methods)
        probe = None
        if self.dense_probes is not None:
            probe = stored_probes(inputs, "search", self.dense_probes)
        scorer = task.stored_scorer(self.parts.search, inputs.batches("search"), self.dense)
        return Objective(inputs, bank, scorer, probe)

    def _fetched(self, files: Mapping[str, Path], fetch: Fetch, tick: Callable[[], None]) -> Path:
        """Copy the bank's files to this node, once for all its workers, and return the folder."""
        name = f"{BANK}{tensor_digest({'key': torch.tensor(list(self.calibration_key.encode()))})[:16]}"
        folder = slots.own_folder() / name
        sweep_banks(besides=name)
        with slots.holding(name, tick):
            folder.mkdir(exist_ok=True)
            os.utime(folder)  # it is in use
            for relative, path in files.items():
                copy = folder / relative
                if not copy.is_file():
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    with replacing(copy) as temporary:
                        temporary.write_bytes(fetch(path))
                    tick()
        return folder


def sweep_banks(besides: str) -> None:
    """Delete the fetched banks that no worker has opened for a long time.

    A worker that has worked with one all the while and finds a file gone ends, and the next one fetches it again.

    Args:
        besides: name of the bank that stays in any case.
    """
    for bank in slots.own_folder().glob(f"{BANK}*/"):
        if bank.name != besides and _unused(bank):
            with slots.holding(bank.name):
                if _unused(bank):  # nobody has come before
                    shutil.rmtree(bank, ignore_errors=True)


def _unused(bank: Path) -> bool:
    try:
        return time.time() - bank.stat().st_mtime > UNUSED_SECONDS
    except FileNotFoundError:  # another worker has deleted it
        return False
