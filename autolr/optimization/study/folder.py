"""A study's folder: the resolved specification, the Optuna journal, one file for each trial, the front.

study.yaml      specification, fingerprint, versions      study.journal    Optuna's storage, without a database
bank/           statistics and decompositions             trials/<n>.json  each trial's spec and measurements, and
                                                          <n>.safetensors its logits on the search part
front.json      rewritten after every trial               front/<n>/       exported checkpoints
result.json     the winner with its held-out figures      layers.json      why each of its layers has its rank
study.lock      held by the process that writes
latency.json    times that latency is predicted from, where a budget is a time
"""

import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from pydantic import BaseModel, ConfigDict, TypeAdapter

from autolr import __version__
from autolr.checkpoint.directory import holds_foreign
from autolr.errors import AutolrError, UsageError, command, nearest
from autolr.machine.atomic import read_json, write_atomically
from autolr.machine.locks import try_lock
from autolr.optimization.study.database import open_database
from autolr.optimization.study.journal import damaged, open_journal
from autolr.optimization.study.trial_record import REQUIRED
from autolr.progress import Progress
from autolr.scores import TASKS
from autolr.spec.plain import parse_plain, read_yaml
from autolr.spec.study import StudySpec, make_spec

STUDY_NAME = "autolr"
_NUMBER = re.compile(r"0|[1-9][0-9]{0,8}")
"""Names of the trials' files, without their ending; no study comes to a thousand million trials."""
_PAUSE = 0.05
"""Seconds between two tries to hold a folder."""
_OWN = ("study.", "inputs", "latency.json", "bank", "rehearsal-", "trials", "front", "result.json", "layers.json")
"""How the names of a study's entries begin, after the dot of those that are being written."""
_LIBRARIES = ("torch", "transformers", "optuna", "botorch")


