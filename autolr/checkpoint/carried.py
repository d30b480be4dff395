"""What a checkpoint carries beside its weights, so that it loads, or says how, where autolr is not installed.

That is the modelling file, the ``auto_map`` in config.json that leads to it, and a sign: an empty tensor among the
weights whose name says what is missing. Without autolr and without trusted code transformers finds weights of other
shapes than it expects, lists all that it did not know what to do with, the sign among them, and raises.

A loaded model carries them on: its class's ``save_pretrained``, which Trainer and PEFT call too, writes them again. It
is the class that learns this and not the model. A function bound to one model would be lost by pickling, and would keep
the model in memory by a cycle.

This file depends on torch and transformers alone: a copy of it travels with every checkpoint.
"""

import functools
import importlib
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModel, PretrainedConfig
from transformers.models.auto import modeling_auto

QUANT_METHOD = "autolr"
MODELLING_MODULE = "modeling_autolr"
SIGN = "autolr: import autolr first, or pass trust_remote_code=True"
"""Name of the empty tensor; what transformers prints of weights it has no place for is their names alone."""
_END_OF_CODE = "\nregister(replace=False)\n"
_CLASS = '''

class {name}(transformers.{name}):
    """transformers' own class; importing this file made its low-rank layers known."""
'''


def teach_saving(cls: type[Any]) -> None:
    """Have ``save_pretrained`` of a model class write what a checkpoint carries, for models with low-rank layers.

    Models that no ``quantization_config`` of autolr describes are saved as before, and so are adapters on any.

    Args:
        cls: a class of transformers, or one derived from it; it, or one above it, may have learned it already.
    """
    plain = cls.save_pretrained
    if getattr(plain, "carries", False):
        return

    @functools.wraps(plain)
    def save_pretrained(
        self: Any,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        *args: Any,
        **options: Any,
    ) -> Any:
        described: Any = getattr(self.config, "quantization_config", None)
        ours = getattr(described, "quant_method", None) == QUANT_METHOD
        if not ours or getattr(self, "_hf_peft_config_loaded", False):
            return plain(self, save_directory, is_main_process, state_dict, *args, **options)
        if described.layers:
            state_dict = {**(self.state_dict() if state_dict is None else state_dict), SIGN: torch.empty(0)}
        # What save_pretrained itself pushes to the hub, it pushes before a file can be added.
        pushed = bool(args[:1] == (True,) or options.get("push_to_hub"))
        classes = {} if pushed else auto_map(self.config, type(self).__name__)
        if classes:
            self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **classes}
        try:
            done = plain(self, save_directory, is_main_process, state_dict, *args, **options)
        finally:
            remove_own_entries(self.config)
        if classes and is_main_process and Path(save_directory).is_dir():
            names = {reference.rpartition(".")[2] for reference in classes.values()}
            (Path(save_directory) / f"{MODELLING_MODULE}.py").write_text(modelling_source(names), encoding="utf-8")
        return done

    save_pretrained.carries = True  # type: ignore[attr-defined]
    cls.save_pretrained = save_pretrained


def expect_sign(model: Any) -> None:
    """Have a model take the sign among its weights for nothing, in ``from_pretrained`` and ``load_state_dict``."""
    known = model._keys_to_ignore_on_load_unexpected
    ignored = re.escape(SIGN)
    model._keys_to_ignore_on_load_unexpected = [ignored] if known is None else type(known)([*known, ignored])
    model.register_load_state_dict_pre_hook(_forget_sign)


def _forget_sign(_module: Any, state_dict: dict[str, Tensor], prefix: str, *_: Any) -> None:
    state_dict.pop(prefix + SIGN, None)


def auto_classes(config: PretrainedConfig) -> dict[str, tuple[type, ...]]:
    """Return every Auto class that can load this kind of model with the model classes it may build, by name.

    Example:
        >>> from transformers import GPT2Config
        >>> auto_classes(GPT2Config())["AutoModelForCausalLM"][0].__name__
        'GPT2LMHeadModel'
    """
    found = {}
    for name in sorted(vars(modeling_auto)):
        mapping = getattr(getattr(modeling_auto, name), "_model_mapping", None)
        if name.startswith(AutoModel.__name__) and mapping is not None and type(config) in mapping:
            classes = mapping[type(config)]
            found[name] = classes if isinstance(classes, tuple) else (classes,)
    return found


def auto_map(config: PretrainedConfig, architecture: str) -> dict[str, str]:
    """Return {Auto class: class in the modelling file} for a model of this class.

    Args:
        config: the model's.
        architecture: name of the model's class; preferred where an Auto class may build several.

    Returns:
        Empty where the Auto classes do not know the model, which then has remote code of its own.
    """
    chosen = {}
    for auto_name, classes in auto_classes(config).items():
        names = [cls.__name__ for cls in classes if cls.__module__.startswith("transformers.")]
        if names:
            chosen[auto_name] = f"{MODELLING_MODULE}.{architecture if architecture in names else names[0]}"
    return chosen


def remove_own_entries(config: PretrainedConfig) -> None:
    """Remove the classes of the modelling file from ``auto_map``: a config that is saved alone has no such file."""
    entries: dict[str, Any] | None = config.__dict__.pop("auto_map", None)
    kept = {name: ref for name, ref in (entries or {}).items() if not str(ref).startswith(f"{MODELLING_MODULE}.")}
    if kept:
        config.auto_map = kept


def modelling_source(class_names: set[str]) -> str:
    """Return the text of the modelling file.

    Args:
        class_names: classes of transformers to subclass in it.
    """
    if __name__ == "autolr.checkpoint.carried":
        code: str = importlib.import_module("autolr.checkpoint.modelling").code()
    else:  # in a copy, which is itself the file
        own = Path(__file__).read_text(encoding="utf-8")
        code = own[: own.rindex(_END_OF_CODE)]
    return code + _END_OF_CODE + "".join(_CLASS.format(name=name) for name in sorted(class_names))
