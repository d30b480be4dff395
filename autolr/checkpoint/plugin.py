"""The transformers plug-in: what a checkpoint's config says of the replaced layers, and how they are put back.

To transformers this is a quantization method named "autolr": ``from_pretrained`` builds the dense model on the meta
device, lets the quantizer swap modules, then reads the weights into them. Afterwards the model is an ordinary one.

This file depends on torch, transformers, ``autolr.checkpoint.runtime`` and ``autolr.checkpoint.carried`` alone: a copy
of all travels with every checkpoint.
"""

from importlib.metadata import entry_points
from typing import Any

import transformers
from torch import nn
from transformers.quantizers import auto
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from autolr.checkpoint.carried import QUANT_METHOD, expect_sign, remove_own_entries, teach_saving
from autolr.checkpoint.runtime.embeddings import ALL_KINDS
from autolr.checkpoint.runtime.layers import CompressedLinear
from autolr.checkpoint.runtime.rewrites import REWRITES, apply

FORMAT_VERSION = 2
"""2: a low-rank layer of rank 0 is its bias alone."""


ENTRY_POINTS = "autolr.forms"
"""Where packages register what a layer can become."""


class FormatError(ValueError):
    """The checkpoint was written in a newer format, or has layers that nothing installed here can build."""


class AutolrConfig(QuantizationConfigMixin):
    """The ``quantization_config`` of a checkpoint.

    Args:
        layers: {dotted name of a replaced module: {"kind": a key of ``ALL_KINDS``, and the sizes that build it}}; the
            names are those of the model that was saved.
        format_version: of this description.
        rewrites: names of exact changes that make the model faster; one that is not known, or does not fit the class
            that is loaded, is left out: the outputs are the same without it.
        **_: ``quant_method``, as transformers passes everything that :meth:`to_dict` returned.

    Raises:
        FormatError: the format is newer than ``FORMAT_VERSION``, or a layer's kind is unknown.
    """

    def __init__(
        self,
        layers: dict[str, dict[str, Any]],
        format_version: int = FORMAT_VERSION,
        rewrites: list[str] | None = None,
        **_: object,
    ) -> None:
        remedy = "upgrade autolr, or load with trust_remote_code=True, which runs the code the checkpoint brings along"
        if format_version > FORMAT_VERSION:
            raise FormatError(
                f"the checkpoint has format version {format_version}, this autolr knows {FORMAT_VERSION}: {remedy}"
            )
        empty = [name for name, spec in layers.items() if spec.get("rank") == 0]
        if format_version < FORMAT_VERSION and empty:
            raise FormatError(
                f"the checkpoint has format version {format_version}, in which layers of rank 0 ({empty[0]} first of "
                f"{len(empty)}) were stored otherwise: export it again from its study"
            )
        for name, spec in layers.items():
            if _class_of(spec.get("kind")) is None:
                raise FormatError(
                    f"layer {name!r} is of kind {spec.get('kind')!r}, "
                    f"known are {sorted(ALL_KINDS)} and those of installed packages: {remedy}"
                )
        self.quant_method = QUANT_METHOD  # type: ignore[assignment]  # a plain string serves; the enum is closed
        self.format_version = format_version
        self.layers = layers
        self.rewrites = list(rewrites or [])


class AutolrQuantizer(HfQuantizer):
    """Swaps the layers of an :class:`AutolrConfig` into a model whose weights are about to be loaded."""

    quantization_config: AutolrConfig
    format_version = FORMAT_VERSION

    def _process_model_before_weight_loading(self, model: "transformers.PreTrainedModel", **_: object) -> None:
        modules = dict(model.named_modules())
        for saved_name, spec in self.quantization_config.layers.items():
            name = _resolve(saved_name, modules, getattr(model, "base_model_prefix", ""))
            if name is not None:
                model.set_submodule(name, _build(spec, like=modules[name]))
        for rewrite in self.quantization_config.rewrites:
            if rewrite in REWRITES:
                apply(model, rewrite)
        expect_sign(model)

    def _process_model_after_weight_loading(self, model: "transformers.PreTrainedModel", **_: object) -> None:
        """Make it an ordinary model, and its class save it as a checkpoint again.

        With these marks .half(), Trainer and save_pretrained(state_dict=) balk.
        """
        for mark in ("is_quantized", "quantization_method", "hf_quantizer"):
            if mark in model.__dict__:
                delattr(model, mark)
        remove_own_entries(model.config)
        teach_saving(type(model))

    def is_serializable(self, safe_serialization: bool | None = None) -> bool:
        """Saving is plain ``save_pretrained``; the argument is that of transformers 4."""
        return True

    @property
    def is_trainable(self) -> bool:
        """The factors are ordinary parameters."""
        return True

    @property
    def is_qat_trainable(self) -> bool:
        """Trainer asks this before it trains without an adapter."""
        return True

    @property
    def is_compileable(self) -> bool:
        """The layers are plain torch."""
        return True


def register(replace: bool = True) -> None:
    """Tell transformers about the plug-in; a plug-in of a newer format that is already there stays.

    Args:
        replace: also take the place of a plug-in of the same format. autolr does; the copy inside a checkpoint does
            not, so that with autolr imported every model is built from autolr's own classes.
    """
    present = getattr(auto.AUTO_QUANTIZER_MAPPING.get(QUANT_METHOD), "format_version", 0)
    if present < FORMAT_VERSION or (replace and present == FORMAT_VERSION):
        # Assigned rather than passed to register_quantizer, which refuses a name it has seen.
        auto.AUTO_QUANTIZER_MAPPING[QUANT_METHOD] = AutolrQuantizer
        auto.AUTO_QUANTIZATION_CONFIG_MAPPING[QUANT_METHOD] = AutolrConfig


def _resolve(name: str, modules: dict[str, nn.Module], prefix: str) -> str | None:
    """Return the module's name in a model that has another head than the saved one, or none; None: not in this model.

    A layer that is not there (a pooler, a head) is left out, as its dense original would be.
    """
    return next((n for n in (name, name.removeprefix(f"{prefix}."), f"{prefix}.{name}") if n in modules), None)


def _build(spec: dict[str, Any], like: nn.Module) -> nn.Module:
    """Return the layer of a spec with the dtype of the dense one and on its device, which is meta while loading."""
    sizes = {key: value for key, value in spec.items() if key != "kind"}
    weight: Any = like.weight
    cls = _class_of(spec["kind"])
    assert cls is not None  # the configuration was checked
    arguments: dict[str, Any] = {**sizes, "device": weight.device, "dtype": weight.dtype}
    return cls(**arguments)


def _class_of(kind: Any) -> type[CompressedLinear] | None:
    """Return the class of a kind: of this file, or the layer of a form that an installed package registers."""
    if kind not in ALL_KINDS:
        for point in entry_points(group=ENTRY_POINTS):
            try:
                layer = getattr(point.load(), "layer", None)
            except (Exception, SystemExit) as error:  # a package's own code may do anything: whose it was is to be told
                package = point.dist.name if point.dist else "an installed package"
                raise FormatError(
                    f"{package}: the entry point {point.name} = {point.value} of {ENTRY_POINTS} cannot be loaded: "
                    f"{type(error).__name__}: {error}; mend or uninstall the package"
                ) from error
            if getattr(layer, "kind", None) == kind:
                return layer
    return ALL_KINDS.get(kind)


if __name__ == "autolr.checkpoint.plugin":  # not in the copies that travel with checkpoints
    register()
