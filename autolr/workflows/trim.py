"""A dense model and its data -> the same model without the tokens that no text of the task uses.

Source: vocabulary trimming, Abdaoui et al. 2020 (arXiv 2010.05609), Ushio et al. 2023 (arXiv 2305.15020).
"""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel

from autolr.checkpoint.directory import check_not_dense, check_vacant, replaced_directory
from autolr.checkpoint.load import load_checkpoint
from autolr.checkpoint.save import write_model
from autolr.checkpoint.verify import max_difference
from autolr.data.parts import PARTS, Parts, check_sources
from autolr.errors import AutolrError, UsageError
from autolr.model.inputs import Batch
from autolr.model.load import load_tokenizer
from autolr.model.padding import ensure_padding
from autolr.model.trim_model import token_ids, trim_
from autolr.model.trim_tokenizer import tokens_to_keep, trimmed
from autolr.progress import Progress
from autolr.scores import TASKS
from autolr.spec.study import StudySpec
from autolr.tasks import Task, task_for

_ALL = 2**31
"""More examples than data have: all are read, whatever a study would draw of them."""
_FILES = ("vocab.txt", "vocab.json", "merges.txt", "*.model")
"""Other files of a tokenizer, which have all tokens; tokenizer.json is enough."""


@dataclass(frozen=True)
class Trimmed:
    """A model that was written without some of its tokens, and proved.

    Attributes:
        directory: where it is.
        tokens: how many it has.
        tokens_before: how many the table had.
        params: of the model.
        params_before: of the dense one.
        texts: how many examples were read, and are tokenized to the same pieces.
    """

    directory: Path
    tokens: int
    tokens_before: int
    params: int
    params_before: int
    texts: int

    def to_json(self) -> dict[str, Any]:
        """Return the plain form that ``autolr trim --json`` prints."""
        return {**vars(self), "directory": str(self.directory)}


def trim_model(spec: StudySpec, directory: Path, keep: Path | None, progress: Progress, force: bool = False) -> Trimmed:
    """Write a model without the tokens that its task's data do not use; it loads by plain transformers.

    All train, validation and test data are read. Special and added tokens, single characters and bytes stay.

    Args:
        spec: names the model, the task and the data.
        directory: to write.
        keep: a file whose lines use tokens that are to stay too; None: there is none.
        progress: told what is under way.
        force: replace an older checkpoint.

    Returns:
        What was written.

    Raises:
        UsageError: something given cannot be used, or the tokenizer or the model cannot be cut exactly.
        AutolrError: the written model reads or answers a text otherwise than the dense one.
    """
    if spec.model is None:
        raise UsageError("--model names the model to trim; the embedded example has none to spare")
    check_not_dense(directory, spec.model)
    check_vacant(directory, force)
    check_sources(spec.data)
    progress.start("load the model and read all data")
    options: dict[str, Any] = {"dtype": "auto", "trust_remote_code": spec.run.trust_remote_code}
    model = load_checkpoint(spec.model, compressed=False, local_files_only=spec.run.offline, **options)
    tokenizer = load_tokenizer(spec.model, spec)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UsageError(f"{type(tokenizer).__name__} has no tokenizer.json, which alone can be cut exactly")
    task = _task(spec, model, tokenizer)
    parts = task.load_parts(_whole(spec))
    batches = _batches(task, parts, spec)
    lines = [] if keep is None else _lines(keep)
    read = [batch["input_ids"][batch["attention_mask"].bool()] for batch in batches]
    used = set(torch.cat(read).tolist()) | token_ids(model)
    used |= {number for line in lines for number in tokenizer(line)["input_ids"]}
    plain = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = tokens_to_keep(plain, used)
    before = sum(p.numel() for p in model.parameters())
    size = len(model.get_input_embeddings().weight)  # type: ignore[arg-type]
    small = copy.deepcopy(model)
    trim_(small, kept)
    progress.update(0.5)
    progress.start(f"write {len(kept)} of {size} tokens to {directory} and read all data again")
    with replaced_directory(directory) as new:
        write_model(small, new, tokenizer, None)
        for pattern in _FILES:
            for file in new.glob(pattern):
                file.unlink()
        (new / "tokenizer.json").write_text(json.dumps(trimmed(plain, kept), ensure_ascii=False), encoding="utf-8")
        _renumber_settings(new / "tokenizer_config.json", kept)
        _prove(spec, new, model, batches, kept)
    progress.update(1.0)
    texts = sum(len(getattr(parts, name)) for name in PARTS)
    return Trimmed(directory, len(kept), size, sum(p.numel() for p in small.parameters()), before, texts)


def _whole(spec: StudySpec) -> StudySpec:
    counts = dict.fromkeys(("calibration_examples", "search_examples", "selection_examples"), _ALL)
    return spec.model_copy(update={"data": spec.data.model_copy(update=counts)})


def _task(spec: StudySpec, model: PreTrainedModel, tokenizer: Any) -> Task:
    """Return the task; model and tokenizer learn to pad, as they do in a study."""
    if TASKS.get(spec.task).pads:
        ensure_padding(model, tokenizer)
    assert spec.model is not None
    return task_for(spec, model, tokenizer, spec.model)


def _batches(task: Task, parts: Parts, spec: StudySpec) -> list[Batch]:
    return [b for name in PARTS for b in task.batches(getattr(parts, name), spec.run.scoring_batch_size, "cpu")]


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--keep {file} cannot be read as text: {error}") from error


def _renumber_settings(file: Path, kept: list[int]) -> None:
    """Number the added tokens anew where older settings list them."""
    settings = json.loads(file.read_text(encoding="utf-8"))
    listed = settings.get("added_tokens_decoder")
    if listed:
        place = {str(number): str(new) for new, number in enumerate(kept)}
        settings["added_tokens_decoder"] = {place[number]: token for number, token in listed.items()}
        file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@torch.no_grad()
def _prove(spec: StudySpec, directory: Path, model: PreTrainedModel, batches: list[Batch], kept: list[int]) -> None:
    """Raise unless the written model reads all data in the same pieces, and answers two batches alike.

    Raises:
        AutolrError: it does not.
    """
    again = load_checkpoint(
        directory, compressed=False, dtype="auto", attn_implementation=model.config._attn_implementation
    )
    task = _task(spec, again, AutoTokenizer.from_pretrained(directory))
    read = _batches(task, task.load_parts(_whole(spec)), spec)
    old = torch.tensor(kept)
    for ours, theirs in zip(batches, read, strict=True):
        mask = ours["attention_mask"].bool()
        same = ours["input_ids"].shape == theirs["input_ids"].shape
        if not same or not torch.equal(ours["input_ids"][mask], old[theirs["input_ids"]][mask]):
            raise AutolrError("the cut tokenizer reads a text of the data in other pieces; the model was not written")
    for ours, theirs in ((batches[0], read[0]), (batches[-1], read[-1])):
        wanted, found = _logits(model, ours), _logits(again, theirs)
        if wanted.shape[-1] != found.shape[-1]:  # of a language model those of the tokens that stay
            wanted = wanted[..., old]
        difference = float(max_difference(wanted, found))
        if not difference <= _allowed(wanted):
            raise AutolrError(f"the cut model's logits differ by {difference:.3g}; the model was not written")


def _logits(model: PreTrainedModel, batch: Batch) -> Tensor:
    logits: Tensor = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    return logits


def _allowed(logits: Tensor) -> float:
    """Return the rounding of a sum whose order may change with the width of the head."""
    return 16 * torch.finfo(logits.dtype).eps * float(logits.abs().max())
