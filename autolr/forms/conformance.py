"""The laws every form obeys, as one function, so that a third-party form can be tested with one call."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from autolr.checkpoint.runtime.layers import CompressedLinear
from autolr.forms.base import Form, Given
from autolr.forms.group_conformance import check_group, check_terms
from autolr.forms.table_conformance import check_table
from autolr.methods import METHODS
from autolr.methods.conformance import example_stats
from autolr.records import Choice, Unit

_SHAPES = ((24, 40), (40, 24), (16, 16), (5, 7))
_TOKENS = 200
_VECTORS = 3
_ROUNDING = 1e-3
"""Share of the largest error that a float32 layer may be wrong by."""


def check(form: Form, *, methods: Sequence[str] = ("svd", "losparse"), seed: int = 0) -> None:
    """Run a form through the laws on layers of several shapes, with and without a bias.

    Forms of several matrices and of tables have laws of their own: :func:`autolr.forms.group_conformance.check_group`
    and :func:`autolr.forms.table_conformance.check_table`.

    The laws: sizes are named and in order; every option builds, and its layer's kind is the form's name; the layer
    stores as many weights as :meth:`Form.weights` says and multiplies as often as :meth:`Form.products` says; it is
    cheaper than the dense layer at the smallest option; some of the shapes have options; a layer built from its own
    ``sizes`` takes its state and gives the same; its output is what ``dense_weight`` and ``bias`` say; it is exact on
    the mean input; errors are not negative, and by a method without needs each is the squared distance of the matrices;
    the option that is measured is one of the options; what is timed can be built, and its terms predict times that are
    a fixed part and one for each product with a weight.

    Args:
        form: the form to test.
        methods: whose decompositions it is made of, where it applies to them.
        seed: of the random layers.

    Raises:
        AssertionError: a law is broken; the message names the law, the case and the figure.

    Example:
        >>> from autolr.forms.low_rank import FORM
        >>> check(FORM)
    """
    if form.of == "embedding":
        check_table(form, seed)
        return
    if form.of != "matrix":
        check_group(form, seed)
        return
    assert form.layer.kind == form.name, f"the kind of {form.layer.__name__} is {form.layer.kind!r}, not {form.name!r}"
    random = torch.Generator().manual_seed(seed)
    applied = 0
    for out_features, in_features in _SHAPES:
        unit = Unit("layer", "layer", 0, 1, out_features, in_features)
        weight = torch.randn(out_features, in_features, generator=random)
        stats = example_stats(weight, _TOKENS, seed)
        for name in form.methods or methods:
            method = METHODS.get(name)
            if not form.applies(unit, method):
                continue
            decomposition = method.decompose(weight.double(), stats)
            for bias in (None, torch.randn(out_features, generator=random)):
                applied += _check_layer(form, Given(unit, name, decomposition, weight, stats.mean, bias))
    assert applied, f"{form.name} applies to none of the layers of {_SHAPES} by {', '.join(form.methods or methods)}"


def _check_layer(form: Form, given: Given) -> bool:
    """Check the options of a layer; tell whether it has any."""
    unit, label = given.unit, f"{form.name}, {given.unit.out_features} x {given.unit.in_features}, {given.method}"
    choices, errors = form.options(given, 1)
    assert len(choices) == len(errors), f"{label}: {len(choices)} options, {len(errors)} errors"
    if not choices:
        assert not form.timed(unit), f"{label}: choices are timed where none is offered"
        return False
    errors = np.asarray(errors, dtype=np.float64)
    assert (errors >= -_ROUNDING * errors.max()).all(), f"{label}: an error is {errors.min()}"
    smallest = min(form.weights(unit, choice) for choice in choices)
    assert smallest < unit.weights, f"{label}: the smallest option has {smallest} of {unit.weights} weights"
    place = form.reference(unit, choices, errors)
    assert 0 <= place < len(choices), f"{label}: option {place} of {len(choices)} is measured"
    for choice, error in zip(choices, errors, strict=True):
        _check_choice(form, given, choice, f"{label}, {dict(choice.sizes)}")
        if not METHODS.get(given.method).needs:
            gap = given.weight.double() - form.build(given, choice, given.weight).dense_weight()
            exact = float(gap.detach().square().sum())
            assert abs(exact - error) <= _ROUNDING * errors.max(), f"{label}: the error is {exact}, not {error}"
    _check_times(form, unit, label)
    return True


def _check_choice(form: Form, given: Given, choice: Choice, label: str) -> None:
    unit = given.unit
    assert (choice.form, choice.method) == (form.name, given.method), f"{label}: the choice is {choice}"
    assert [name for name, _ in choice.sizes] == list(form.sizes), f"{label}: sizes are {choice.sizes}"
    layer = form.build(given, choice, given.weight)
    weights = sum(parameter.numel() for parameter in layer.parameters()) - unit.out_features
    told = form.weights(unit, choice)
    assert weights == told, f"{label}: the layer has {weights} weights beside its bias, not {told}"
    index_bytes = sum(b.numel() * b.element_size() for b in layer.buffers())
    assert index_bytes == form.index_bytes(unit, choice), f"{label}: buffers of {index_bytes} bytes"
    x = torch.randn(_VECTORS, unit.in_features, generator=torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = layer(x)
    flops = counter.get_total_flops()
    wanted = 2 * _VECTORS * sum(form.products(unit, choice).values())
    assert flops == wanted, f"{label}: {flops} FLOPs for {_VECTORS} vectors, not {wanted}"
    _check_output(layer, x, output, given, label)
    arguments: dict[str, Any] = {**layer.sizes()}
    copy = type(layer)(**arguments)
    copy.load_state_dict(layer.state_dict())
    assert torch.equal(copy(x), output), f"{label}: a layer built from its sizes and state gives something else"
    assert form.arguments(unit, choice) == layer.sizes(), f"{label}: arguments {form.arguments(unit, choice)}"
    assert form.describe(choice), f"{label}: no description"


def _check_output(layer: CompressedLinear, x: Tensor, output: Tensor, given: Given, label: str) -> None:
    said = x.double() @ layer.dense_weight().mT + layer.bias.double()
    scale = float(said.detach().abs().max()) or 1.0
    wrong = float((output.double() - said).detach().abs().max())
    assert wrong <= _ROUNDING * scale, f"{label}: the output is {wrong} off dense_weight and bias"
    assert given.mean is not None
    dense = given.weight.double() @ given.mean + (0.0 if given.bias is None else given.bias.double())
    with torch.no_grad():
        off = float((layer(given.mean.to(x)).double() - dense).abs().max())
    size = float(given.weight.double().norm() * given.mean.norm())
    assert off <= _ROUNDING * size, f"{label}: the output for the mean input is {off} off the dense layer's"


def _check_times(form: Form, unit: Unit, label: str) -> None:
    timed = form.timed(unit)
    assert timed, f"{label}: nothing is timed"
    for choice in timed:
        layer = form.empty(unit, choice, torch.empty(0))
        assert layer.sizes() == form.arguments(unit, choice), f"{label}: {choice.sizes} builds {layer.sizes()}"
    check_terms(form, unit, timed, label)
