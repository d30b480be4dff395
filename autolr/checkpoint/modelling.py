"""The code of the modelling file that travels with a checkpoint, for ``trust_remote_code=True`` without autolr.

It is put together from the source of :mod:`autolr.checkpoint.runtime`, :mod:`autolr.checkpoint.carried` and
:mod:`autolr.checkpoint.plugin`, so there is no second version of any to keep in step. The file ends in one empty
subclass for each Auto class that can load the model.
"""

import inspect
import re

from autolr import __version__
from autolr.checkpoint import carried, plugin
from autolr.checkpoint.runtime import embeddings, layers, rewrites
from autolr.checkpoint.runtime.rewrites import first_position, fused_activation

_HEAD = '''"""The low-rank layers of this checkpoint, for loading it where autolr is not installed.

    AutoModelFor….from_pretrained(directory, trust_remote_code=True)

Copied by autolr {version} from its own source (Apache-2.0). With autolr installed, `import autolr` replaces this file.
"""
'''
_COPIED = (layers, embeddings, first_position, fused_activation, rewrites, carried, plugin)


def code() -> str:
    """Return the part of the file that is the same for every model."""
    copied = "\n\n".join(inspect.getsource(module) for module in _COPIED)
    copied = re.sub(r"^from autolr\..*\n", "", copied, flags=re.MULTILINE)
    return _HEAD.format(version=__version__) + copied + "\n\n"