class Asked(BaseModel):
    """What a study's state is stated against."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)
    trials: int
    budgets: tuple[str, ...]
    floors: tuple[str, ...]


class StudyFolder:
    """Paths and files of one study.

    Args:
        path: the folder; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spec_file = path / "study.yaml"
        self.journal = path / "study.journal"
        self.trials = path / "trials"
        self.latency_file = path / "latency.json"
        self.bank = path / "bank"
        self.front_file = path / "front.json"
        self.result_file = path / "result.json"
        self.account_file = path / "layers.json"

    @classmethod
    def existing(cls, path: Path) -> "StudyFolder":
        """Return the folder of a study that exists.

        Raises:
            UsageError: it is not one; the message names the studies beside it.
        """
        folder = cls(path)
        if not folder.spec_file.is_file():
            near = (
                sorted(str(found.parent) for found in path.parent.glob("*/study.yaml")) if path.parent.is_dir() else []
            )
            begin = f"begin one with {command('search', '--study', path)} or autolr.search(study=...)"
            hint = f"studies here: {', '.join(near)}" if near else begin
            raise UsageError(f"{path} is not a study folder, it has no study.yaml; {hint}")
        return folder

    def check_own(self) -> None:
        """Refuse a folder that holds something else: a study's files would be mixed with its.

        Raises:
            UsageError: it has no study.yaml, and entries that no study leaves that was only begun; or it is a file.
        """
        if not self.path.exists() or self.spec_file.is_file():
            return
        if not self.path.is_dir():
            raise UsageError(f"{self.path} is a file; name a folder for the study")
        foreign = sorted(e for e in self.path.iterdir() if not e.name.lstrip(".").startswith(_OWN))
        if foreign:
            raise holds_foreign(self.path, foreign, "study", "a study that was begun is worked on")

    def stored(self) -> dict[str, Any]:
        """Return the content of study.yaml.

        Raises:
            UsageError: it is damaged.
        """
        plain = read_yaml(self.spec_file)
        if not isinstance(plain, dict) or not all(isinstance(plain.get(key), dict) for key in ("spec", "fingerprint")):
            raise UsageError(f"{self.spec_file} is damaged: it must hold spec and fingerprint, and settings in each")
        return plain

    def spec(self) -> StudySpec:
        """Return the stored specification.

        Raises:
            UsageError: it is damaged, or of a task that this process does not know.
        """
        plain = self.stored()["spec"]
        task = plain.get("task") if isinstance(plain, dict) else None
        if isinstance(task, str) and task not in TASKS:
            raise UsageError(
                f"{self.spec_file}: unknown task {task!r}; {nearest(task, TASKS.names())}; if the study was begun with "
                f"a task object, make it again and go on with autolr.search(…, task=task, study={str(self.path)!r}) or "
                f"autolr.Study({str(self.path)!r}, task=task), or have an installed package register it as an entry "
                f"point (docs/extending.md)"
            )
        return make_spec(plain, str(self.spec_file))

    def asked(self) -> "Asked":
        """Return what can be told of a study whatever its task, also where this process does not know that.

        Raises:
            UsageError: the specification is damaged.
        """
        asked: Asked = parse_plain(TypeAdapter(Asked), self.stored()["spec"], str(self.spec_file))
        return asked

    def check_same(self, name: str, stored: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Refuse to go on under other conditions than the study began with.

        Raises:
            UsageError: with one line for each difference.
        """
        missing = "(absent)"
        keys = [*stored, *(key for key in now if key not in stored)]
        changed = [key for key in keys if stored.get(key, missing) != now.get(key, missing)]
        if changed:
            lines = [f"  {key}: was {stored.get(key, missing)!r}, now {now.get(key, missing)!r}" for key in changed]
            raise UsageError(
                f"the study at {self.path} was begun with another {name}:\n" + "\n".join(lines) + "\n"
                "go on with the same one, or begin another study with --study"
            )

    def write_spec(self, spec: StudySpec, fingerprint: Mapping[str, Any]) -> None:
        """Write study.yaml."""
        content = {
            "spec": spec.model_dump(mode="json"),
            "fingerprint": dict(fingerprint),
            "versions": {"autolr": __version__, **{name: version(name) for name in _LIBRARIES}},
        }
        write_atomically(self.spec_file, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))

    def result(self) -> dict[str, Any] | None:
        """Return the content of result.json; None before the search has ended, or if it is damaged (it is derived)."""
        return read_json(self.result_file)

    def front(self) -> dict[str, Any] | None:
        """Return the content of front.json; None before a trial has finished, or if it is damaged (it is derived)."""
        return read_json(self.front_file)

    def write_trial(self, number: int, content: Mapping[str, Any]) -> None:
        """Write trials/<number>.json."""
        path = self.trials / f"{number}.json"
        path.parent.mkdir(exist_ok=True)
        write_atomically(path, json.dumps(content, indent=1) + "\n")

    def trial_files(self) -> dict[int, Path]:
        """Return the files of the trials that have ended, by number; others that lie beside them are left alone."""
        files = self.trials.glob("*.json")
        return dict(sorted((int(file.stem), file) for file in files if _NUMBER.fullmatch(file.stem)))

    @contextmanager
    def locked(self, waiting: Progress | None = None) -> Iterator[None]:
        """Hold the folder for writing; a process that dies lets go of it.

        Args:
            waiting: told when another process holds the folder, and may end the wait for it: several may work on a
                study in a database. None: that is refused.

        Raises:
            UsageError: the folder cannot be written, or another process is writing.
            Stopped: a signal ended the wait.
        """
        new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / "study.lock").open("a")
        except OSError as error:
            raise UsageError(
                f"cannot write to the study folder {self.path}: {error.strerror}; choose --study"
            ) from error
        with file:
            while not try_lock(file):
                if waiting is None:
                    raise UsageError(f"another process is working on {self.path}; wait for it or stop it")
                waiting.note(f"waiting for another process, which prepares or concludes the study at {self.path}")
                waiting.check()
                time.sleep(_PAUSE)
            try:
                yield
            except AutolrError:
                if new and not self.spec_file.exists():  # refused before anything was computed: leave nothing behind
                    shutil.rmtree(self.path)
                raise

    def busy(self) -> bool:
        """Tell whether a process of this machine holds the folder for writing."""
        try:
            with (self.path / "study.lock").open() as file:
                return not try_lock(file)
        except FileNotFoundError:
            return False

    @property
    def study_name(self) -> str:
        """The study's name in its storage; a database holds many, each under the name of its folder."""
        return self.path.resolve().name if self.database else STUDY_NAME

    @property
    def database(self) -> str | None:
        """The address of the database that holds the trials; None: they are in the folder's journal."""
        if not self.spec_file.is_file():
            return None
        address: str | None = self.stored()["spec"].get("storage")
        return address

    def begun(self) -> bool:
        """Tell whether there may be trials."""
        return self.journal.is_file() or self.database is not None or bool(self.trial_files())

    def storage(self, repair: bool = False) -> BaseStorage:
        """Open the Optuna storage.

        Args:
            repair: cut off a journal's last line that a crash left unfinished; only for the process that holds the
                folder.

        Raises:
            UsageError: the journal is damaged, or lost; the database cannot be reached.
        """
        address = self.database
        if address is not None:
            return open_database(address)
        if self.trial_files() and not self.journal.is_file():
            raise damaged(self.journal, "", "no such file, but there are trials")
        return open_journal(self.journal, repair)

    def load_study(self) -> optuna.Study:
        """Open the study for reading.

        Raises:
            UsageError: it has not begun, its journal is damaged, or its database cannot be reached.
        """
        study = self._study() if self.begun() else None
        if study is None:
            go_on = command("resume", self.path)
            raise UsageError(f"the study at {self.path} has no trials yet; go on with {go_on}")
        return study

    def check_journal(self) -> None:
        """Refuse a damaged journal, before a model is loaded.

        Raises:
            UsageError: with the line, where it is one, and the way out.
        """
        if self.database is None and self.begun():
            self._study()

    def _study(self) -> optuna.Study | None:
        """Open the study; None where it was not yet made."""
        files = self.trial_files()  # before the study is read: another process may be adding trials
        try:
            study = optuna.load_study(study_name=self.study_name, storage=self.storage())
        except KeyError as error:
            if files and self.database is None:
                raise damaged(self.journal, "", "its beginning is lost, there is no study in it") from error
            return None
        self.check_whole(study, files)
        return study

    def check_whole(self, study: optuna.Study, files: Mapping[int, Path]) -> None:
        """Refuse a journal that has lost lines which no other line needs.

        Args:
            study: of the journal; one of a database is not looked at.
            files: those of its trials, as they were before it was read.

        Raises:
            UsageError: a trial that has a file is not in the study, or one that was scored lacks what it was told.
        """
        if self.database is not None:
            return
        trials = study.get_trials(deepcopy=False)
        beyond = [file for number, file in files.items() if number >= len(trials) and may_be_trial(file, number)]
        if beyond:
            raise damaged(self.journal, "", f"its end is lost, there are {len(trials)} trials but {beyond[-1]}")
        for trial in trials:
            lost = REQUIRED - trial.user_attrs.keys()
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) and lost:
                raise damaged(self.journal, "", f"lines are lost, trial {trial.number} lacks {', '.join(sorted(lost))}")


def may_be_trial(file: Path, number: int) -> bool:
    """Tell whether a file may be that of a trial: it says so, or is damaged; no other trial's, and nothing else."""
    content = read_json(file)
    return content is None or content.get("trial") == number
