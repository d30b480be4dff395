"""What a study is given: model, data, units, costs. What can be refused is refused here, before hours are spent."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from autolr.cost import CostTable
from autolr.cost.price import budget_limits, check_reachable, price
from autolr.data.example import EXAMPLE_MODEL
from autolr.data.parts import PARTS, Data, Parts, check_sources
from autolr.data.probe_parts import ProbeParts, load_probe_parts
from autolr.data.probing import notes_on
from autolr.forms import GROUP_FORMS, MATRIX_FORMS, get_forms
from autolr.forms.base import Form
from autolr.methods import get_methods, matrix_methods
from autolr.model.attention import find_attentions
from autolr.model.digests import model_digests, tokenizer_digest
from autolr.model.feed_forward import find_feed_forwards
from autolr.model.head_entries import find_query_keys, find_value_outputs
from autolr.model.inputs import Batch, check_tokens, longest_input
from autolr.model.load import open_model
from autolr.model.memory import check_memory
from autolr.model.stack import Stack
from autolr.model.units import Units, check_finite, find_units
from autolr.probes.alone import check_sentences
from autolr.probes.scorer import probe_sentences
from autolr.progress import Progress
from autolr.scores import TASKS
from autolr.spec.spaces import ImportanceConfig, load_space_config
from autolr.spec.study import StudySpec
from autolr.statistics.calibrate import unmatched_units
from autolr.tasks import Task, task_for
from autolr.tasks.alone import check_task
from autolr.types import Candidate, Method

_TOKENIZED = 256
"""Examples that are tokenized at once to look at them."""
_NO_PAIRS = (
    "no feed-forward pair whose neurons could be left out was found (a gate fused with what it gates, experts, or "
    "layers that are excluded): matrices are compressed one by one"
)
_NO_HEADS = (
    "no attention whose heads could be left out was found (fused projections, biases of each head, or layers that are "
    "excluded): all heads stay"
)
_NO_VALUES = "no attention whose value and output are matrices of their own was found: they are not compressed jointly"
_NO_QUERIES = (
    "no attention whose queries and keys could be compressed jointly was found (fused projections, or something stands "
    "between them and the scores, as rotary positions do)"
)
_GROUPS = {
    "neurons": (find_feed_forwards, _NO_PAIRS),
    "heads": (find_attentions, _NO_HEADS),
    "value-output": (find_value_outputs, _NO_VALUES),
    "query-key": (find_query_keys, _NO_QUERIES),
}
"""What a method is for -> what finds such units, and what is said where there are none."""
_STRAY = "not fed the tokens of one sequence after the other (relative positions, or positions before sequences)"


@dataclass(frozen=True)
class Problem:
    """What a study is about, without the model itself: what workers on other machines are sent.

    Attributes:
        spec: the specification.
        max_length: tokens after which an example is cut.
        parts: the data.
        units: what can be compressed.
        costs: prices candidates.
        probes: part -> its probing tasks; empty where there are none.
        digests: of the model's weights and configuration, and of its tokenizer.
        labels: the model's own names of its answers, by number.
        asked: what the task asks, by name; what is asked decides what is answered.
        form_names: what a unit may become.
    """

    spec: StudySpec
    max_length: int
    parts: Parts
    units: Units
    costs: CostTable
    probes: ProbeParts
    digests: Mapping[str, str]
    labels: Mapping[str, str]
    asked: Mapping[str, Any]
    form_names: tuple[str, ...]

    def loaded(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, task: Task) -> "LoadedProblem":
        """Return the problem with its model at hand."""
        return LoadedProblem(**vars(self), model=model, tokenizer=tokenizer, task=task)

    @property
    def methods(self) -> tuple[Method, ...]:
        """The methods for single matrices, in the study's order."""
        return matrix_methods(self.spec.search.methods)

    @property
    def bank_methods(self) -> tuple[Method, ...]:
        """All that the bank has decompositions of: the study's methods, and those that come with its forms."""
        return (*self.methods, *get_methods(dict.fromkeys(name for form in self.forms for name in form.methods)))

    @property
    def forms(self) -> tuple[Form, ...]:
        """What a unit may become."""
        return get_forms(self.form_names)

    @property
    def later_forms(self) -> dict[str, int]:
        """Versions of the forms, but for first ones, which studies that began before there were versions have."""
        return {form.name: form.version for form in self.forms if form.version > 1}

    def part(self, name: str) -> Data:
        """Return a part of the data: ``calibration``, ``search``, ``selection`` or ``report``."""
        data: Data = getattr(self.parts, name)
        return data

    @property
    def limits(self) -> dict[str, float]:
        """The budgets as quantity -> largest allowed amount; the strictest where a quantity is named twice."""
        return budget_limits(self.spec.parsed_budgets, self.costs)

    @property
    def relative_limits(self) -> dict[str, float]:
        """Quantity -> the largest change that compression may leave (negative: what it must save)."""
        return {quantity: limit - self.costs.base.get(quantity) for quantity, limit in self.limits.items()}

    def fits(self, candidate: Candidate) -> bool:
        """Tell whether a candidate meets every budget."""
        cost = self.costs.cost(candidate)
        return all(cost.get(quantity) <= limit for quantity, limit in self.limits.items())

    @property
    def dense_key(self) -> tuple[Any, ...]:
        """Identifies what the dense model says of any text: the whole model, its tokenizer and how they are run."""
        return (*self.digests.values(), self.max_length, self.spec.run.dtype)

    @property
    def calibration_key(self) -> str:
        """Identifies what calibration statistics depend on: the dense model, the calibration data and how it is run."""
        asked = {**self.asked} | ({"stream": True} if self.spec.run.stream else {})
        return json.dumps([*self.dense_key, self.parts.calibration.digest, asked], sort_keys=True)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What a study's results depend on besides its specification: contents, not names."""
        space = load_space_config(self.spec.search.space)
        return {
            **self.digests,
            "model labels": dict(self.labels),
            **self.asked,
            **{f"data {name}": digest for name, digest in self.parts.digests().items()},
            **{f"probes {part}": [task.digest for task in tasks] for part, tasks in self.probes.items()},
            **{f"method {method.name}": method.version for method in self.bank_methods},
            **{f"form {name}": version for name, version in self.later_forms.items()},
            "space": space.model_dump(mode="json", exclude={"forms"}, exclude_defaults=True),
            "seq_len": self.costs.dense.conditions.seq_len,
        }


