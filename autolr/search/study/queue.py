"""What a study knows of its trials: which are to be run, which are under way and by whom, what the finished ones found.

One Optuna study is the truth. With a journal one process works on it: a trial that was running when the process died is
taken up again under its own number with the parameters it already has. In a database several processes do: each signs
the trials it runs, and those of a dead one are closed and put into the queue anew. Either way no trial is lost, doubled
or left over.
"""

import json
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import hypot
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, Trial, TrialState

from autolr.errors import AutolrError, UsageError, command
from autolr.probes.scorer import mean_accuracy
from autolr.problem import Inputs
from autolr.search.preparation import Prepared
from autolr.search.racing.incumbents import Rivals
from autolr.search.racing.race import Heat
from autolr.search.sampler.fixed_space import SpaceSampler, quiet_optuna
from autolr.search.sampler.history import ESTIMATE, STDERR
from autolr.search.sampler.registry import make_sampler
from autolr.search.study.batching import proposals_at_once
from autolr.search.study.dashboard_notes import note_study, note_trial, store_dense_cost
from autolr.search.study.database import alone
from autolr.search.study.evaluator import constraints, describe
from autolr.search.study.folder import StudyFolder
from autolr.search.study.front import feasible, scored, write_front
from autolr.search.study.heartbeats import Roster
from autolr.search.study.known_costs import known_costs
from autolr.search.study.transfer import warm_points
from autolr.search.study.trial_file import trial_content
from autolr.search.study.trial_record import DEATHS, OWNER, SURPLUS
from autolr.spec.objectives import directions
from autolr.spec.study import without_places
from autolr.tasks.scorer import Answers
from autolr.types import Candidate, Evaluation, Score

MAX_FAILURES_IN_A_ROW = 5
MAX_RETRIES = 4
"""How often a trial whose process died is run again before it counts as failed."""
N_STARTUP = 8
"""Trials with parameters before the sampler builds a model; the knapsack's seeds count."""
QUALITY = 0
"""A study is judged by the best quality at its whole budget, one end of the front; quality is its first objective."""
WARM = "warm start"
"""The study's attribute with the points it took from another."""
FINGERPRINT = "fingerprint"
"""The study's attribute, in a database, with what its results depend on."""


@dataclass(frozen=True)
class Claim:
    """A trial that is to be run now, by this process or a worker of it.

    Attributes:
        trial: Optuna's.
        candidate: what it evaluates.
        proposed: seconds that the proposal took.
    """

    trial: Trial
    candidate: Candidate
    proposed: float


