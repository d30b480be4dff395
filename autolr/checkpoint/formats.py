"""The table of checkpoint formats: how a compressed model is written, and read again to prove what was written.

How to add one: write :class:`Format`'s two functions and name the record in the entry-point group ``autolr.formats``::

    [project.entry-points."autolr.formats"]
    mine = "mypackage.mymodule:FORMAT"

Nothing has to load by transformers: ``reload`` returns any function of a batch. :func:`check` states the laws.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from autolr.checkpoint.dense import homeless_biases, save_dense
from autolr.checkpoint.runtime.rewrites import applied
from autolr.checkpoint.save import compressed_layers, save_checkpoint
from autolr.checkpoint.verify import Reloaded, reload_model, verify
from autolr.registry import Registry

Write = Callable[[PreTrainedModel, PreTrainedTokenizerBase | None, str | None, Path], None]
Reload = Callable[[Path, PreTrainedModel], Reloaded]


@dataclass(frozen=True)
class Format:
    """A way to write a compressed model to disk.

    Attributes:
        name: how it is named on the command line.
        help: what it is, in a line.
        write: ``(model, tokenizer or None, text of the card or None, directory) -> None``: writes the model as it is
            in memory, its candidate's layers in place; the directory is written whole or not at all (see
            :func:`autolr.checkpoint.directory.replaced_directory`).
        reload: ``(directory, model that was written) -> Reloaded``: reads it again as its user will; of the model only
            the device and the configuration may be used, never a weight.
        loading: Markdown for the model card, how to load it; ``{auto}`` becomes the Auto class of transformers.
        tolerance: data type -> largest difference of a logit that is allowed after reading a compressed model again;
            a type that is absent: none, bit for bit.
        keeps_layers: low-rank layers stay low-rank layers when it is loaded by transformers, so that the card tells how
            adapters are trained on them.
        homeless: ``(compressed model) -> names`` of layers whose biases this format has no place for: they are folded
            into the weights before it is written; None: it has a place for all.
    """

    name: str
    help: str
    write: Write
    reload: Reload
    loading: str
    tolerance: Mapping[str, float] = field(default_factory=dict)
    keeps_layers: bool = True
    homeless: Callable[[PreTrainedModel], list[str]] | None = None

    def allowed(self, model: PreTrainedModel) -> float:
        """Return the largest difference of a logit allowed of this model: none where nothing of it is compressed."""
        if not changed(model):
            return 0.0
        return self.tolerance.get(str(model.dtype).removeprefix("torch."), 0.0)


def changed(model: PreTrainedModel) -> bool:
    """Tell whether a model is another than its dense architecture: by low-rank layers, or by rewrites alone."""
    return bool(compressed_layers(model) or applied(model))


def _write_layers(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, card: str | None, directory: Path
) -> None:
    (save_checkpoint if changed(model) else save_dense)(model, directory, tokenizer, card)


def _write_dense(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, card: str | None, directory: Path
) -> None:
    save_dense(model, directory, tokenizer, card)


_LOAD_LAYERS = """```python
import autolr  # registers the low-rank layers with transformers
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("path/to/this/directory")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/directory")
```

Without autolr installed, pass `trust_remote_code=True` instead of importing it. Without either, transformers refuses.
"""
_LOAD_DENSE = """```python
from transformers import {auto}, AutoTokenizer

model = {auto}.from_pretrained("path/to/this/directory")
tokenizer = AutoTokenizer.from_pretrained("path/to/this/directory")
```

The factors are multiplied out into ordinary weights: it loads anywhere, and is neither smaller nor faster than the
dense model.
"""

HF = Format(
    name="hf",
    help="low-rank layers",
    write=_write_layers,
    reload=reload_model,
    loading=_LOAD_LAYERS,
)
DENSE = Format(
    name="dense",
    help="multiplied out",
    write=_write_dense,
    reload=reload_model,
    loading=_LOAD_DENSE,
    tolerance={"float32": 1e-3, "float16": 0.1, "bfloat16": 0.5},  # rounding of the product
    keeps_layers=False,
    homeless=homeless_biases,
)


def _built_in() -> Iterable[Format]:
    return HF, DENSE


FORMATS = Registry("format", Format, _built_in)
"""Every format by name: the built-in ones, and those of installed packages."""


def check(kind: Format, model: PreTrainedModel, batches: Iterable[Mapping[str, Tensor]], folder: Path) -> None:
    """Run a format through its laws: what is written reads again to the same logits, and the model stays as it was.

    Args:
        kind: the record to test.
        model: compressed, on the CPU.
        batches: tokenized, without labels.
        folder: empty, to write to.

    Raises:
        AssertionError: a law is broken; the message names it.
    """
    asked = list(batches)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    kind.write(model, None, "# A card", folder / "written")
    after = model.state_dict()
    same = before.keys() == after.keys() and all(bool((before[name] == after[name]).all()) for name in before)
    assert same, f"writing {kind.name} changed the model"
    difference = verify(model, kind.reload(folder / "written", model), asked, kind.allowed(model))
    assert difference <= kind.allowed(model), f"{kind.name} reads again to logits that differ by {difference:g}"
    assert kind.loading.strip(), f"{kind.name} must say how it is loaded"
