"""A study on disk: what it came to, and what can be made of it."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from autolr.api.session import Listener, Texts, task_name, texts, whole_number, working
from autolr.errors import UsageError
from autolr.optimization.study.folder import StudyFolder
from autolr.optimization.study.front import read_result
from autolr.optimization.study.summary import read_front, select_trial, summarize
from autolr.results import FrontMember, Report, StudyResult, StudyStatus
from autolr.scores import TaskKind
from autolr.spec.options import given_path, options_of
from autolr.spec.study import CrewSpec, StudySpec
from autolr.workflows.export import EXPORT_FORMAT
from autolr.workflows.export_trial import Exported, export_trial
from autolr.workflows.placed import placed, with_own_inputs
from autolr.workflows.resolve import moved, resolve, with_workers
from autolr.workflows.search import run_search


class Study:
    """A study that was begun, by :func:`autolr.search` or ``autolr search``.

    Everything is read from the folder when it is asked for, so that a study another process works on can be watched.

    Args:
        path: the folder.
        task: a task of one's own, where the study has one.

    Raises:
        UsageError: it is not a study; the message names the studies beside it.
    """

    def __init__(self, path: str | Path, task: TaskKind | None = None) -> None:
        if task is not None:
            task_name(task)
        self._folder = StudyFolder.existing(given_path(path, "the study's folder"))

    def __repr__(self) -> str:
        status = self.status
        done = status.trials["complete"] + status.trials["stopped"]
        end = f", winner {status.winner}" if status.winner is not None else ""
        return f"Study({str(self.path)!r}: {', '.join(status.budgets)}, {done} of {status.wanted} trials{end})"

    @property
    def path(self) -> Path:
        """The folder."""
        return self._folder.path

    @property
    def spec(self) -> StudySpec:
        """What it was asked to do."""
        return self._folder.spec()

    @property
    def status(self) -> StudyStatus:
        """How far it is."""
        return summarize(self._folder)

    @property
    def front(self) -> tuple[FrontMember, ...]:
        """The members of its front by rising cost; none where no trial meets every budget and floor.

        Raises:
            UsageError: no trial has finished yet.
        """
        return read_front(self._folder).members

    @property
    def result(self) -> StudyResult | None:
        """What it came to; None before it has ended."""
        return read_result(self._folder)

    @property
    def winner(self) -> FrontMember | None:
        """The member that was chosen on the selection part, or the nearest trial; None before the study has ended."""
        return None if self.result is None else self.result.winning

    @property
    def reached(self) -> bool:
        """Whether the winner meets every budget and floor; False before the study has ended."""
        return self.result is not None and self.result.reached

    @property
    def report(self) -> Report | None:
        """The winner's and the dense model's scores on data that nothing was chosen on; None before the end."""
        return None if self.result is None else self.result.report

    def select(self, *budgets: Texts) -> FrontMember:
        """Return the best trial within other budgets and above the study's floors; nothing is computed.

        Args:
            budgets: such as ``"0.4x-flops"``, or several.

        Raises:
            UsageError: there is none, or one is malformed.
            BudgetError: no finished trial is within them; names the nearest.
        """
        limits = [text for budget in budgets for text in texts(budget, "budget")]
        if not limits:
            raise UsageError('select needs a budget, such as "0.4x-flops"')
        return select_trial(self._folder, limits)

    def export(
        self,
        path: str | Path,
        trial: int | None = None,
        *,
        budget: Texts = (),
        solve: bool = False,
        format: str = EXPORT_FORMAT,
        force: bool = False,
        progress: Listener = False,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **places: object,
    ) -> Exported:
        """Write a checkpoint, and prove that it gives the same logits when it is loaded again.

        Args:
            path: the directory to write.
            trial: its number; None: the best within the budget, or without one the winner.
            budget: within which the best trial is taken.
            solve: solve for the budget under the trial's multipliers instead; the solution is not scored.
            format: ``"hf"`` keeps low-rank layers, ``"dense"`` multiplies them out; packages may bring others.
            force: replace an older checkpoint.
            progress: True: printed to stderr; or a listener.
            tokenizer: of a model that is an object.
            places: where ``model``, ``train``, ``validation``, ``test``, ``probes``, ``space`` are now, if they moved.

        Raises:
            UsageError: there is no such trial or format, or the directory cannot be written.
            BudgetError: no trial is within the budget.
            AutolrError: the reloaded model's logits differ.
        """
        directory, budgets = given_path(path, "the checkpoint's directory"), texts(budget, "budget")
        number = None if trial is None else whole_number(trial, "trial")
        with working(progress) as listener:
            spec = self._spec_at(places, tokenizer)
            return export_trial(
                self._folder,
                spec,
                directory,
                listener,
                trial=number,
                budgets=budgets,
                solve=solve,
                format=format,
                force=force,
            )

    def resume(
        self,
        trials: int | None = None,
        *,
        time_limit: float | str | None = None,
        progress: Listener = False,
        tokenizer: PreTrainedTokenizerBase | None = None,
        **changes: object,
    ) -> "Study":
        """Go on until the trials are complete, then choose, report and export anew.

        Args:
            trials: another number of trials to complete; None: as before.
            time_limit: begin no trial after so many seconds, or ``"30m"``.
            progress: True: printed to stderr; or a listener.
            tokenizer: of a model that is an object.
            changes: ``workers``, ``ray_address``, ``gpus_per_worker``, ``worker_timeout``; places as of :meth:`export`.

        Raises:
            UsageError: something given cannot be used, or is not what the study began with.
            Stopped: the time limit has passed.
        """
        crew = {option.name for option in options_of(StudySpec).values() if option.path[0] == "crew"}
        workers = {name: value for name, value in changes.items() if name in crew}
        with working(progress) as listener:
            spec = self._spec_at({k: v for k, v in changes.items() if k not in crew}, tokenizer)
            wanted = spec.trials if trials is None else trials
            limits = resolve({"budget": "1x-flops", "trials": wanted, "time_limit": time_limit})
            update: dict[str, int | float | CrewSpec | None] = {
                "trials": limits.trials,
                "time_limit": limits.time_limit,
                "crew": with_workers(spec.crew, workers),
            }
            run_search(spec.model_copy(update=update), self._folder, listener)
        return self

    def _spec_at(self, places: dict[str, object], tokenizer: PreTrainedTokenizerBase | None) -> StudySpec:
        """Return the specification with the places where its contents are now, objects among them."""
        return moved(with_own_inputs(self.spec, self.path), placed(places, tokenizer, self.path))