@dataclass(frozen=True)
class LoadedProblem(Problem):
    """A problem with its model at hand.

    Attributes:
        model: the dense model, in eval mode on its device.
        tokenizer: the model's.
        task: what the model is asked to do.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task

    def without_model(self) -> Problem:
        """Return what can be sent."""
        return Problem(**{field.name: getattr(self, field.name) for field in fields(Problem)})

    def batches(self, part: str, rows: Sequence[int] | None = None) -> list[Batch]:
        """Return a part's tokenized batches on the model's device.

        Args:
            part: ``calibration``, ``search``, ``selection`` or ``report``.
            rows: which of its examples, by their rank in the order of all its batches, ascending; None: all.
        """
        data = self.part(part)
        if rows is not None:
            order = self.task.order(data)
            data = data.select(order[row] for row in rows)
        return self.batches_of(data)

    def batches_of(self, data: Data) -> list[Batch]:
        """Return tokenized batches of some data on the model's device."""
        return self.task.batches(data, self.spec.run.scoring_batch_size, self.model.device)


def open_inputs(spec: StudySpec, progress: Progress, latency_file: Path | None = None) -> LoadedProblem:
    """Load and check everything a study is given.

    Args:
        spec: the specification.
        progress: told what is under way.
        latency_file: where the times that latency is predicted from are kept; None: they are not.

    Raises:
        UsageError: something given cannot be used.
        BudgetError: a budget cannot be reached by any candidate.
    """
    methods = [*matrix_methods(spec.search.methods)]
    form_names = spec.search.forms or default_forms(spec, methods)
    forms = get_forms(form_names)
    methods += get_methods(name for form in forms for name in form.methods)
    if spec.run.threads:
        torch.set_num_threads(spec.run.threads)
    progress.start("load the model and the data")
    check_sources(spec.data)
    probes = load_probe_parts(spec.data, spec.seed)
    model, tokenizer = open_model(spec)
    check_finite(model)
    progress.update(0.5)
    task = task_for(spec, model, tokenizer, spec.model or str(EXAMPLE_MODEL))
    parts = task.load_parts(spec)
    for note in parts.notes:
        progress.note(note)
    longest = longest_input(model, tokenizer)
    gradients = any("gradients" in method.needs for method in methods) and not spec.run.stream
    for name in PARTS:
        data: Data = getattr(parts, name)
        batches = task.batches(data, spec.run.scoring_batch_size, "cpu")
        check_tokens(model, tokenizer, ((name, batch) for batch in batches))
        check_memory(model, batches, gradients and name == "calibration", TASKS.get(spec.task).next_tokens)
        if max(batch["input_ids"].shape[1] for batch in batches) >= longest and (cut := task.cut(data)):
            progress.note(f"{cut} of {len(data)} {task.noun} of the {name} part have more than {longest} tokens: cut")
    check_tokens(model, tokenizer, (("probing", batch) for batch in _sentences(tokenizer, probes, longest)))
    for note in notes_on(probes.get("report", ())):
        progress.note(note)
    check_task(model, task, parts.search, spec.run.scoring_batch_size, spec.model or str(EXAMPLE_MODEL))
    check_sentences(
        model,
        tokenizer,
        [text for probing in probes.get("search", ()) for text in probing.test.texts],
        spec.run.scoring_batch_size,
        longest,
        spec.data.pooling,
    )
    units = find_units(model, spec.search.include, spec.search.exclude)
    two = task.batches(parts.calibration.take(2, spec.seed), 2, model.device)[0]
    strays = unmatched_units(model, units.units, two)
    if strays:
        units = units.without(strays, _STRAY)
        progress.note(f"{len(strays)} layers stay dense, {min(strays)} first: they are {_STRAY}")
    for kind in dict.fromkeys(method.of for method in get_methods(name for form in forms for name in form.methods)):
        if kind == "matrix":
            continue
        find, none_found = _GROUPS[kind]
        groups = find(model, units.units, two)
        units = replace(units, groups=(*units.groups, *groups))
        if not groups:
            progress.note(none_found)
    if spec.run.stream:
        Stack.of(model, units.units, two)
    seq_len = spec.run.seq_len or task.seq_len(parts)
    progress.update(1.0)
    costs = price(model, units.all, forms, spec, seq_len, latency_file, progress)
    check_reachable(spec.parsed_budgets, costs)
    digests = {**model_digests(model), "tokenizer": tokenizer_digest(tokenizer)}
    labels = {str(k): str(v) for k, v in (model.config.id2label or {}).items()}
    problem = Problem(spec, longest, parts, units, costs, probes, digests, labels, task.fingerprint(), form_names)
    return problem.loaded(model, tokenizer, task)


def default_forms(spec: StudySpec, methods: Sequence[Method]) -> tuple[str, ...]:
    """Return what a unit may become where nothing is said: pairs need gradients, and a space that solves a knapsack."""
    gradients = any("gradients" in method.needs for method in methods) and not spec.run.stream
    space = load_space_config(spec.search.space)
    if space.forms:
        return space.forms
    solves = isinstance(space, ImportanceConfig)
    return (*MATRIX_FORMS, *GROUP_FORMS) if gradients and solves else MATRIX_FORMS


def _sentences(tokenizer: PreTrainedTokenizerBase, probes: ProbeParts, longest: int) -> Iterator[Mapping[str, Tensor]]:
    for tasks in probes.values():
        yield from probe_sentences(tokenizer, tasks, _TOKENIZED, longest, "cpu").batches
