"""What is timed of a unit is what the model runs: its matrices together, and what its form runs between them."""

from collections.abc import Mapping

import pytest
import torch
from tiny import sized
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.flop_counter import FlopCounterMode
from transformers import BertConfig, BertForSequenceClassification
from transformers.activations import ACT2FN

from autolr.checkpoint.runtime import rewrites
from autolr.cost import time_layers as timing
from autolr.cost.time_layers import shapes_of, time_layers
from autolr.forms import FORMS
from autolr.forms import heads as heads_form
from autolr.model.units import find_units
from autolr.records import Heads
from autolr.results.bench import Timing
from autolr.types import Conditions, Unit

CONDITIONS = Conditions(2, 6, "float32")
HEADS, SIZE = 4, 8


def blocks(layers: int = 2) -> BertForSequenceClassification:
    torch.manual_seed(0)
    sizes = {"hidden_size": HEADS * SIZE, "intermediate_size": 64, "num_hidden_layers": layers}
    return BertForSequenceClassification(BertConfig(**sizes, num_attention_heads=HEADS, vocab_size=50)).eval()


def attention(units: Mapping[str, Unit], block: int) -> Unit:
    inside = f"bert.encoder.layer.{block}.attention"
    names = ("self.query", "self.key", "self.value", "output.dense")
    matrices = tuple(units[f"{inside}.{name}"] for name in names)
    wide, heads = HEADS * SIZE, Heads(HEADS, 1, SIZE)
    return Unit(inside, "attention", block, 2, wide, wide, matrices=matrices, of="heads", heads=heads)


def feed_forward(units: Mapping[str, Unit]) -> Unit:
    inside = "bert.encoder.layer.0"
    matrices = (units[f"{inside}.intermediate.dense"], units[f"{inside}.output.dense"])
    return Unit(
        f"{inside}.feed-forward", "feed-forward", 0, 2, HEADS * SIZE, HEADS * SIZE, matrices=matrices, of="neurons"
    )


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is run, instead of a clock; each takes a time of its own."""
    labels: list[str] = []

    def compare(runs, **_) -> dict[str, Timing]:
        for run in runs.values():
            run()
        labels.extend(runs)
        return {name: Timing(1, 1, 1, place, place, place, 12, True) for place, name in enumerate(runs)}

    monkeypatch.setattr(timing, "compare", compare)
    return labels


def test_all_shapes_are_timed_in_one_round_with_the_dense_pass_once(counted: list[str]) -> None:
    model = blocks()
    units = find_units(model).units
    rows = dict.fromkeys((unit.name for unit in units), 12)
    shapes = shapes_of(model, units, [FORMS.get("low-rank")], rows)
    passes: list[int] = []
    layers = time_layers(model, shapes, CONDITIONS, lambda: passes.append(1), {})
    assert len(passes) == 1
    assert set(layers) == {"32x32 on 12", "64x32 on 12", "32x64 on 12"}
    assert len(counted) == 1 + sum(1 + len(FORMS.get("low-rank").timed(shape.units[0])) for shape in shapes.values())


def test_a_time_is_that_of_one_of_the_copies_that_are_run(counted: list[str]) -> None:
    model = blocks()
    units = [unit for unit in find_units(model).units if unit.role == "intermediate.dense"]
    shapes = shapes_of(model, units, [FORMS.get("low-rank")], dict.fromkeys((unit.name for unit in units), 12))
    [times] = time_layers(model, shapes, CONDITIONS, lambda: None, {}).values()
    assert times.dense == pytest.approx(counted.index("64x32 on 12 None") / 2)  # there are two blocks
    assert times.at(units[0], sized("", 0)) == pytest.approx((counted.index("64x32 on 12 None") + 1) / 2, rel=0.2)


@pytest.mark.parametrize("fused", [True, False])
def test_a_feed_forward_pair_is_run_with_its_activation_once(
    counted: list[str], fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = blocks()
    pair = feed_forward(find_units(model).by_name())
    if fused:
        rewrites.apply(model, "fused-activation")
    shapes = shapes_of(model, [pair], [FORMS.get("neurons")], dict.fromkeys(pair.modules, 12))
    activated: list[Tensor] = []
    monkeypatch.setattr(timing, "activation_of", lambda _: lambda x: activated.append(x) or x)
    time_layers(model, shapes, CONDITIONS, lambda: None, {})
    widths = [64, *(choice["neurons"] for choice in FORMS.get("neurons").timed(pair))]
    assert [x.shape[-1] for x in activated] == ([] if fused else widths)


def test_activations_are_named_by_configurations() -> None:
    assert isinstance(timing.activation_of(blocks()), type(ACT2FN["gelu"]))
    silent = blocks()
    silent.config.hidden_act = "own"
    assert isinstance(timing.activation_of(silent), nn.Identity)


def test_several_matrices_are_run_by_their_form_and_what_lies_between_them_alone(
    counted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Size, torch.Size]] = []

    def noted(q: Tensor, k: Tensor, v: Tensor, **options: bool) -> Tensor:
        seen.append((q.shape, k.shape))
        return scaled_dot_product_attention(q, k, v, **options)

    monkeypatch.setattr(heads_form, "scaled_dot_product_attention", noted)
    model = blocks()
    by_name = find_units(model).by_name()
    unit = attention(by_name, 0)
    rows = dict.fromkeys(by_name, 12) | {unit.matrices[0].name: 2}  # a rewritten block: one query for each sequence
    shapes = shapes_of(model, [unit], [FORMS.get("heads")], rows)
    with FlopCounterMode(display=False) as counter:
        layers = time_layers(model, shapes, CONDITIONS, lambda: None, {})
    wide = [
        1 * SIZE,
        2 * SIZE,
        3 * SIZE,
    ]  # of what is timed; each is multiplied by 2 queries, 12 keys and values, 2 outputs
    products = sum(2 * HEADS * SIZE * width * (2 + 12 + 12 + 2) for width in wide)
    flops = counter.get_flop_counts()["Global"]
    assert sum(n for op, n in flops.items() if "addmm" in str(op) or ".mm" in str(op)) == products
    assert {q[1] for q, _ in seen} == {HEADS, 1, 2, 3}
    assert {(q[0], q[2], k[2]) for q, k in seen} == {(2, 1, 6)}
    [(key, times)] = layers.items()
    assert key.startswith("attention: ")
    assert set(times.forms) == {"heads"}
