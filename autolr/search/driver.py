"""The search loop: ask, decode, evaluate, tell, with everything durable after each step.

One Optuna study is the truth. A trial that was running when the process died is taken up again under its own number
with the parameters it already has, so no trial is lost, doubled or left over.
"""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import hypot
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import Trial, TrialState

from autolr.errors import AutolrError, Stopped
from autolr.progress import Progress
from autolr.score.nli import Logits
from autolr.search.adapter import SpaceSampler, quiet_optuna
from autolr.search.batching import proposals_at_once
from autolr.search.folder import STUDY_NAME, StudyFolder
from autolr.search.front import feasible, scored, write_front
from autolr.search.history import ESTIMATE, STDERR
from autolr.search.inputs import Inputs
from autolr.search.known_costs import known_costs
from autolr.search.notes import note_study, note_trial, store_dense_cost
from autolr.search.objective import Objective, constraints, describe
from autolr.search.preparation import Prepared
from autolr.search.rivals import Rivals
from autolr.search.sampler import make_sampler
from autolr.search.transfer import warm_points
from autolr.types import Candidate, Evaluation, Score

MAX_FAILURES_IN_A_ROW = 5
WARM = "warm start"
"""The study's attribute with the points it took from another."""
N_STARTUP = 8
"""Trials with parameters before the sampler builds a model; the knapsack's seeds count."""

QUALITY = 0
"""A study is judged by the best quality at its whole budget, one end of the front; quality is its first objective."""

SENSE: dict[str, Literal["minimize", "maximize"]] = {
    "divergence": "minimize",
    "accuracy": "maximize",
    "agreement": "maximize",
}


