"""Forms of a model that are refused before it is loaded: adapters beside it, quantized weights, autolr's own exports.

Without this, transformers reads the first with or without the adapter, as PEFT happens to be installed, and the second
as whatever the libraries that happen to be installed make of it.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from autolr.checkpoint.carried import QUANT_METHOD
from autolr.checkpoint.source import read_json
from autolr.errors import UsageError

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
_MERGING = {
    "CAUSAL_LM": "AutoPeftModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoPeftModelForSeq2SeqLM",
    "TOKEN_CLS": "AutoPeftModelForTokenClassification",
    "QUESTION_ANS": "AutoPeftModelForQuestionAnswering",
    "FEATURE_EXTRACTION": "AutoPeftModelForFeatureExtraction",
}
_PROMPTS = ("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "ADAPTION_PROMPT", "CPT")
"""Kinds of adapter that are tokens or positions of their own, which no weight can take up."""
_QUANTIZATION_KEYS = ("quantization_config", "compression_config")
"""The usual key, and the older one of compressed-tensors."""
_QUANTIZATION_FILES = ("quantize_config.json", "quant_config.json")
"""Of AutoGPTQ and AutoAWQ, from before it was said in config.json."""
_MOST_BITS = 8
_QUANTIZED = re.compile(
    r"\.(qweight|qzeros|scales|SCB|weight_scale|weight_scale_inv|weight_packed|weight\.absmax|weight\.quant_map)$"
)
_ADAPTED = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|base_layer|modules_to_save)\.")


def check_accepted(source: str | Path, compressed: bool = True, local_files_only: bool = False) -> None:
    """Refuse a model whose weights are not plain ones.

    Args:
        source: a directory, or the id of a model on the hub or in its cache; one that is neither passes.
        compressed: whether checkpoints of autolr are taken.
        local_files_only: whether the hub may not be asked.

    Raises:
        UsageError: there is an adapter beside the model or in its place, the weights are quantized, the model is
            compressed already and that is not wanted, or its config.json cannot be read.
        OSError: the source is no valid id.
    """
    files = _Files(source, local_files_only)
    _check_adapter(files)
    path = files.find("config.json")
    if path is None:
        return
    config = read_json(path)
    own = config.get("quantization_config")
    if isinstance(own, dict) and own.get("quant_method") == QUANT_METHOD:
        if not compressed:
            raise UsageError(
                f"{source} is an autolr checkpoint (quant_method {QUANT_METHOD} in its config.json), compressed "
                f"already; give the dense model it was made from{_origin(files)}, or what autolr export … --format "
                f"dense made of its study"
            )
        return
    told = next(_quantizations(config), None)
    if told is None and files.local:
        told = next((name for name in _QUANTIZATION_FILES if _says_quantized(files.find(name))), None)
    if told is not None:
        raise UsageError(_quantized(source, told))


def check_weights_read(source: str | Path, unexpected: Iterable[str]) -> None:
    """Refuse a model whose file holds weights that only an adapter or quantized layers have.

    Args:
        source: names it in the message.
        unexpected: names of weights in the file that the model has no place for.

    Raises:
        UsageError: there are such weights.
    """
    names = sorted(unexpected)
    adapted = next((name for name in names if _ADAPTED.search(name)), None)
    if adapted is not None:
        raise UsageError(
            f"{source} was saved with an adapter in it (its weights hold {adapted}); merge the adapter first, by "
            f"PEFT's merge_and_unload(), and save the model again"
        )
    scale = next((name for name in names if _QUANTIZED.search(name)), None)
    if scale is not None:
        raise UsageError(_quantized(source, f"weights such as {scale}"))


class _Files:
    """Finds files of a model by name: in its directory, on the hub or in the hub's cache."""

    def __init__(self, source: str | Path, local_files_only: bool) -> None:
        self.source = source
        self.directory = Path(source).expanduser()
        self.local = self.directory.is_dir()
        self.only_here = local_files_only

    def find(self, name: str) -> Path | None:
        if self.local:
            return self.directory / name if (self.directory / name).is_file() else None
        quiet = ("gated_repo", "missing_entries", "connection_errors")
        options: dict[str, Any] = {f"_raise_exceptions_for_{what}": False for what in quiet}
        found = cached_file(self.source, name, local_files_only=self.only_here, **options)
        return None if found is None else Path(found)

    def holds(self, source: str | None) -> bool:
        """Tell whether a source is this directory: a model from which PEFT would load the adapter twice."""
        return self.local and source is not None and Path(source).resolve() == self.directory.resolve()


def _check_adapter(files: _Files) -> None:
    wanted = _ADAPTER_FILES if files.local else _ADAPTER_FILES[:1]  # each is a question to the hub
    found = {name: path for name in wanted if (path := files.find(name)) is not None}
    if not found:
        return
    first = next(iter(found))
    config = read_json(found[first]) if first == _ADAPTER_FILES[0] else {}
    kind = config.get("peft_type")
    what = f"{files.source} holds an adapter ({first}{f', {kind}' if kind else ''})"
    base = config.get("base_model_name_or_path")
    if kind in _PROMPTS:
        raise UsageError(
            f"{what}, which cannot be merged into weights; give a model without it{f', such as {base}' if base else ''}"
        )
    merging = _MERGING.get(str(config.get("task_type")), "AutoPeftModelForSequenceClassification")
    apart = "move its files to a directory of their own and " if files.holds(base) else ""
    where = "THERE" if apart else repr(str(files.source))
    raise UsageError(
        f"{what}{f' for {base}' if base else ''}; {apart}merge the adapter first, in Python with PEFT: "
        f"{merging}.from_pretrained({where}).merge_and_unload().save_pretrained(OUT), save the tokenizer to OUT too, "
        f"and give OUT"
    )


def _quantizations(config: dict[str, Any], where: str = "") -> Iterator[str]:
    """Yield what says in a config, or in a part of it such as text_config, that weights are quantized, and how."""
    for key, value in config.items():
        if not isinstance(value, dict):
            continue
        of_mlx = key == "quantization" and "bits" in value
        if of_mlx or key in _QUANTIZATION_KEYS:
            flags = (name for name in ("load_in_4bit", "load_in_8bit") if value.get(name))
            bits = f"{value['bits']} bits" if "bits" in value else "by a method it does not name"
            yield f"{where}{key} in its config.json: {value.get('quant_method') or next(flags, bits)}"
        elif key.endswith("config"):
            yield from _quantizations(value, f"{where}{key}.")


def _says_quantized(path: Path | None) -> bool:
    """Tell whether a file of AutoGPTQ's or AutoAWQ's says that weights have fewer bits than a float has."""
    bits = {} if path is None or not path.stat().st_size else read_json(path)
    return any(isinstance(n := bits.get(key), int) and n <= _MOST_BITS for key in ("bits", "w_bit"))


def _quantized(source: str | Path, seen: str) -> str:
    return f"{source} is quantized ({seen}), and autolr works on plain weights; give the model it was quantized from"


def _origin(files: _Files) -> str:
    """Return what an export's card says it was made from."""
    card = files.find("README.md")
    text = "" if card is None else card.read_text(encoding="utf-8", errors="replace")
    named = re.search(r"^# (.+), compressed by autolr", text, re.MULTILINE)
    return f" (by its README.md, {named[1]})" if named else ""
