"""The laws of a form of several matrices, as :mod:`autolr.forms.conformance` runs them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autolr.checkpoint.runtime.layers import CompressedLinear
from autolr.forms.base import Form, Given, Matrix
from autolr.methods import METHODS
from autolr.methods.conformance import example_stats
from autolr.records import Choice, Heads, Unit
from autolr.types import Method

_TOKENS = 400
_NEURONS, _IN, _OUT = 24, 10, 12
_ROUNDING = 1e-3
_BUILT = 40
"""About so many of the options are built."""


def example_unit(makers: int) -> Unit:
    """Return a unit of one or two matrices that make neurons and one that reads them."""
    made = tuple(Unit(f"up{index}", "up", 0, 1, _NEURONS, _IN) for index in range(makers))
    reader = Unit("down", "down", 0, 1, _OUT, _NEURONS)
    return Unit("group", "group", 0, 1, _OUT, _IN, matrices=(*made, reader), of="neurons")


def example_attention(of: str, queries: int) -> Unit:
    """Return a unit of an attention's matrices, with so many query heads for each head of key and value.

    Args:
        of: ``heads``, ``value-output`` or ``query-key``.
        queries: 1, or more for grouped-query attention.
    """
    heads = Heads(_NEURONS // 4 // queries, queries, 4)
    narrow = heads.groups * heads.width
    sizes = {"query": _NEURONS, "key": narrow, "value": narrow}
    matrices = {name: Unit(name, name, 0, 1, size, _IN) for name, size in sizes.items()}
    matrices["output"] = Unit("output", "output", 0, 1, _OUT, _NEURONS)
    parts = tuple(matrices[name] for name in (of.split("-") if "-" in of else matrices))
    return Unit("group", "group", 0, 1, parts[-1].out_features, _IN, matrices=parts, of=of, heads=heads)


def check_group(form: Form, seed: int) -> None:
    """Run a form of several matrices through its laws, on units of the kind that its methods are for.

    Those are one and two matrices that make neurons, or attention with one and with two query heads for each key.

    The laws: options build a layer for each module of the unit; together they store as many weights, bias entries
    and bytes of places as the form says, and multiply by as many weights; errors are not negative and never grow with
    the weights that stay (of a form with several sizes, at each value of the first); each layer is built anew by its
    own ``sizes`` and state; what is timed can be built and run, and its terms predict times that are a fixed part and
    one for each weight.

    Raises:
        AssertionError: a law is broken; the message names the law, the case and the figure.
    """
    random = torch.Generator().manual_seed(seed)
    for name in form.methods:
        method = METHODS.get(name)
        for size in (1, 2):
            unit = example_unit(size) if method.of == "neurons" else example_attention(method.of, size)
            assert form.applies(unit, method), f"{form.name} does not apply to {method.of} by {name}"
            _check_options(form, _given(unit, method, random, seed))


def _given(unit: Unit, method: Method, random: torch.Generator, seed: int) -> Given:
    """Return a unit with random weights, decomposed."""
    weights = [torch.randn(m.out_features, m.in_features, generator=random) for m in unit.matrices]
    stats = [example_stats(weight, _TOKENS, seed) for weight in weights]
    *before, last = [
        Matrix(matrix, weight, torch.randn(len(weight), generator=random), measured.mean)
        for matrix, weight, measured in zip(unit.matrices, weights, stats, strict=True)
    ]
    more: list[Any] = [unit.heads] if unit.heads else []
    if unit.of == "query-key":
        more.append([matrix.bias for matrix in (*before, last)])
    made = method.decompose([weight.double() for weight in weights], stats, *more)
    return Given(unit, method.name, made, last.weight, last.mean, last.bias, tuple(before))


def _check_options(form: Form, given: Given) -> None:
    unit, label = given.unit, f"{form.name}, {len(given.before)} that make, {given.method}"
    choices, errors = form.options(given, 1)
    assert len(choices) == len(errors) > 0, f"{label}: {len(choices)} options, {len(errors)} errors"
    weights = np.array([form.weights(unit, choice) for choice in choices])
    assert (weights < unit.weights).all(), f"{label}: an option has as many weights as the dense unit"
    errors = np.asarray(errors)
    slack = _ROUNDING * float(errors.max())
    assert (errors >= -slack).all(), f"{label}: an error is {errors.min()}"
    _check_growth(choices, weights, errors, slack, label)
    for choice in choices[:: max(1, len(choices) // _BUILT)]:
        _check_layers(form, given, choice, f"{label}, {dict(choice.sizes)}")
    timed = form.timed(unit)
    for choice in timed:
        empty = form.empty_layers(unit, choice, torch.empty(0))
        assert set(empty) == set(unit.modules), f"{label}: timed {choice.sizes} has layers for {sorted(empty)}"
        _check_run(form, unit, empty, f"{label}: timed {choice.sizes}")
    check_terms(form, unit, timed, label)


def check_terms(form: Form, unit: Unit, timed: Sequence[Choice], label: str) -> None:
    """Check that a form's terms predict times that are a fixed part and one for each product with a weight."""
    terms = np.array([form.terms(unit, choice) for choice in timed])
    assert (terms >= 0).all(), f"{label}: a term is {terms.min()}"
    times = np.array([1.0 + sum(form.products(unit, choice).values()) for choice in timed])
    _, off = nnls(terms / times[:, None], np.ones(len(times)))
    assert off <= _ROUNDING, f"{label}: times that grow with the weights are predicted {off} off by the terms"