@dataclass
class Ledger:
    """The trials of one study.

    Attributes:
        inputs: the opened inputs.
        prepared: what the trials share.
        folder: where everything is written.
        rescore: answers a candidate's logits anew, where a file is lost.
    """

    inputs: Inputs
    prepared: Prepared
    folder: StudyFolder
    rescore: Callable[[Candidate], Answers]
    study: optuna.Study = field(init=False)
    _seen: dict[str, int] = field(init=False, default_factory=dict)
    _failed: set[str] = field(init=False, default_factory=set)
    _learned: set[int] = field(init=False, default_factory=set)
    _mine: set[int] = field(init=False, default_factory=set)
    _under_way: dict[str, list[Claim]] = field(init=False, default_factory=dict)
    """Digest of what is being evaluated -> claimed trials of the same candidate, which wait for it."""
    _again: list[Claim] = field(init=False, default_factory=list)
    """Claimed trials that are to be evaluated after all."""
    _decoded: dict[str, Candidate] = field(init=False, default_factory=dict)
    _n_seeds: int = field(init=False, default=0)
    _failures_in_a_row: int = field(init=False, default=0)
    _lock: threading.RLock = field(init=False, default_factory=threading.RLock)
    """Proposing takes long and happens in a thread of its own where there are workers; all else is short."""

    def __post_init__(self) -> None:
        quiet_optuna()
        spec, scorer = self.inputs.spec, self.prepared.scorer
        self.dense_scores = scorer.compare(scorer.dense)
        if self.prepared.probe is not None:
            self.dense_scores["probe"] = mean_accuracy(self.prepared.probe.dense)
        self.rivals = Rivals(self.inputs, scorer, self.folder.path / "trials", self.rescore)
        self._batch = proposals_at_once(self.inputs)
        self._open()
        self.roster = Roster(self.study) if spec.storage is not None else None
        if self.roster is not None:
            self.roster.start()
        with alone(self.study._storage, self.folder.study_name):
            self._enqueue_seeds()
        self._learn()

    def _open(self) -> None:
        spec = self.inputs.spec
        space = self.prepared.space.distributions()
        known = known_costs(self.prepared.space, self.inputs)

        def make(seed: int) -> optuna.samplers.BaseSampler:
            # BoTorch's own numbers come from (seed, trial number); its startup points are one sequence over the study.
            seed = spec.seed if spec.search.sampler == "botorch" else seed
            own = {"is_new": self._is_new, "focus": QUALITY, "known": known}
            return make_sampler(spec.search.sampler, seed, N_STARTUP, **own)

        files = self.folder.trial_files()
        storage = self.folder.storage(repair=True)
        with alone(storage, self.folder.study_name):
            self.study = optuna.create_study(
                study_name=self.folder.study_name,
                storage=storage,
                directions=directions(spec),
                sampler=SpaceSampler(make, space, spec.seed, self._at_once),
                load_if_exists=True,
            )
            self.folder.check_whole(self.study, files)
            self._check_same_study()
            if not self.study.metric_names:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
                    names = [spec.search.objective, f"{spec.parsed_budgets[0].quantity} ratio"]
                    self.study.set_metric_names([*names, *(["probe"] if spec.search.probe_axis else [])])
                note_study(self.study, self.inputs)
            store_dense_cost(self.study, self.inputs.costs.dense)

    def _check_same_study(self) -> None:
        """Refuse a database's study of this name that was begun with something else; a folder has its own check."""
        spec = self.inputs.spec
        if spec.storage is None:
            return
        now = json.loads(json.dumps({**spec.identity(), **self.inputs.fingerprint, "storage": None}))
        if FINGERPRINT not in self.study.user_attrs:
            self.study.set_user_attr(FINGERPRINT, now)
        stored, now = without_places(self.study.user_attrs[FINGERPRINT]), without_places(now)
        changed = [key for key in {**now, **stored} if stored.get(key) != now.get(key)]
        if changed:
            raise UsageError(
                f"the database has another study of the name {self.folder.study_name!r}, with another "
                f"{', '.join(changed[:4])}; a study is named by its folder: choose another --study"
            )

    def close(self) -> None:
        """Let others know at once that this process works no more; they take over what it has left running."""
        if self.roster is not None:
            self.roster.stop()

    @property
    def wanted(self) -> int:
        """How many trials the finished study has: the first candidates alone, where there is nothing to search."""
        trials = self.inputs.spec.trials
        return trials if self.prepared.space.distributions() else min(trials, self._n_seeds)

    def completed(self) -> int:
        """Return how many trials are scored: on everything, or until they were stopped."""
        return len(scored(self.study))

    def claim(self) -> Claim | None:
        """Take the next trial: one that a dead process left, one from the queue, or a new proposal.

        A trial whose candidate was scored before is recorded with those scores, and the next is taken.

        Returns:
            The trial; None when as many as are wanted are finished or under way.
        """
        if self.roster is not None:
            self.roster.check()
        while True:
            with self._lock:
                if self._again:
                    return self._again.pop()
            try:
                claim = self._claimed()
            except UpdateFinishedTrialError:  # it took so long that another process closed the trial
                continue
            if claim is None:
                return None
            with self._lock:
                digest = claim.candidate.digest
                twin = self._seen.get(digest)
                if twin is None and digest not in self._under_way:
                    self._under_way[digest] = []
                    return claim
                if twin is None:  # its twin is being evaluated: it is recorded with that
                    self._under_way[digest].append(claim)
                    continue
            self.record(claim, self._known(claim.candidate, twin), twin)

    def _claimed(self) -> Claim | None:
        """Return the next trial with its candidate, which may be known; None where no more are wanted."""
        trial = self._next_trial()
        if trial is None:
            return None
        with self._lock:
            self._learn()
        began = time.perf_counter()
        candidate = self._candidate(trial)
        return Claim(trial, candidate, time.perf_counter() - began)

    def heat(self, claim: Claim) -> Heat | None:
        """Return the race that a claimed trial's candidate has to run; None: it is scored on everything."""
        with self._lock:
            return self.rivals.heat(claim.candidate)

    def fail(self, claim: Claim, reason: str) -> None:
        """Close a trial that failed.

        Raises:
            AutolrError: several trials in a row failed.
        """
        with self._lock:
            found = {"reason": reason, "digest": claim.candidate.digest}
            described = {"candidate": claim.candidate.to_json(), "seconds": {"propose": round(claim.proposed, 4)}}
            self._write(claim.trial, "failed", found | described, None, {})
            self._close(claim.trial, found)
            self._failed.add(claim.candidate.digest)
            self._failures_in_a_row += 1
            self._release(claim.candidate.digest)
        if self._failures_in_a_row == MAX_FAILURES_IN_A_ROW:
            reasons = command("status", self.folder.path)
            raise AutolrError(f"{MAX_FAILURES_IN_A_ROW} trials in a row failed; see the reasons in {reasons}")

    def record(self, claim: Claim, evaluation: Evaluation, twin: int | None = None) -> None:
        """Write what a trial found to disk, then tell the study.

        In a database another process may have closed the trial, because this one seemed dead: then it is theirs.
        """
        with self._lock:
            self._record(claim, evaluation, twin)
            digest = claim.candidate.digest
            number = self._seen.get(digest)
            if number is None:  # the trial was another process's
                self._release(digest)
            elif twin is None:
                for other in self._under_way.pop(digest, []):
                    self._record(other, self._known(other.candidate, number), number)

    def _release(self, digest: str) -> None:
        """Let one of those that waited for a twin that came to nothing be evaluated, and the others wait for it."""
        waiting = self._under_way.pop(digest, [])
        if waiting:
            self._again.append(waiting[0])
            self._under_way[digest] = waiting[1:]

    def _record(self, claim: Claim, evaluation: Evaluation, twin: int | None) -> None:
        spec, dense, trial = self.inputs.spec, self.inputs.costs.dense, claim.trial
        plain = describe(evaluation, dense)
        plain["seconds"]["propose"] = round(claim.proposed, 4)
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
        if spec.search.probe_axis:  # then nothing is stopped early
            learned["values"].append(evaluation.scores["probe"].value)
            learned["stderr"].append(evaluation.probe_stderr)
        plain |= {ESTIMATE: learned} if stopped else {STDERR: learned["stderr"]}
        floors = () if stopped else spec.parsed_floors  # an estimate decides no floor
        limits = constraints(evaluation, spec.parsed_budgets, floors, dense, self.dense_scores)
        try:
            self._tell(trial, plain, limits, None if stopped else learned["values"])
        except UpdateFinishedTrialError:
            return
        self._failures_in_a_row = 0
        self._learned.add(trial.number)
        if not stopped and twin is None:
            met = all(excess <= 0 for excess in limits.values())
            self.rivals.add(trial.number, evaluation.candidate, value, met)
        self._seen.setdefault(evaluation.candidate.digest, trial.number)
        write_front(self.folder, self.study, spec)

    def _tell(
        self, trial: Trial, plain: Mapping[str, Any], limits: Mapping[str, float], values: list[float] | None
    ) -> None:
        for name, content in plain.items():
            trial.set_user_attr(name, content)
        known = trial.storage.get_trial(trial._trial_id).constraints
        for name, excess in limits.items():
            if name not in known:
                trial.set_constraint(name, excess)
        note_trial(trial, plain, limits)
        self._write(trial, "complete" if values is not None else "stopped", plain, values, limits)
        if values is None:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, values)
        self._mine.discard(trial.number)

    def _write(
        self,
        trial: Trial,
        state: str,
        plain: Mapping[str, Any],
        values: list[float] | None,
        limits: Mapping[str, float],
    ) -> None:
        frozen = trial.storage.get_trial(trial._trial_id)
        content = trial_content(frozen, state, plain, values, limits, self.inputs.spec.search.sampler)
        self.folder.write_trial(trial.number, content)

    def _close(self, trial: Trial | FrozenTrial, attributes: Mapping[str, Any]) -> bool:
        """Mark a trial as failed; return whether it was this process that did."""
        storage = self.study._storage
        try:
            for name, content in attributes.items():
                storage.set_trial_user_attr(trial._trial_id, name, content)
            return storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
        except UpdateFinishedTrialError:
            return False
        finally:
            self._mine.discard(trial.number)  # not before: a running trial that is nobody's would be taken up again

    def _next_trial(self) -> Trial | None:
        if self.roster is None:
            running = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
            left = [t for t in running if t.number not in self._mine]
            if not left and self._active() >= self.wanted:
                return None
            trial = Trial(self.study, left[0]._trial_id) if left else self.study.ask()
            self._mine.add(trial.number)
            return trial
        self._take_over()
        if self._active() >= self.wanted:
            return None
        trial = self.study.ask()
        trial.storage.set_trial_user_attr(trial._trial_id, OWNER, self.roster.me)
        if self._active() > self.wanted:  # another process claimed at the same moment; of those the last sees it
            if self._close(trial, {SURPLUS: True}):
                self._queue_again(self.study._storage.get_trial(trial._trial_id), {})
            time.sleep(random.uniform(0.0, 0.2))  # noqa: S311  no secret
            return None
        self._mine.add(trial.number)
        return trial

    def _active(self) -> int:
        """Return how many trials are scored or under way."""
        states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING]
        return len(self.study.get_trials(deepcopy=False, states=states))

    def _take_over(self) -> None:
        """Close the trials of dead processes and put them into the queue anew."""
        assert self.roster is not None
        running = self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])
        others = [trial for trial in running if trial.number not in self._mine]
        alive = {
            owner: self.roster.alive(owner) for owner in {t.user_attrs[OWNER] for t in others if OWNER in t.user_attrs}
        }
        for trial in others:
            owner = trial.user_attrs.get(OWNER)
            if alive[owner] if owner is not None else self.roster.unsigned(trial.number):
                continue
            deaths = trial.user_attrs.get(DEATHS, 0) + 1
            given_up = deaths > MAX_RETRIES
            reason = f"its process died{f', for the {deaths}th time' if given_up else '; it is run again'}"
            if self._close(trial, {"reason": reason, DEATHS: deaths}) and not given_up:
                self._queue_again(trial, {DEATHS: deaths})

    def _queue_again(self, trial: FrozenTrial, attributes: dict[str, Any]) -> None:
        kept = {name: trial.user_attrs[name] for name in ("origin", DEATHS) if name in trial.user_attrs}
        params = trial.system_attrs.get("fixed_params") or trial.params
        if not params and "candidate" not in trial.user_attrs:
            return  # it died before it was proposed
        if not params:
            kept["candidate"] = trial.user_attrs["candidate"]
        self.study.enqueue_trial(params, user_attrs=kept | attributes)

    def _at_once(self) -> int:
        """How many candidates to propose together; no more than there are trials to come."""
        waiting = len(self.study.get_trials(deepcopy=False, states=[TrialState.WAITING]))
        return min(self._batch, self.wanted - self._active() - waiting + 1)  # the one asked for is active already

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
        known = digest in self._seen or digest in self._failed or digest in self._under_way
        return not known and digest not in {self._decode(other).digest for other in batch}

    def _learn(self) -> None:
        """Take up what finished trials found, those of other processes too."""
        for trial in scored(self.study):
            if trial.number in self._learned:
                continue
            self._learned.add(trial.number)
            self._seen.setdefault(trial.user_attrs["digest"], trial.number)
            if trial.state == TrialState.COMPLETE and "same_as" not in trial.user_attrs:
                candidate = Candidate.from_json(trial.user_attrs["candidate"])
                self.rivals.add(trial.number, candidate, trial.values[0], feasible(trial))
        for trial in self.study.get_trials(deepcopy=False, states=[TrialState.FAIL]):
            if DEATHS not in trial.user_attrs and SURPLUS not in trial.user_attrs:
                self._failed.add(trial.user_attrs.get("digest", ""))

    def _known(self, candidate: Candidate, number: int) -> Evaluation:
        """Return the stored evaluation of a trial with the same candidate."""
        twin = self.study.get_trials(deepcopy=False)[number]
        stored = twin.user_attrs
        scores = {name: Score(**score) for name, score in stored["scores"].items()}
        # Studies from before the errors were stored have none.
        errors = stored[ESTIMATE]["stderr"] if twin.state == TrialState.PRUNED else stored.get(STDERR, [0.0])
        error, probe = float(errors[0]), float(errors[2]) if len(errors) > 2 else 0.0
        seconds = {"compress": 0.0, "score": 0.0}
        cost = self.inputs.costs.cost(candidate)
        by = stored.get("stopped_by")
        return Evaluation(candidate, cost, scores, seconds, stopped_by=by, stderr=error, probe_stderr=probe)

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
