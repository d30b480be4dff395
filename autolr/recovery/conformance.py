"""The laws every recovery obeys, as one function, so that a third party's can be tested with one call."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from autolr.forms.swap import DecompositionSource
from autolr.model.record_calls import Batch
from autolr.records import Candidate
from autolr.recovery.base import Changes, Recovery, recovered


def check(
    recovery: Recovery, model: nn.Module, candidate: Candidate, source: DecompositionSource, batches: Sequence[Batch]
) -> None:
    """Run a recovery through the laws on one candidate.

    The laws: tensors are named after layers of the candidate and are finite; the same input gives the same tensors;
    the dense model is as it was, after computing and after applying; what is applied changes the compressed model's
    answers; without compressed layers there is nothing to recover; candidates computed together are as by themselves.

    Args:
        recovery: the record to test.
        model: a dense model, in evaluation mode.
        candidate: that compresses some of its layers.
        source: where the decompositions come from.
        batches: tokenized data with ``attention_mask``.

    Raises:
        AssertionError: a law is broken; the message names the law.
    """
    before = _state(model)
    tensors = _computed(recovery, model, candidate, source, batches)
    assert tensors, f"{recovery.name} recovers nothing of {candidate.to_json()}: check it on another candidate"
    changes = Changes(recovery, tensors)
    names = {module for name, _ in candidate.choices for module in source.unit(name).modules}
    foreign = sorted(set(changes.layers) - names)
    assert not foreign, f"tensors must be named '<layer>/<part>' after layers of the candidate, got {foreign[0]!r}"
    for name, tensor in tensors.items():
        assert bool(torch.isfinite(tensor).all()), f"{name} is not finite"
    again = _computed(recovery, model, candidate, source, batches)
    assert _equal(tensors, again), "the same input must give the same tensors"
    with recovered(model, candidate, source, None), torch.no_grad():
        truncated = [_first(model(**batch)) for batch in batches]
    with recovered(model, candidate, source, changes), torch.no_grad():
        after = [_first(model(**batch)) for batch in batches]
    assert any(not torch.equal(a, b) for a, b in zip(truncated, after, strict=True)), "what is applied changes nothing"
    assert _equal(before, _state(model)), "the dense model must be as it was, after computing and after applying"
    assert not _computed(recovery, model, Candidate(), source, batches), "the dense model has nothing to recover"
    if recovery.compute_together is not None:
        several = [candidate, Candidate(), candidate]
        both = recovery.compute_together(model, several, source, batches, lambda _: None)
        same = [dict(found) for found in both]
        assert len(same) == len(several), "compute_together gives the tensors of each candidate"
        alike = all(_equal(found, wanted) for found, wanted in zip(same, (tensors, {}, tensors), strict=True))
        assert alike, "candidates computed together have the tensors that each has by itself"


def _computed(
    recovery: Recovery, model: nn.Module, candidate: Candidate, source: DecompositionSource, batches: Sequence[Batch]
) -> dict[str, Tensor]:
    found = recovery.compute(model, candidate, source, batches, lambda _: None)
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def _first(output: object) -> Tensor:
    logits = getattr(output, "logits", output)
    assert isinstance(logits, Tensor)
    return logits
