"""The modelling file that travels with a checkpoint, for ``trust_remote_code=True`` where autolr is not installed.

It is put together from the source of :mod:`autolr.layers`, :mod:`autolr.rewrites` and :mod:`autolr.checkpoint.plugin`,
so there is no second version of any to keep in step, and ends in one empty subclass for each Auto class that can load
the model.
"""

import inspect
import re

from transformers import AutoModel, PretrainedConfig
from transformers.models.auto import modeling_auto

from autolr import __version__, layers, rewrites
from autolr.checkpoint import plugin
from autolr.checkpoint.plugin import MODELLING_MODULE
from autolr.rewrites import first_position, fused_activation

_HEAD = '''"""The low-rank layers of this checkpoint, for loading it where autolr is not installed.

    AutoModelFor….from_pretrained(directory, trust_remote_code=True)

Copied by autolr {version} from its own source (Apache-2.0). With autolr installed, `import autolr` replaces this file.
"""
'''
_COPIED = (layers, first_position, fused_activation, rewrites, plugin)
_TAIL = """

register(replace=False)
"""
_CLASS = '''

class {name}(transformers.{name}):
    """transformers' own class; importing this file made its low-rank layers known."""
'''


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


def modelling_source(class_names: set[str]) -> str:
    """Return the text of the modelling file.

    Args:
        class_names: classes of transformers to subclass in it.
    """
    copied = "\n\n".join(inspect.getsource(module) for module in _COPIED)
    copied = re.sub(r"^from autolr\..*\n", "", copied, flags=re.MULTILINE)
    classes = "".join(_CLASS.format(name=name) for name in sorted(class_names))
    return _HEAD.format(version=__version__) + copied + _TAIL + classes
