"""The FLOPs, parameters and bytes of any candidate, from measured forward passes of the dense model and arithmetic.

FLOPs are those that ``torch.utils.flop_counter`` counts: matrix products, a multiplication and an addition counted as
two; attention is counted as the two products it is made of, whichever kernel runs it.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autolr.checkpoint.runtime import rewrites
from autolr.cost.table import CostTable
from autolr.errors import UsageError
from autolr.model.positions import longest_sequence
from autolr.types import Conditions, Cost, Unit


def measure_costs(
    model: nn.Module,
    units: Sequence[Unit],
    batch_size: int,
    seq_len: int,
    threads: int | None = None,
    lengths: Sequence[int] = (),
) -> CostTable:
    """Measure the dense model's cost and each unit's share of it, by a forward pass of one sequence and one of two.

    Args:
        model: the dense model; with rewrites, it is measured without them too, and left with them.
        units: its compressible layers.
        batch_size: sequences in the batch that costs are stated for.
        seq_len: tokens in each.
        threads: stated with the costs; counting does not depend on it.
        lengths: likewise.

    Raises:
        UsageError: the sequence is longer than the model's positions.
    """
    longest = longest_sequence(model)
    if longest is not None and seq_len > longest:
        raise UsageError(
            f"--seq-len {seq_len} is longer than the model's {longest} positions; choose at most {longest}"
        )
    matrices = list({matrix.name: matrix for unit in units for matrix in unit.matrices or (unit,)}.values())
    flops, rows, calls = _count_batch(model, matrices, batch_size, seq_len)
    pairs = {unit.name: _pairs(unit, rows, calls, batch_size) for unit in units if unit.heads}
    rows |= {unit.name: rows[unit.modules[-1]] for unit in units}
    names = rewrites.applied(model)
    rewrites.undo(model)
    dense_flops = _count_batch(model, matrices, batch_size, seq_len)[0] if names else flops
    for name in names:
        rewrites.apply(model, name)
    parameter = next(model.parameters())
    params = sum(p.numel() for p in model.parameters())
    embeddings = {
        id(module.weight): module.weight.numel() for module in model.modules() if isinstance(module, nn.Embedding)
    }
    memory = sum(t.numel() * t.element_size() for t in [*model.parameters(), *model.buffers()])
    dense = Cost(
        flops=dense_flops,
        params=params,
        nonembedding_params=params - sum(embeddings.values()),
        memory=memory,
        conditions=Conditions(
            batch_size,
            seq_len,
            str(parameter.dtype).removeprefix("torch."),
            str(parameter.device),
            threads,
            tuple(lengths),
        ),
    )
    biased = frozenset(m.name for m in matrices if getattr(model.get_submodule(m.name), "bias", None) is not None)
    base = replace(dense, flops=flops)
    by_name = {unit.name: unit for unit in units}
    return CostTable(dense, base, by_name, rows, biased, parameter.element_size(), pairs=pairs)


def _pairs(unit: Unit, rows: Mapping[str, int], calls: Mapping[str, int], batch_size: int) -> int:
    """Return how many pairs of a query's position and a key's meet; a block that several share is called more often."""
    query, key, *_ = unit.modules
    return rows[query] * rows[key] // (batch_size * calls[query])


def _count_batch(
    model: nn.Module, units: Sequence[Unit], batch_size: int, seq_len: int
) -> tuple[int, dict[str, int], dict[str, int]]:
    """Return a batch's FLOPs, vectors and calls, from a batch of one sequence and one of two."""
    flops, rows, calls = _count(model, units, 1, seq_len)
    if batch_size > 1:  # not everything grows with the batch: DeBERTa projects its relative positions once a pass
        flops_of_two, rows_of_two, _ = _count(model, units, 2, seq_len)
        flops += (batch_size - 1) * (flops_of_two - flops)
        rows = {name: n + (batch_size - 1) * (rows_of_two[name] - n) for name, n in rows.items()}
    return flops, rows, calls


def _count(
    model: nn.Module, units: Sequence[Unit], batch_size: int, seq_len: int
) -> tuple[int, dict[str, int], dict[str, int]]:
    """Run a batch; return its FLOPs, how many vectors each unit's weight multiplied, and in how many calls."""
    calls = dict.fromkeys((unit.name for unit in units), 0)
    rows = dict.fromkeys((unit.name for unit in units), 0)
    token = 0 if getattr(model.config, "pad_token_id", None) == 1 else 1
    ids = torch.full((batch_size, seq_len), token, dtype=torch.long, device=next(model.parameters()).device)
    if getattr(model.config, "is_encoder_decoder", False):  # what is read is the state at the end of the text
        config: Any = model.config
        ids[:, -1] = config.eos_token_id
    with ExitStack() as stack:
        for parameter in model.parameters():
            if parameter.requires_grad:  # torch's counter fails on a parameter that is handed to a module
                parameter.requires_grad_(False)
                stack.callback(parameter.requires_grad_, True)
        for unit in units:

            def count(_module: nn.Module, _args: Any, output: Tensor, unit: Unit = unit) -> None:
                rows[unit.name] += output.numel() // unit.out_features
                calls[unit.name] += 1

            stack.callback(model.get_submodule(unit.name).register_forward_hook(count).remove)
        stack.enter_context(torch.no_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        counter = stack.enter_context(FlopCounterMode(display=False))
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    return counter.get_total_flops(), rows, calls
