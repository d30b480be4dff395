"""Save a compressed model as a checkpoint that loads by plain ``from_pretrained``."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from autolr.checkpoint.carried import teach_saving
from autolr.checkpoint.directory import replaced_directory
from autolr.checkpoint.plugin import AutolrConfig
from autolr.checkpoint.runtime.layers import CompressedLinear, is_compressed
from autolr.checkpoint.runtime.rewrites import applied
from autolr.errors import UsageError


def save_checkpoint(
    model: PreTrainedModel,
    directory: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    card: str | None = None,
) -> None:
    """Write a model with low-rank layers, its tokenizer and its card to a Hugging Face directory, atomically.

    The directory loads by ``AutoModel….from_pretrained`` after ``import autolr``; without autolr it loads with
    ``trust_remote_code=True`` by the modelling file it carries; without either, transformers raises. The model in
    memory, its config included, stays as it is.

    Args:
        model: some of its linear layers replaced by layers of :mod:`autolr.checkpoint.runtime.layers`.
        directory: to write; an older checkpoint there is replaced.
        tokenizer: saved along.
        card: text of README.md.

    Raises:
        UsageError: nothing is compressed, a compressed weight is tied to another one, or the directory holds
            something other than a checkpoint.
    """
    layers = compressed_layers(model)
    if not layers and not applied(model):
        raise UsageError("the model has no low-rank layer; compress it first, or save it by its own save_pretrained")
    _check_ties(model, layers)
    config = copy.deepcopy(model.config)
    specs = {name: {"kind": x.kind, **x.sizes()} for name, x in layers.items()}
    config.quantization_config = AutolrConfig(specs, rewrites=applied(model))
    teach_saving(type(model))
    with replaced_directory(Path(directory)) as new, _config_swapped(model, config):
        write_model(model, new, tokenizer, card)


def compressed_layers(model: PreTrainedModel) -> dict[str, CompressedLinear]:
    """Return the compressed layers by dotted name."""
    layers: dict[str, Any] = {name: module for name, module in model.named_modules() if is_compressed(module)}
    return layers


def write_model(
    model: PreTrainedModel,
    directory: Path,
    tokenizer: PreTrainedTokenizerBase | None,
    card: str | None,
    state_dict: dict[str, Tensor] | None = None,
) -> None:
    """Write weights, config, tokenizer and card to an existing empty directory; ``state_dict`` replaces the model's."""
    model.save_pretrained(directory, state_dict=state_dict)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    if card is not None:
        (directory / "README.md").write_text(card, encoding="utf-8")
    mode = (directory / "config.json").stat().st_mode
    for weights in directory.glob("*.safetensors"):
        weights.chmod(mode)  # safetensors writes files that only their owner can read


@contextmanager
def _config_swapped(model: PreTrainedModel, config: PretrainedConfig) -> Iterator[None]:
    """Give the model another config for a while: save_pretrained writes to the one it finds as well as from it."""
    own = model.config
    model.config = config
    try:
        yield
    finally:
        model.config = own


def _check_ties(model: PreTrainedModel, layers: dict[str, CompressedLinear]) -> None:
    ties = model.get_expanded_tied_weights_keys(all_submodels=True)
    tied = sorted(name for name in layers if f"{name}.weight" in {*ties, *ties.values()})
    if tied:
        raise UsageError(
            f"{', '.join(tied)}: compressed, but config.tie_word_embeddings ties its weight to another one, which "
            f"would overwrite it on loading; keep the layer dense or set config.tie_word_embeddings=False"
        )
