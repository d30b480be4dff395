"""Load a checkpoint by what its config says it is."""

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError  # torch raises it of a file that it refuses to unpickle
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto

from autolr.checkpoint.accepted import check_accepted, check_weights_read
from autolr.checkpoint.carried import auto_classes
from autolr.checkpoint.hub import unreachable
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
    offline = bool(options.get("local_files_only", False))
    away = None if offline else unreachable(source)
    local = {"local_files_only": offline or away is not None}
    try:
        check_accepted(source, compressed, **local)
        check_whole(source)
        config = _config(source, trust_remote_code, local)
        auto_class = _auto_class(source, config)
        model, info = auto_class.from_pretrained(
            source, config=config, trust_remote_code=trust_remote_code, output_loading_info=True, **{**options, **local}
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
            raise UsageError(_absent(source, away, error)) from error
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


def _absent(source: str | Path, away: str | None, error: Exception) -> str:
    """Return what is said of a source that is no directory and was not loaded from the hub or its cache."""
    hint = nearest_checkpoint(Path(source))
    if away is not None:
        return f"{source}: no such directory here ({hint}), and no such model in the hub's cache; {away}"
    return f"{source}: no such directory here ({hint}), and no such model from the hub or its cache: {error}"


def _config(source: str | Path, trust_remote_code: bool, local: Mapping[str, bool]) -> PretrainedConfig:
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code, **local)
    except (StrictDataclassError, AttributeError, KeyError, TypeError) as error:  # values of a kind that is not meant
        raise UsageError(f"{source} does not load: its config.json holds what transformers refuses: {error}") from error
    return config


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
