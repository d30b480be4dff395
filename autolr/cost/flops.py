"""The price of any candidate, from measured forward passes of the dense model and arithmetic.

FLOPs are those that ``torch.utils.flop_counter`` counts: matrix products, a multiplication and an addition counted as
two; attention is counted as the two products it is made of, whichever kernel runs it.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autolr.errors import UsageError
from autolr.types import Candidate, Choice, Conditions, Cost, Unit

_INDEX_BYTES = 8


@dataclass(frozen=True)
class CostTable:
    """What the dense model costs, and how many rows each unit multiplies in one forward pass.

    Attributes:
        dense: the dense model's cost.
        units: by name.
        rows: unit name -> vectors multiplied by its weight in one forward pass under the conditions.
        biased: names of the units whose dense layer has a bias.
        bytes_per_param: of the weights.
    """

    dense: Cost
    units: Mapping[str, Unit]
    rows: Mapping[str, int]
    biased: frozenset[str]
    bytes_per_param: int

    def saving(self, name: str, choice: Choice) -> dict[str, int]:
        """Return what one choice saves against the dense layer, by quantity; negative where it costs more.

        A low-rank layer of rank r with k kept rows multiplies ``r (out + in) + k in`` weights instead of ``out in``.
        """
        unit = self.units[name]
        dense = unit.out_features * unit.in_features
        kept = choice.rank * (unit.out_features + unit.in_features) + choice.rows * unit.in_features
        params = dense - kept - (0 if name in self.biased else unit.out_features)
        return {
            "flops": 2 * self.rows[name] * (dense - kept),
            "params": params,
            "nonembedding-params": params,
            "memory": params * self.bytes_per_param - choice.rows * _INDEX_BYTES,
        }

    def cost(self, candidate: Candidate) -> Cost:
        """Return the candidate's cost."""
        saved = [self.saving(name, choice) for name, choice in candidate.choices]

        def left(quantity: str) -> int:
            return self.dense.get(quantity) - sum(saving[quantity] for saving in saved)

        return Cost(left("flops"), left("params"), left("nonembedding-params"), left("memory"), self.dense.conditions)


def measure_costs(model: nn.Module, units: Sequence[Unit], batch_size: int, seq_len: int) -> CostTable:
    """Measure the dense model's cost and each unit's share of it, by a forward pass of one sequence and one of two.

    Args:
        model: the dense model.
        units: its compressible layers.
        batch_size: sequences in the batch that costs are stated for.
        seq_len: tokens in each.

    Raises:
        UsageError: the sequence is longer than the model's positions.
    """
    longest = longest_sequence(model)
    if longest is not None and seq_len > longest:
        raise UsageError(
            f"--seq-len {seq_len} is longer than the model's {longest} positions; choose at most {longest}"
        )
    flops, rows = _count(model, units, 1, seq_len)
    if batch_size > 1:  # not everything grows with the batch: DeBERTa projects its relative positions once a pass
        flops_of_two, rows_of_two = _count(model, units, 2, seq_len)
        flops += (batch_size - 1) * (flops_of_two - flops)
        rows = {name: n + (batch_size - 1) * (rows_of_two[name] - n) for name, n in rows.items()}
    parameter = next(model.parameters())
    params = sum(p.numel() for p in model.parameters())
    embeddings = {
        id(module.weight): module.weight.numel() for module in model.modules() if isinstance(module, nn.Embedding)
    }
    memory = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    dense = Cost(
        flops=flops,
        params=params,
        nonembedding_params=params - sum(embeddings.values()),
        memory=memory,
        conditions=Conditions(batch_size, seq_len, str(parameter.dtype).removeprefix("torch.")),
    )
    biased = frozenset(u.name for u in units if getattr(model.get_submodule(u.name), "bias", None) is not None)
    return CostTable(dense, {u.name: u for u in units}, rows, biased, parameter.element_size())


def longest_sequence(model: nn.Module) -> int | None:
    """Return how many tokens the model's positions allow, or None if its configuration sets no limit.

    RoBERTa's table of positions starts behind the padding index: of 514 rows 512 can be used.
    """
    longest = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(longest, int):
        return None
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return min(longest, module.num_embeddings - module.padding_idx - 1)
    return longest


def _count(model: nn.Module, units: Sequence[Unit], batch_size: int, seq_len: int) -> tuple[int, dict[str, int]]:
    """Run a batch and return its FLOPs and how many vectors each unit's weight multiplied."""
    rows = dict.fromkeys((unit.name for unit in units), 0)
    token = 0 if getattr(model.config, "pad_token_id", None) == 1 else 1
    ids = torch.full((batch_size, seq_len), token, dtype=torch.long, device=next(model.parameters()).device)
    with ExitStack() as stack:
        for unit in units:

            def count(_module: nn.Module, args: tuple[Tensor, ...], _output: Any, unit: Unit = unit) -> None:
                rows[unit.name] += args[0].numel() // unit.in_features

            stack.callback(model.get_submodule(unit.name).register_forward_hook(count).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        counter = stack.enter_context(FlopCounterMode(display=False))
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return counter.get_total_flops(), rows
