"""Load a checkpoint by what its config says it is, and check that it reloads to the same model."""

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from pickle import UnpicklingError  # torch raises it of a file that it refuses to unpickle
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from autolr.checkpoint.accepted import check_accepted, check_weights_read
from autolr.checkpoint.carried import auto_classes
from autolr.checkpoint.plugin import FormatError
from autolr.checkpoint.source import check_path, check_whole, nearest_checkpoint
from autolr.errors import UsageError


def load_checkpoint(
    source: str | Path, trust_remote_code: bool = False, compressed: bool = True, **options: object
) -> PreTrainedModel:
    """Load a model, compressed or dense, with the head it was saved with.

    Args:
        source: a directory, or the id of a model on the Hugging Face hub or in its local cache.
        trust_remote_code: run code that the directory brings along; checkpoints of autolr do not need it.
        compressed: whether checkpoints of autolr are taken.
        **options: of ``from_pretrained``, such as ``dtype``, ``device_map`` or ``attn_implementation``.

    Returns:
        The model, in eval mode.

    Raises:
        UsageError: there is no such directory, it is no checkpoint, it is damaged, or its model is not supported:
            quantized, with an adapter beside it, or compressed where it should not be.
    """
    check_path(source)
    try:
        local = {"local_files_only": bool(options.get("local_files_only", False))}
        check_accepted(source, compressed, **local)
        check_whole(source)
        config = _config(source, trust_remote_code, local)
        auto_class = _auto_class(source, config)
        model, info = auto_class.from_pretrained(
            source, config=config, trust_remote_code=trust_remote_code, output_loading_info=True, **options
        )
    except SafetensorError as error:
        raise UsageError(
            f"{source} does not load: a file of its weights is damaged, or no more than the pointer that Git LFS "
            f"leaves ({error}); save or download it again"
        ) from error
    except UnpicklingError as error:
        raise UsageError(
            f"{source} does not load: a .bin file of its weights is damaged, or holds objects beside tensors, which "
            f"are not unpickled; save the weights as safetensors, or download them again"
        ) from error
    except (FormatError, ImportError, OSError, ValueError) as error:
        if not Path(source).expanduser().exists():
            raise UsageError(
                f"{source}: no such directory here, and no such model from the hub or its cache: {error}\n"
                f"{nearest_checkpoint(Path(source))}"
            ) from error
        raise UsageError(f"{source} does not load: {error}") from error
    except RuntimeError as error:
        if "ignore_mismatched_sizes" not in str(error):
            raise
        raise UsageError(
            f"{source} does not load: its weights have other shapes than its config.json says; save or download it "
            f"again"
        ) from error
    check_weights_read(source, info["unexpected_keys"])
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise UsageError(
            f"{source} is incomplete: it lacks {len(missing)} weights of {type(model).__name__}, such as {missing[0]}; "
            f"save or download it again"
        )
    loaded: PreTrainedModel = model
    return loaded


def _config(source: str | Path, trust_remote_code: bool, local: Mapping[str, bool]) -> PretrainedConfig:
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code, **local)
    except (StrictDataclassError, AttributeError, KeyError, TypeError) as error:  # values of a kind that is not meant
        raise UsageError(f"{source} does not load: its config.json holds what transformers refuses: {error}") from error
    return config


def verify_roundtrip(
    model: PreTrainedModel, directory: str | Path, batches: Iterable[Mapping[str, Tensor]], allowed: float = 0.0
) -> float:
    """Reload a saved model and compare it with the one in memory.

    Where they differ by more than is allowed they are compared again with all weights in memory of their own: at an
    address that a file was mapped to, a kernel may add up in another order.

    Args:
        model: the model that was saved to ``directory``, or what it should equal; its mode is put back afterwards.
        directory: the checkpoint.
        batches: tokenized batches, keyword arguments of ``model.forward`` on any device.
        allowed: difference with which the first comparison is taken.

    Returns:
        The largest absolute difference of a logit (of a last hidden state, for a model without a head); 0.0 when
        the outputs are bit-equal, nan when either model gives nan.

    Raises:
        UsageError: as :func:`load_checkpoint`; there is no batch; the outputs do not have the same shape.
    """
    reloaded = load_checkpoint(directory, attn_implementation=model.config._attn_implementation)
    reloaded.to(device=model.device)  # type: ignore[call-arg]  # its wrapper loses self
    given = [{key: value.to(model.device) for key, value in batch.items()} for batch in batches]
    if not given:
        raise UsageError("no batch was given to compare the models on")
    was_training = model.training
    model.train(False)
    try:
        worst = _worst_difference(model, reloaded, given)
        if not worst <= allowed:
            _leave_files(model)
            _leave_files(reloaded)
            worst = _worst_difference(model, reloaded, given)
        return worst
    finally:
        model.train(was_training)


def _worst_difference(
    model: PreTrainedModel, reloaded: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]]
) -> float:
    found = [max_difference(_logits(model, batch), _logits(reloaded, batch)) for batch in batches]
    return float(torch.stack(found).max())


def _leave_files(model: PreTrainedModel) -> None:
    """Copy weights that are mapped from a file, or lie anywhere else, to memory of their own."""
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        tensor.data = tensor.data.clone()


def max_difference(left: Tensor, right: Tensor) -> Tensor:
    """Return ``max |left − right|``, () float64; equal infinities differ by zero.

    Raises:
        UsageError: the shapes differ.
    """
    if left.shape != right.shape:
        raise UsageError(f"the models' outputs differ in shape: {tuple(left.shape)} and {tuple(right.shape)}")
    difference = (left.double() - right.double()).abs()
    return torch.where(left == right, 0.0, difference).max().cpu()


@torch.no_grad()
def _logits(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> Tensor:
    """Return all logits of a batch in one row, those of a question's start and end one after the other."""
    outputs = model(**batch)
    names = [name for name in outputs if name.endswith("logits")] or ["last_hidden_state"]
    return torch.cat([outputs[name].flatten() for name in names])


def _auto_class(source: str | Path, config: PretrainedConfig) -> type[Any]:
    """Return the Auto class that builds the architecture the config names."""
    architectures = getattr(config, "architectures", None)
    if not architectures:
        return AutoModel
    architectures = [architectures] if isinstance(architectures, str) else architectures
    known = auto_classes(config)
    own = getattr(config, "auto_map", None) or {}
    names = [name for name, classes in known.items() if architectures[0] in {cls.__name__ for cls in classes}]
    names += [name for name, reference in own.items() if str(reference).endswith(f".{architectures[0]}")]
    names = [name for name in names if hasattr(modeling_auto, name)]
    if names:
        auto_class: type[Any] = getattr(modeling_auto, names[0])
        return auto_class
    builds = ", ".join(sorted({cls.__name__ for classes in known.values() for cls in classes})) or "nothing"
    raise UsageError(
        f"{source} holds a {architectures[0]}, which no Auto class of transformers builds (for the model type "
        f"{config.model_type!r}: {builds})"
    )
