"""Digests by which a model and a tokenizer are known again: of what decides their answers, and of nothing else."""

import hashlib
import json

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from autolr.machine.tensor_digest import tensor_digest

_PASSING = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Entries of a configuration that say nothing of what the model computes."""
_PLACES = ("_file", "_path", "_dir")
"""Endings of a tokenizer's options that say where it came from."""


def model_digests(model: PreTrainedModel) -> dict[str, str]:
    """Return SHA-256 digests of a model's weights and of what else its configuration says."""
    return {"model weights": tensor_digest(model.state_dict()), "model config": config_digest(model.config)}


def config_digest(config: PretrainedConfig) -> str:
    """Return a SHA-256 digest of what a configuration says of the model."""
    said = {k: v for k, v in config.to_diff_dict().items() if k not in _PASSING}
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a SHA-256 digest of what decides the tokens of a text; not of what a call leaves behind (truncation)."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = json.loads(backend.to_str()) if backend is not None else sorted(tokenizer.get_vocab().items())
    passing = {"truncation": None, "padding": None}
    padded = ("padding_side", "chat_template")
    content = [
        {**rules, **passing} if isinstance(rules, dict) else rules,
        {k: v for k, v in tokenizer.init_kwargs.items() if not k.endswith(_PLACES) and k[0] != "_" and k not in padded},
        [tokenizer.truncation_side, tokenizer.pad_token_id],
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=repr).encode()).hexdigest()
