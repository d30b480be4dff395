"""The bank: statistics and decompositions on disk, computed once, memory-mapped, keyed by content.

    bank/statistics/<unit>.safetensors        mean, Gram, Fisher … of one layer
    bank/<method>/<unit>.safetensors          left, right to break-even rank (float32), the whole spectrum (float64)

Every file carries the key of what it was computed from (weights, calibration data and settings, the method's version)
and a checksum of what it holds. A file with another key or a wrong checksum is rebuilt, never used.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from autolr.errors import AutolrError, FactorizationError
from autolr.machine.temporary import passing_folder
from autolr.machine.tensor_digest import tensor_digest
from autolr.machine.tensor_file import check_readable, save_tensors
from autolr.methods import get_methods
from autolr.methods.packed import Result, packed, unpacked
from autolr.model.units import unit_bias, unit_weight
from autolr.types import LayerStats, Method, Unit

FORMAT = 1
STATISTICS = "statistics"
Calibrate = Callable[[Sequence[Unit]], Iterator[tuple[Unit, LayerStats]]]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Summary:
    """The small part of a layer's statistics, kept in memory.

    Attributes:
        mean: E[x], (in,) float64.
        n_tokens: live tokens seen.
        tokens_per_example: mean number of them in a sequence.
    """

    mean: Float[Tensor, " in"]
    n_tokens: int
    tokens_per_example: float


class Bank:
    """Decompositions of one model under one calibration.

    Args:
        directory: where the files are; created when something is written.
        model: the dense model the decompositions belong to.
        units: its compressible layers, and groups of them, whose neurons are ordered.
        calibration_key: identifies the calibration data and settings and the whole model, since a layer's statistics
            depend on the layers before and behind it.
        dtype: of the stored factors.
    """

    def __init__(
        self,
        directory: Path,
        model: nn.Module,
        units: Sequence[Unit],
        calibration_key: str,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.directory = directory
        self.units = tuple(units)
        self._matrices = tuple(unit for unit in units if not unit.matrices)
        self._units = {unit.name: unit for unit in units}
        self.model = model
        self._calibration_key = calibration_key
        self._dtype = dtype
        self._weight_keys: dict[str, str] = {}
        self._open: dict[tuple[str, str], Result] = {}
        self._summaries: dict[str, Summary] = {}
        self._methods: dict[str, Method] = {}

    def build(
        self, methods: Sequence[Method], calibrate: Calibrate, progress: Progress = lambda *_: None
    ) -> list[tuple[str, str]]:
        """Compute whatever is missing, foreign or damaged.

        Args:
            methods: which methods' decompositions to have.
            calibrate: measures the statistics of the units it is given, with what ``methods`` need; called only for
                those that lack them, or that were measured without the gradients that one of these methods needs.
            progress: told (what, done, total).

        Returns:
            The (method, unit) pairs that were computed; statistics appear under the method name "statistics".

        Raises:
            FactorizationError: a decomposition failed or is wrong; names the unit and the method.
            UsageError: what is on disk may not be read.
        """
        self._methods.update({method.name: method for method in methods})
        with ExitStack() as stack:

            @cache
            def folder() -> Path:
                self.directory.mkdir(parents=True, exist_ok=True)
                return stack.enter_context(passing_folder(self.directory, "writing-"))

            return self._built(methods, calibrate, progress, folder)

    def _built(
        self, methods: Sequence[Method], calibrate: Calibrate, progress: Progress, folder: Callable[[], Path]
    ) -> list[tuple[str, str]]:
        """See :meth:`build`; files are written in a folder of this process before they take their places."""
        computed: list[tuple[str, str]] = []
        missing = [unit for unit in self._matrices if not self._has_statistics_for(unit, methods)]
        if missing:
            for unit, stats in calibrate(missing):
                self._write(STATISTICS, unit, self._stats_key(unit), _pack_stats(stats), folder)
                computed.append((STATISTICS, unit.name))
        for done, unit in enumerate(self.units):
            fitting = [method for method in methods if method.fits(unit)]
            wanted = [method for method in fitting if self._read(method.name, unit, self._key(method, unit)) is None]
            measured = [self.stats(matrix.name) for matrix in matrices_of(unit)] if wanted else []
            for method in wanted:
                self._write(method.name, unit, self._key(method, unit), self._decompose(method, unit, measured), folder)
                self._open.pop((unit.name, method.name), None)
                computed.append((method.name, unit.name))
            progress("decompose", done + 1, len(self.units))
        return computed

    def _has_statistics_for(self, unit: Unit, methods: Sequence[Method]) -> bool:
        """Tell whether a unit's statistics are on disk, with what a method still to come reads of them."""
        stats = self._read_stats(unit)
        if stats is None:
            return False
        lacks = {need for need, value in (("gradients", stats.fisher_in), ("masks", stats.mask_gram)) if value is None}
        users = [unit, *(group for group in self.units if unit in group.matrices)]
        return all(
            self._read(method.name, user, self._key(method, user)) is not None
            for user in users
            for method in methods
            if method.fits(user) and lacks & (method.needs if unit == reader(user) else method.needs - {"masks"})
        )

    def complete(self, methods: Sequence[Method]) -> bool:
        """Tell whether everything these methods need is on disk, sound and of this model and calibration."""
        self._methods.update({method.name: method for method in methods})
        return all(
            (unit.matrices or self._read_stats(unit) is not None)
            and all(
                self._read(method.name, unit, self._key(method, unit)) is not None
                for method in methods
                if method.fits(unit)
            )
            for unit in self.units
        )

    def present(self, methods: Sequence[Method]) -> bool:
        """Tell whether everything these methods need is on disk under the right keys; contents are not checked."""
        self._methods.update({method.name: method for method in methods})
        return all(
            self._key_on_disk(path) == (self._key(method, unit) if method else self._stats_key(unit))
            for unit in self.units
            for method, path in self._files_of(unit, methods)
        )

    def files(self, methods: Sequence[Method]) -> dict[str, Path]:
        """Return the files that these methods need, by their place in the bank's folder."""
        paths = [path for unit in self.units for _, path in self._files_of(unit, methods)]
        return {str(path.relative_to(self.directory)): path for path in paths}

    def unit(self, name: str) -> Unit:
        """Return the unit of this name."""
        return self._units[name]

    def stats(self, name: str) -> LayerStats:
        """Return a unit's statistics.

        Raises:
            AutolrError: they are not on disk, or damaged.
        """
        stats = self._read_stats(self._units[name])
        if stats is None:
            raise AutolrError(f"the bank at {self.directory} has no usable statistics of {name}; build it again")
        return stats

    def mean(self, name: str) -> Float[Tensor, " in"]:
        """Return the mean input of a unit, of several matrices of the last, (in,) float64."""
        return self.summary(name).mean

    def summary(self, name: str) -> Summary:
        """Return the small part of a unit's statistics."""
        name = reader(self._units[name]).name
        if name not in self._summaries:
            stats = self.stats(name)
            self._summaries[name] = Summary(stats.mean.clone(), stats.n_tokens, stats.tokens_per_example)
        return self._summaries[name]

    def decomposition(self, name: str, method: str) -> Any:
        """Return a unit's Decomposition, of several matrices the Elimination, memory-mapped.

        It is checked against its key and checksum at first use.

        Raises:
            AutolrError: it is not on disk, foreign or damaged.
        """
        if (name, method) not in self._open:
            unit = self._units[name]
            known = self._methods.get(method) or get_methods([method])[0]
            tensors = self._read(method, unit, self._key(known, unit))
            if tensors is None:
                raise AutolrError(f"the bank at {self.directory} has no usable {method} of {name}; build it again")
            self._open[name, method] = unpacked(tensors, known)
        return self._open[name, method]

    def _decompose(self, method: Method, unit: Unit, stats: Sequence[LayerStats]) -> dict[str, Tensor]:
        try:
            return self._sound(method, unit, stats if method.needs else None)
        except (FactorizationError, torch.linalg.LinAlgError) as error:  # type: ignore[attr-defined]
            raise FactorizationError(f"{method.name} of {unit.name}: {error}") from error
        except Exception as error:  # a package's own method may raise anything: whose it was is to be told
            told = f"{type(error).__name__}: {error}"
            raise FactorizationError(f"{method.name} of {unit.name}: the method failed with {told}") from error

    def _sound(self, method: Method, unit: Unit, stats: Sequence[LayerStats] | None) -> dict[str, Tensor]:
        """Return what is stored of a decomposition, after checking it."""
        weights = self._weights(unit)
        biases = [unit_bias(self.model, matrix) for matrix in matrices_of(unit)]
        made = _decomposed(method, unit, weights, biases, stats, _fast_device(weights[-1]))
        return packed(made, method, unit, weights, self._dtype)

    def _weights(self, unit: Unit) -> list[Tensor]:
        """Return the weights of a unit's matrices, in their order."""
        return [unit_weight(self.model, matrix) for matrix in matrices_of(unit)]

    def _weight_key(self, unit: Unit) -> str:
        if unit.name not in self._weight_keys:
            weights = self._weights(unit)
            names = ["weight"] if len(weights) == 1 else [f"weight {place}" for place in range(len(weights))]
            self._weight_keys[unit.name] = tensor_digest(dict(zip(names, weights, strict=True)))
        return self._weight_keys[unit.name]

    def _stats_key(self, unit: Unit) -> str:
        return _hash(FORMAT, STATISTICS, unit.name, self._calibration_key)

    def _key(self, method: Method, unit: Unit) -> str:
        calibration = self._calibration_key if method.needs else ""
        return _hash(
            FORMAT, method.name, method.version, self._weight_key(unit), calibration, unit.name, str(self._dtype)
        )

    def _path(self, kind: str, unit: Unit) -> Path:
        return self.directory / kind / f"{unit.name}.safetensors"

    def _files_of(self, unit: Unit, methods: Sequence[Method]) -> list[tuple[Method | None, Path]]:
        """Return the unit's files: its statistics and each method's decomposition."""
        files: list[tuple[Method | None, Path]] = [] if unit.matrices else [(None, self._path(STATISTICS, unit))]
        return files + [(method, self._path(method.name, unit)) for method in methods if method.fits(unit)]

    @staticmethod
    def _key_on_disk(path: Path) -> str | None:
        check_readable(path)
        try:
            with safe_open(path, framework="pt") as file:
                return (file.metadata() or {}).get("key")
        except (SafetensorError, OSError):
            return None

    def _read_stats(self, unit: Unit) -> LayerStats | None:
        tensors = self._read(STATISTICS, unit, self._stats_key(unit))
        return None if tensors is None else _unpack_stats(tensors)

    def _read(self, kind: str, unit: Unit, key: str) -> dict[str, Tensor] | None:
        """Return a file's tensors, or None if it is absent, foreign or damaged."""
        path = self._path(kind, unit)
        check_readable(path)
        if not path.is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if (metadata.get("key"), metadata.get("unit")) != (key, unit.name):
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
        except (SafetensorError, OSError):
            return None
        return tensors if metadata.get("checksum") == tensor_digest(tensors) else None

    def _write(
        self, kind: str, unit: Unit, key: str, tensors: Mapping[str, Tensor], folder: Callable[[], Path]
    ) -> None:
        path = self._path(kind, unit)
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous().cpu() for name, tensor in tensors.items()}
        temporary = folder() / path.name
        save_tensors(tensors, temporary, {"key": key, "checksum": tensor_digest(tensors), "unit": unit.name})
        temporary.replace(path)


