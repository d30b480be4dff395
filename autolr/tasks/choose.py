"""Which task object serves a specification: by the task's name, and for the built-in ones by the kind of model."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from autolr.errors import AutolrError, UsageError
from autolr.model.inputs import longest_input
from autolr.model.kind import check_causal, is_causal_class
from autolr.model.padding import padding_side
from autolr.scores import TASKS
from autolr.spec.study import StudySpec
from autolr.tasks.base import Task
from autolr.tasks.classification import Classification, check_classifier, check_ends, label_ids
from autolr.tasks.language import LanguageModelling
from autolr.tasks.prompted import Prompted


def task_for(spec: StudySpec, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str) -> Task:
    """Return what the specification's task is for this model.

    Args:
        spec: names the task.
        model: the dense model, on its device.
        tokenizer: the model's, with a padding token.
        source: where the model came from, for messages.

    Raises:
        UsageError: the model cannot do the task.
        AutolrError: what an installed package builds is no task.
    """
    task = TASKS.get(spec.task).builder(spec, model, tokenizer, source)
    if not isinstance(task, Task):
        raise AutolrError(f"task {spec.task} is built as {task!r}, which lacks methods of autolr.tasks.Task")
    return task


def language(spec: StudySpec, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str) -> Task:
    """Return the next tokens of text as a task of a causal language model."""
    longest = longest_input(model, tokenizer)
    if not is_causal_class(model):
        raise UsageError(f"task {spec.task} needs a causal language model, {source} is a {type(model).__name__}")
    check_causal(model, source)
    if spec.run.seq_len is not None and not 2 <= spec.run.seq_len <= longest:
        raise UsageError(f"--seq-len {spec.run.seq_len} must lie in [2, {longest}], what {source} takes")
    return LanguageModelling.of(tokenizer, longest, spec)


def inference(spec: StudySpec, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str) -> Task:
    """Return natural language inference as a task of a classifier, or of a causal language model that is prompted."""
    longest = longest_input(model, tokenizer)
    if is_causal_class(model):
        check_causal(model, source)
        return Prompted.of(model, tokenizer, longest, spec)
    check_classifier(model, source)
    for flag, given in {"--template": spec.data.templates, "--words": spec.data.words}.items():
        if given:
            raise UsageError(f"{flag} is for a language model that is prompted, {source} is a classifier; leave it out")
    check_ends(model, tokenizer, source)
    labels = label_ids(model, source, spec.data.label_names is not None)
    return Classification(tokenizer, longest, labels, padding_side(model))
