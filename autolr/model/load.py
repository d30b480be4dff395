"""A model and its tokenizer, on the device they were asked for."""

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from autolr.checkpoint.hub import unreachable
from autolr.checkpoint.load import load_checkpoint
from autolr.data.example import EXAMPLE_MODEL
from autolr.errors import UsageError
from autolr.model.padding import ensure_padding
from autolr.scores import TASKS
from autolr.spec.study import StudySpec

SPREAD = "auto"
"""Stands for all devices there are: a model that is only measured may be spread over them, memory and disk."""


def open_model(spec: StudySpec, spread: bool = False) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the model onto its device, in eval mode, and its tokenizer.

    Args:
        spec: names model, device and dtype.
        spread: whether device ``auto`` and compressed checkpoints are allowed, none of whose layers can be replaced.

    Raises:
        UsageError: there is no such device here, or the model or its tokenizer does not load.
    """
    source = str(EXAMPLE_MODEL) if spec.model is None else spec.model
    options: dict[str, Any] = {"dtype": getattr(torch, spec.run.dtype), **_hub(spec.run.offline)}
    everywhere = spread and spec.run.device == SPREAD
    if everywhere and find_spec("accelerate") is None:
        raise UsageError("--device auto needs accelerate, which is not installed; pip install accelerate")
    device = None if everywhere else checked_device(spec.run.device)
    if everywhere:
        options["device_map"] = SPREAD
    model = load_checkpoint(source, trust_remote_code=spec.run.trust_remote_code, compressed=spread, **options)
    if device is not None:
        model.to(device)  # type: ignore[arg-type]
    model.train(False)
    tokenizer = load_tokenizer(source, spec)
    if TASKS.get(spec.task).pads or spec.data.probes is not None:
        ensure_padding(model, tokenizer)
    return model, tokenizer


def checked_device(name: str) -> torch.device:
    """Return a device that is present.

    Raises:
        UsageError: the name is malformed, or there is no such device here.
    """
    if name == SPREAD:
        raise UsageError("--device auto is for autolr eval and autolr probe; name one device here: cpu, cuda, cuda:1")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name!r} cannot be used here: {str(error).splitlines()[0]}; use cpu") from error
    return device


def load_tokenizer(source: str, spec: StudySpec) -> PreTrainedTokenizerBase:
    """Load the model's tokenizer.

    Raises:
        UsageError: the model comes without one.
    """
    options = _hub(spec.run.offline or unreachable(source) is not None)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=spec.run.trust_remote_code, **options)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(f"{source} has no tokenizer that loads: {error}; save one beside the model") from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def _hub(offline: bool) -> Mapping[str, Any]:
    return {"local_files_only": True} if offline else {}