def reader(unit: Unit) -> Unit:
    """Return the matrix whose statistics a unit's decompositions rest on: itself, or the last of several."""
    return unit.matrices[-1] if unit.matrices else unit


def masked_readers(units: Sequence[Unit], methods: Sequence[Method]) -> frozenset[str]:
    """Return the names of the matrices whose inputs' masks some method reads the gradients of."""
    return frozenset(
        reader(unit).name for unit in units if any("masks" in method.needs and method.fits(unit) for method in methods)
    )


def matrices_of(unit: Unit) -> tuple[Unit, ...]:
    """Return a unit's matrices: itself, where it is one."""
    return unit.matrices or (unit,)


def _hash(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _fast_device(weight: Tensor) -> torch.device:
    """Return where a weight is decomposed: on its own device where that computes in float64."""
    return weight.device if weight.device.type == "cuda" else torch.device("cpu")


def _decomposed(
    method: Method,
    unit: Unit,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor | None],
    stats: Sequence[LayerStats] | None,
    device: torch.device,
) -> object:
    """Return what a method makes of weights, on the CPU where the device has too little memory or its solver fails."""

    def made(where: torch.device) -> object:
        copies = [weight.to(where, torch.float64, copy=True) for weight in weights]  # a method may write into them
        measured = None if stats is None else [layer.to(where) for layer in stats]
        if not unit.matrices:
            return method.decompose(copies[0], None if measured is None else measured[0])
        if method.of == "neurons":
            return method.decompose(copies, measured)
        if method.of != "query-key":
            return method.decompose(copies, measured, unit.heads)
        own = [None if bias is None else bias.to(where, torch.float64, copy=True) for bias in biases]
        return method.decompose(copies, measured, unit.heads, own)

    cpu = torch.device("cpu")
    try:
        return made(device)
    except (torch.OutOfMemoryError, FactorizationError, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        if device == cpu:
            raise
        return made(cpu)


def _pack_stats(stats: LayerStats) -> dict[str, Tensor]:
    packed = {"counts": torch.tensor([stats.n_tokens, stats.n_examples])}
    for name in ("mean", "in_gram", "mean_abs", "fisher_in", "out_gram", "mask_gram"):
        if (value := getattr(stats, name)) is not None:
            packed[name] = value
    return packed


def _unpack_stats(tensors: dict[str, Tensor]) -> LayerStats:
    n_tokens, n_examples = tensors["counts"].tolist()
    rest = {name: value for name, value in tensors.items() if name != "counts"}
    return LayerStats(n_tokens, n_examples, **rest)
