"""autolr: search which low-rank method and which rank compress each layer of a transformer best."""

from autolr.checkpoint.hook import install as _install

__version__ = "0.1.0"

_install()
