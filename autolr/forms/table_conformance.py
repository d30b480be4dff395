"""The laws of a form of a table of token vectors, as :mod:`autolr.forms.conformance` runs them."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from autolr.forms.base import Form, Given
from autolr.forms.group_conformance import check_terms
from autolr.methods import METHODS
from autolr.methods.table_conformance import example_table_stats
from autolr.records import Choice, Table

_SHAPES = ((300, 24), (24, 40), (40, 17))
"""Tokens and dimensions."""
_TOKENS = 400
_ROUNDING = 1e-3
"""Share of the largest error that a float32 layer may be wrong by."""
_BUILT = 40
"""About so many of the options are built."""


def check_table(form: Form, seed: int) -> None:
    """Run a form of a table through its laws, on tables of several shapes.

    The laws: the layer's kind is the form's name, and it stores as many weights and bytes as the form says; it
    multiplies each vector by as many weights as :meth:`Form.multiplied` says, as torch counts them; errors are not
    negative and never grow with one size while the other stays; the layer gives what its ``dense_weight`` says, and is
    built anew by its own ``sizes`` and state; what is timed can be built, and its terms predict times that are a fixed
    part and one for each weight that is multiplied.

    Raises:
        AssertionError: a law is broken; the message names the law, the case and the figure.
    """
    assert form.layer.kind == form.name, f"the kind of {form.layer.__name__} is {form.layer.kind!r}, not {form.name!r}"
    random = torch.Generator().manual_seed(seed)
    for tokens, dim in _SHAPES:
        unit = Table("table", "table", -1, 1, dim, tokens, True)
        weight = torch.randn(tokens, dim, generator=random).mT
        stats = example_table_stats(weight, _TOKENS, seed)
        for name in form.methods:
            method = METHODS.get(name)
            assert form.applies(unit, method), f"{form.name} does not apply to a table by {name}"
            given = Given(unit, name, method.decompose(weight.double(), stats), weight, stats.mean)
            _check_options(form, given, f"{form.name}, {tokens} tokens of {dim}, {name}")


def _check_options(form: Form, given: Given, label: str) -> None:
    unit = given.unit
    choices, errors = form.options(given, 1)
    assert len(choices) == len(errors) > 0, f"{label}: {len(choices)} options, {len(errors)} errors"
    errors = np.asarray(errors)
    slack = _ROUNDING * float(errors.max())
    assert (errors >= -slack).all(), f"{label}: an error is {errors.min()}"
    for place in range(len(form.sizes)):
        _check_growth(choices, errors, place, slack, label)
    place = form.reference(unit, choices, errors)
    assert 0 <= place < len(choices), f"{label}: option {place} of {len(choices)} is measured"
    for choice in choices[:: max(1, len(choices) // _BUILT)]:
        assert form.weights(unit, choice) < unit.weights, f"{label}: {choice.sizes} has as many weights as the table"
        _check_layer(form, given, choice, f"{label}, {dict(choice.sizes)}")
    timed = form.timed(unit)
    assert timed, f"{label}: nothing is timed"
    for choice in timed:
        empty = form.empty(unit, choice, torch.empty(0))
        assert empty.sizes() == form.arguments(unit, choice), f"{label}: {choice.sizes} builds {empty.sizes()}"
    check_terms(form, unit, timed, label)


def _check_growth(choices: Any, errors: np.ndarray, place: int, slack: float, label: str) -> None:
    """Check that errors do not grow with a size while the others stay."""
    others = [[size for number, size in enumerate(choice.sizes) if number != place] for choice in choices]
    for other in {tuple(sizes) for sizes in others}:
        at = [number for number, sizes in enumerate(others) if tuple(sizes) == other]
        at.sort(key=lambda number: choices[number].sizes[place][1])
        assert (np.diff(errors[at]) <= slack).all(), f"{label}: an error grows with {choices[0].sizes[place][0]}"


def _check_layer(form: Form, given: Given, choice: Choice, label: str) -> None:
    unit = given.unit
    assert [name for name, _ in choice.sizes] == list(form.sizes), f"{label}: sizes are {choice.sizes}"
    layer = form.build(given, choice, given.weight)
    layer.requires_grad_(False)  # torch's counter fails on a look-up that has gradients
    stored = sum(parameter.numel() for parameter in layer.parameters())
    told = form.weights(unit, choice) + form.bias_entries(unit, choice, set())
    assert stored == told, f"{label}: {stored} weights and bias entries, not {told}"
    index_bytes = sum(b.numel() * b.element_size() for b in layer.buffers())
    assert index_bytes == form.index_bytes(unit, choice), f"{label}: buffers of {index_bytes} bytes"
    tokens = torch.arange(unit.in_features)[None]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output: Tensor = layer(tokens)
    wanted = 2 * unit.in_features * form.multiplied(unit, choice)
    assert counter.get_total_flops() == wanted, f"{label}: {counter.get_total_flops()} FLOPs, not {wanted}"
    off = float((output[0].double() - layer.dense_weight().mT).detach().abs().max())
    scale = float(given.weight.abs().max())
    assert off <= _ROUNDING * scale, f"{label}: the output is {off} off dense_weight"
    arguments: dict[str, Any] = {**layer.sizes()}
    copy = type(layer)(**arguments)
    copy.load_state_dict(layer.state_dict())
    assert torch.equal(copy(tokens), output), f"{label}: a layer built from its sizes and state gives something else"
    assert form.arguments(unit, choice) == layer.sizes(), f"{label}: arguments {form.arguments(unit, choice)}"
    assert form.describe(choice), f"{label}: no description"
