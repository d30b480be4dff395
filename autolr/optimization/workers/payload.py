"""What a worker is given: all that an evaluation needs, but for the model and the bank, which it opens itself."""

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from autolr.bank import Bank
from autolr.errors import AutolrError
from autolr.machine import locks
from autolr.machine.atomic import replacing
from autolr.machine.tensor_digest import tensor_digest
from autolr.model.digests import model_digests, tokenizer_digest
from autolr.model.load import open_model
from autolr.optimization.preparation import Prepared
from autolr.optimization.scorers import stored_probes
from autolr.optimization.study.evaluator import Objective
from autolr.problem import LoadedProblem, Problem
from autolr.scores import TASKS, TaskKind, add_task
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
        problem: the study's; its model is where ``problem.spec`` says.
        dense: what the scorer of the search part kept of the dense model.
        dense_probes: what the scorer of the search part's probes kept of the dense model; None: there are no probes.
        bank: the bank's folder where the driver runs.
        threads: CPU threads of a worker.
        own_task: the study's task, where the driver's process alone knows it.
    """

    problem: Problem
    dense: Mapping[str, Tensor]
    dense_probes: Mapping[str, Tensor] | None
    bank: Path
    threads: int
    own_task: TaskKind | None = None

    @classmethod
    def of(cls, inputs: LoadedProblem, prepared: Prepared, threads: int) -> "Payload":
        """Pack what the driver has; a worker has one device, whatever its number is."""
        problem, spec = inputs.without_model(), inputs.spec
        if spec.run.device.startswith("cuda"):
            run = spec.run.model_copy(update={"device": "cuda"})
            problem = replace(problem, spec=spec.model_copy(update={"run": run}))
        return cls(
            problem,
            prepared.scorer.kept(),
            None if prepared.probe is None else prepared.probe.kept(),
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
        problem = self.problem
        model, tokenizer = open_model(problem.spec)
        tick()
        if {**model_digests(model), "tokenizer": tokenizer_digest(tokenizer)} != problem.digests:
            raise AutolrError(f"the model {problem.spec.model} here is not the one that the study began with")
        task = task_for(problem.spec, model, tokenizer, problem.spec.model or "the embedded example")
        inputs, units = problem.loaded(model, tokenizer, task), problem.units.all
        bank = Bank(self.bank, model, units, problem.calibration_key)
        if not bank.present(problem.bank_methods):
            files = bank.files(problem.bank_methods)
            bank = Bank(self._fetched(files, fetch, tick), model, units, problem.calibration_key)
            bank.complete(problem.bank_methods)
        probe = None
        if self.dense_probes is not None:
            probe = stored_probes(inputs, "search", self.dense_probes)
        scorer = task.stored_scorer(problem.parts.search, inputs.batches("search"), self.dense)
        return Objective(inputs, bank, scorer, probe)

    def _fetched(self, files: Mapping[str, Path], fetch: Fetch, tick: Callable[[], None]) -> Path:
        """Copy the bank's files to this node, once for all its workers, and return the folder."""
        name = f"{BANK}{tensor_digest({'key': torch.tensor(list(self.problem.calibration_key.encode()))})[:16]}"
        folder = locks.own_folder() / name
        sweep_banks(besides=name)
        with locks.holding(name, tick):
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
    for bank in locks.own_folder().glob(f"{BANK}*/"):
        if bank.name != besides and _unused(bank):
            with locks.holding(bank.name):
                if _unused(bank):  # nobody has come before
                    shutil.rmtree(bank, ignore_errors=True)


def _unused(bank: Path) -> bool:
    try:
        return time.time() - bank.stat().st_mtime > UNUSED_SECONDS
    except FileNotFoundError:  # another worker has deleted it
        return False
