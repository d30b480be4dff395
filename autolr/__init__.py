"""autolr: search which low-rank method and which rank compress each layer of a transformer best."""

__version__ = "0.1.0"
