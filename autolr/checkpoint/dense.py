"""Save a compressed model with its factors multiplied out, for software that knows only dense layers."""

import copy
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from autolr.checkpoint.carried import MODELLING_MODULE, remove_own_entries
from autolr.checkpoint.directory import replaced_directory
from autolr.checkpoint.runtime.layers import CompressedLinear
from autolr.checkpoint.save import compressed_layers, write_model
from autolr.errors import UsageError

# Config fields that give an architecture's bias-free linear layers a bias.
_BIAS_SWITCHES = ("attention_bias", "mlp_bias")


def save_dense(
    model: PreTrainedModel,
    directory: str | Path,
    tokenizer: PreTrainedTokenizerBase | None = None,
    card: str | None = None,
) -> None:
    """Write the model as an ordinary dense checkpoint that any version of transformers loads, atomically.

    It computes what the compressed model computes, up to rounding, but **gains neither size nor speed**: it is as
    large and as slow as the dense model. It is for engines that read no low-rank factors (vLLM, GGUF, TensorRT-LLM).
    The model in memory stays as it is; beyond it, the dense weights of the compressed layers are held.

    A low-rank layer always has a bias. Where its dense layer has none and the bias is not zero, the architecture's
    own switch (``attention_bias``, ``mlp_bias``) is turned on and the other new biases are zero.

    Args:
        model: some of its linear layers replaced by layers of :mod:`autolr.checkpoint.runtime.layers`.
        directory: to write; an older checkpoint there is replaced.
        tokenizer: saved along.
        card: text of README.md.

    Raises:
        UsageError: the architecture has no place for a bias that is not zero, or the directory holds something other
            than a checkpoint.
    """
    layers = compressed_layers(model)
    skeleton, missing = _skeleton_with_biases(model)
    if missing:
        raise UsageError(
            f"{type(model).__name__} has no place for the bias of {', '.join(missing[:3])} ({len(missing)} in all); "
            f"fold them into the weights (autolr.checkpoint.fold), or save the factors by save_checkpoint"
        )
    state = _dense_state(model, layers, skeleton)
    with replaced_directory(Path(directory)) as new:
        write_model(skeleton, new, tokenizer, card, state)


def _plain_config(config: PretrainedConfig) -> PretrainedConfig:
    config = copy.deepcopy(config)
    config.__dict__.pop("quantization_config", None)
    remove_own_entries(config)
    return config


def homeless_biases(model: PreTrainedModel) -> list[str]:
    """Return the compressed layers whose bias is not zero and has no place in the dense architecture."""
    return _skeleton_with_biases(model)[1]


def _skeleton_with_biases(model: PreTrainedModel) -> tuple[PreTrainedModel, list[str]]:
    """Return the dense model without its weights, on meta, with the biases it can have, and who lacks one it needs."""
    config = _plain_config(model.config)
    needed = {name for name, layer in compressed_layers(model).items() if bool(layer.dense_bias().any())}
    skeleton = _skeleton(model, config)
    missing = _without_bias(skeleton, needed)
    for switch in _BIAS_SWITCHES:
        if missing and getattr(config, switch, None) is False:
            setattr(config, switch, True)
            switched = _skeleton(model, config)
            if _without_bias(switched, needed) == missing:
                setattr(config, switch, False)
            else:
                skeleton, missing = switched, _without_bias(switched, needed)
    return skeleton, missing


def _without_bias(skeleton: PreTrainedModel, names: set[str]) -> list[str]:
    return sorted(name for name in names if getattr(skeleton.get_submodule(name), "bias", None) is None)


def _skeleton(model: PreTrainedModel, config: PretrainedConfig) -> PreTrainedModel:
    # A class of a checkpoint's modelling file would have save_pretrained copy that file.
    cls = next(c for c in type(model).__mro__ if not c.__module__.endswith(MODELLING_MODULE))
    with torch.device("meta"):
        skeleton: PreTrainedModel = cls(copy.deepcopy(config)).to(model.dtype)  # what its config then says
    if hasattr(model, "generation_config"):
        skeleton.generation_config = model.generation_config
    return skeleton


@torch.no_grad()
def _dense_state(
    model: PreTrainedModel, layers: dict[str, CompressedLinear], skeleton: PreTrainedModel
) -> dict[str, Tensor]:
    """Return the state of the dense model: shared with the model's except for the compressed layers' weights."""
    state = {
        key: value for key, value in model.state_dict().items() if not any(key.startswith(f"{n}.") for n in layers)
    }
    for name, layer in layers.items():
        module = skeleton.get_submodule(name)
        weight = layer.dense_weight().to(layer.weight.dtype)
        state[f"{name}.weight"] = weight.T if isinstance(module, Conv1D | nn.Embedding) else weight
        if getattr(module, "bias", None) is not None:
            state[f"{name}.bias"] = layer.dense_bias().detach()
    for name, module in skeleton.named_modules():
        key = f"{name}.bias"
        if isinstance(module, nn.Linear) and module.bias is not None and key not in state:
            state[key] = torch.zeros(module.bias.shape, dtype=state[f"{name}.weight"].dtype)
    return state