def _check_run(form: Form, unit: Unit, layers: Mapping[str, nn.Module], label: str) -> None:
    """Check that the layers can be run together, on the inputs of the dense ones."""
    inputs = {matrix.name: torch.zeros(2, 3, matrix.in_features) for matrix in unit.matrices}
    shape = tuple(form.run(unit, layers, inputs, torch.relu).shape)
    assert shape == (2, 3, unit.out_features), f"{label} gives {shape} where the unit gives (2, 3, {unit.out_features})"


def _check_growth(choices: Sequence[Choice], weights: np.ndarray, errors: np.ndarray, slack: float, label: str) -> None:
    """Check that errors do not grow with the weights; where a choice has several sizes, at equal first ones."""
    several = len(choices[0].sizes) > 1
    first = [choice.sizes[0][1] if several else 0 for choice in choices]
    for group in sorted(set(first)):
        at = [place for place, size in enumerate(first) if size == group]
        in_order = errors[at][np.argsort(weights[at], kind="stable")]
        assert (np.diff(in_order) <= slack).all(), f"{label}: an error grows with the weights that stay"


def _check_layers(form: Form, given: Given, choice: Choice, label: str) -> None:
    unit = given.unit
    layers = form.layers(given, choice, given.weight)
    assert set(layers) == set(unit.modules), f"{label}: layers for {sorted(layers)}"
    biased = {matrix.name for matrix in unit.matrices}
    stored = sum(parameter.numel() for layer in layers.values() for parameter in layer.parameters())
    told = form.weights(unit, choice) + form.bias_entries(unit, choice, biased)
    assert stored == told, f"{label}: {stored} weights and bias entries, not {told}"
    places = sum(b.numel() * b.element_size() for layer in layers.values() for b in layer.buffers())
    assert places == form.index_bytes(unit, choice), f"{label}: buffers of {places} bytes"
    flops = sum(_flops(layer) for layer in layers.values())
    assert flops == 2 * form.weights(unit, choice), f"{label}: {flops} FLOPs for one vector"
    for layer in layers.values():
        arguments: dict[str, Any] = {**layer.sizes()}
        copy = type(layer)(**arguments)
        copy.load_state_dict(layer.state_dict())
        x = torch.randn(3, layer.in_features)
        assert torch.equal(copy(x), layer(x)), f"{label}: a layer built from its sizes and state gives something else"


def _flops(layer: CompressedLinear) -> int:
    x: Tensor = torch.randn(1, layer.in_features)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        layer(x)
    return int(counter.get_total_flops())