@dataclass
class Driver:
    """Runs a study's trials in this process.

    Attributes:
        inputs: the opened inputs.
        prepared: what the trials share.
        folder: where everything is written; locked by the caller.
        progress: told of each trial, and may stop the search.
    """

    inputs: Inputs
    prepared: Prepared
    folder: StudyFolder
    progress: Progress
    study: optuna.Study = field(init=False)
    _seen: dict[str, int] = field(init=False, default_factory=dict)
    _failed: set[str] = field(init=False, default_factory=set)
    _decoded: dict[str, Candidate] = field(init=False, default_factory=dict)
    _n_seeds: int = field(init=False, default=0)
    _batch: int = field(init=False, default=1)

    def __post_init__(self) -> None:
        quiet_optuna()
        spec = self.inputs.spec
        self.objective = Objective(self.inputs.model, self.prepared.bank, self.inputs.costs, self.prepared.scorer)
        self.dense_scores = self.prepared.scorer.compare(self.prepared.scorer.dense)
        self.rivals = Rivals(self.inputs, self.prepared.scorer, self.folder.path / "trials", self._rescore)
        space = self.prepared.space.distributions()
        known = known_costs(self.prepared.space, self.inputs)
        self._batch = proposals_at_once(self.inputs)

        def make(seed: int) -> optuna.samplers.BaseSampler:
            # BoTorch's own numbers come from (seed, trial number); its startup points are one sequence over the study.
            seed = spec.seed if spec.search.sampler == "botorch" else seed
            own = {"is_new": self._is_new, "focus": QUALITY, "known": known}
            return make_sampler(spec.search.sampler, seed, N_STARTUP, **own)

        self.study = optuna.create_study(
            study_name=STUDY_NAME,
            storage=self.folder.storage(repair=True),
            directions=[SENSE[spec.search.objective], "minimize"],
            sampler=SpaceSampler(make, space, spec.seed, self._at_once),
            load_if_exists=True,
        )
        if not self.study.metric_names:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                self.study.set_metric_names([spec.search.objective, f"{spec.parsed_budgets[0].quantity} ratio"])
            note_study(self.study, self.inputs)
        store_dense_cost(self.study, self.inputs.costs.dense)
        self._enqueue_seeds()
        for trial in scored(self.study):
            self._seen.setdefault(trial.user_attrs["digest"], trial.number)
            if trial.state == TrialState.COMPLETE and "same_as" not in trial.user_attrs:
                candidate = Candidate.from_json(trial.user_attrs["candidate"])
                self.rivals.add(trial.number, candidate, trial.values[0], feasible(trial))
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.FAIL]):
            self._failed.add(trial.user_attrs.get("digest", ""))

    def run(self) -> None:
        """Run trials until as many as the specification asks for are complete.

        Raises:
            Stopped: the time limit passed or the user interrupted.
            AutolrError: several trials in a row failed.
        """
        started = time.monotonic()
        spec = self.inputs.spec
        self.progress.start(f"search: {self.wanted} trials")
        failures = 0
        while (done := self.completed()) < self.wanted:
            self.progress.update(done / self.wanted)
            if spec.time_limit is not None and time.monotonic() - started > spec.time_limit:
                raise Stopped(
                    f"the time limit of {spec.time_limit:g} s has passed after {done} of {self.wanted} trials"
                )
            self.progress.check()
            failures = 0 if self._step(self._next_trial()) else failures + 1
            if failures == MAX_FAILURES_IN_A_ROW:
                raise AutolrError(
                    f"{failures} trials in a row failed; see the reasons in autolr status {self.folder.path}"
                )
        self.progress.update(1.0)

    @property
    def wanted(self) -> int:
        """How many trials the finished study has: the first candidates alone, where there is nothing to search."""
        trials = self.inputs.spec.trials
        return trials if self.prepared.space.distributions() else min(trials, self._n_seeds)

    def _at_once(self) -> int:
        """How many candidates to propose together; no more than there are trials to come."""
        return min(self._batch, self.wanted - self.completed())

    def completed(self) -> int:
        """Return how many trials are scored: on everything, or until they were stopped."""
        return len(scored(self.study))

    def _next_trial(self) -> Trial:
        """Take up a trial that a dead process left running, or ask for a new one."""
        stale = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        return Trial(self.study, stale[0]._trial_id) if stale else self.study.ask()

    def _step(self, trial: Trial) -> bool:
        """Evaluate one trial and tell the study; return False if it failed."""
        asked = time.perf_counter()
        candidate = self._candidate(trial)
        proposed = time.perf_counter() - asked
        twin = self._seen.get(candidate.digest)
        try:
            evaluation = self._known(twin) if twin is not None else self._evaluate(candidate)
        except Stopped:
            raise
        except (AutolrError, RuntimeError) as error:
            # RuntimeError: what torch raises when a model does not run, out of memory included.
            trial.set_user_attr("reason", f"{type(error).__name__}: {error}")
            trial.set_user_attr("digest", candidate.digest)
            self.study.tell(trial, state=TrialState.FAIL)
            self._failed.add(candidate.digest)
            return False
        self._record(trial, evaluation, proposed, twin)
        return True

    def _candidate(self, trial: Trial) -> Candidate:
        if "candidate" in trial.user_attrs:
            return Candidate.from_json(trial.user_attrs["candidate"])
        space = self.prepared.space.distributions()
        params = {name: trial._suggest(name, distribution) for name, distribution in space.items()}
        return self._decode(params)

    def _decode(self, params: Mapping[str, Any]) -> Candidate:
        key = repr(sorted(params.items()))
        if key not in self._decoded:
            self._decoded[key] = self.prepared.space.decode(params)
        return self._decoded[key]

    def _is_new(self, params: dict[str, Any], batch: Sequence[dict[str, Any]]) -> bool:
        digest = self._decode(params).digest
        known = digest in self._seen or digest in self._failed
        return not known and digest not in {self._decode(other).digest for other in batch}

    def _evaluate(self, candidate: Candidate) -> Evaluation:
        return self.objective.evaluate(candidate, self.progress, self.rivals.race(candidate))

    def _rescore(self, candidate: Candidate) -> Logits:
        logits = self.objective.evaluate(candidate, self.progress).logits
        assert logits is not None
        return logits

    def _known(self, number: int) -> Evaluation:
        """Return the stored evaluation of a trial with the same candidate."""
        twin = self.study.get_trials(deepcopy=False)[number]
        stored = twin.user_attrs
        candidate = Candidate.from_json(stored["candidate"])
        scores = {name: Score(**score) for name, score in stored["scores"].items()}
        # Studies from before the errors were stored have none.
        error = float((stored[ESTIMATE]["stderr"] if twin.state == TrialState.PRUNED else stored.get(STDERR, [0.0]))[0])
        seconds = {"compress": 0.0, "score": 0.0}
        cost = self.inputs.costs.cost(candidate)
        return Evaluation(candidate, cost, scores, seconds, stopped_by=stored.get("stopped_by"), stderr=error)

    def _record(self, trial: Trial, evaluation: Evaluation, proposed: float, twin: int | None) -> None:
        spec, dense = self.inputs.spec, self.inputs.costs.dense
        plain = describe(evaluation, dense)
        plain["seconds"]["propose"] = round(proposed, 4)
        if twin is not None:
            plain["same_as"] = twin
        value = evaluation.scores[spec.search.objective].value
        ratio = plain["costs"]["ratio"][spec.parsed_budgets[0].quantity]
        stopped, error = evaluation.stopped_by is not None, evaluation.stderr
        if evaluation.logits is not None:
            self.rivals.keep(trial.number, evaluation.candidate, evaluation.logits)
            error = self.rivals.stderr(evaluation.logits)
        elif evaluation.stopped_by is not None and twin is None:
            error = hypot(error, self.rivals.stderr_of(evaluation.stopped_by))
        learned = {"values": [value, ratio], "stderr": [error, 0.0]}
        plain |= {ESTIMATE: learned} if stopped else {STDERR: learned["stderr"]}
        for name, content in plain.items():
            trial.set_user_attr(name, content)
        floors = () if stopped else spec.parsed_floors  # an estimate decides no floor
        limits = constraints(evaluation, spec.parsed_budgets, floors, dense, self.dense_scores)
        known = trial.storage.get_trial(trial._trial_id).constraints
        for name, excess in limits.items():
            if name not in known:
                trial.set_constraint(name, excess)
        note_trial(trial, plain, limits)
        self.folder.write_trial(
            trial.number,
            {
                "trial": trial.number,
                **plain,
                "constraints": limits,
                "origin": trial.user_attrs.get("origin", spec.search.sampler),
            },
        )
        if stopped:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, [value, ratio])
            if twin is None:
                met = all(excess <= 0 for excess in limits.values())
                self.rivals.add(trial.number, evaluation.candidate, value, met)
        self._seen.setdefault(evaluation.candidate.digest, trial.number)
        write_front(self.folder, self.study, spec)

    def _enqueue_seeds(self) -> None:
        """Put the first candidates into the study, once each: dense as trial 0, the knapsack's, uniform, those near."""
        spec = self.inputs.spec
        trials = [t for t in self.study.get_trials(deepcopy=False) if t.state != TrialState.FAIL]
        present = {t.user_attrs.get("origin") for t in trials}
        room = spec.trials - len(trials)
        digests: set[str] = set()
        for name, params, candidate in self._seeds():
            new = candidate.digest not in digests
            digests.add(candidate.digest)
            if new and name not in present and room > 0:
                attributes: dict[str, Any] = {"origin": name}
                if not params:  # not of this space, or a space of a single point
                    attributes["candidate"] = candidate.to_json()
                self.study.enqueue_trial(params, user_attrs=attributes)
                room -= 1
        self._n_seeds = len(digests)

    def _seeds(self) -> Iterator[tuple[str, dict[str, Any], Candidate]]:
        spec, space = self.inputs.spec, self.prepared.space
        fixed: list[tuple[str, dict[str, Any], Candidate]] = [
            (name, {}, candidate) for name, candidate in self.prepared.fixed.items()
        ]
        seeds = space.seeds(spec.seed, spec.trials)
        if spec.search.warm_start is not None:
            if WARM not in self.study.user_attrs:  # once: the other study may go on, or be deleted
                points = warm_points(Path(spec.search.warm_start), space.distributions())
                self.study.set_user_attr(WARM, points)
            seeds = self.study.user_attrs[WARM] | seeds
        decoded = [(name, params, self._decode(params)) for name, params in seeds.items()]
        yield from [*fixed[:1], *decoded[:1], *fixed[1:], *decoded[1:]]
