"""Models that are objects in memory: where they lie on disk, so that any process can load them."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from autolr.checkpoint.directory import is_checkpoint, replaced_directory
from autolr.model.digests import config_digest, model_digests, tokenizer_digest


def model_directory(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, folder: Path) -> Path:
    """Return a directory that holds a model and its tokenizer: where they came from, if that has the same, else a copy.

    The model is left as it is. What a copy is called follows from its content, so the same model is saved once.

    Args:
        model: on any device, of any dtype; a copy has that dtype.
        tokenizer: the model's; None: it is not needed.
        folder: where a copy is saved.
    """
    origin = Path(model.name_or_path or "")
    if model.name_or_path and is_checkpoint(origin) and _holds(origin, model, tokenizer):
        return origin.resolve()
    read = None if tokenizer is None else tokenizer_digest(tokenizer)
    content = {**model_digests(model), "tokenizer": read, "dtype": str(model.dtype)}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]
    directory = folder / f"model-{digest}"
    if not is_checkpoint(directory):
        with replaced_directory(directory) as new:
            model.save_pretrained(new)
            if tokenizer is not None:
                tokenizer.save_pretrained(new)
    return directory


def _holds(directory: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> bool:
    """Tell whether a checkpoint is this model with this tokenizer, as far as can be told without building it."""
    try:
        config = type(model.config).from_pretrained(directory)
        if config_digest(config) != config_digest(model.config) or not _same_weights(directory, model):
            return False
        if tokenizer is None:
            return True
        return tokenizer_digest(type(tokenizer).from_pretrained(directory)) == tokenizer_digest(tokenizer)
    except (OSError, ValueError, KeyError, SafetensorError):
        return False  # what cannot be read is saved anew


def _same_weights(directory: Path, model: PreTrainedModel) -> bool:
    """Tell whether a directory's safetensors files hold the model's weights, bit for bit and under the same names."""
    state = {name: tensor for name, tensor in model.state_dict().items() if tensor.numel()}
    stored: set[int] = set()
    for file in directory.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  it is no mapping
                ours, theirs = state.get(name), tensors.get_tensor(name)
                if ours is None or ours.dtype != theirs.dtype or not torch.equal(ours.cpu(), theirs):
                    return False
                stored.add(ours.data_ptr())
    return all(tensor.data_ptr() in stored for tensor in state.values())  # tied ones are stored once
