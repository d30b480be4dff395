"""PyTorch, eager: what a user gets by ``from_pretrained`` alone."""

from functools import partial

import torch

from autolr.checkpoint.load import load_checkpoint
from autolr.cost.forward import forward_inputs
from autolr.engines.base import Batch, Engine, EngineSettings, Session
from autolr.model.load import checked_device
from autolr.model.positions import longest_sequence


def open_session(source: str, settings: EngineSettings) -> Session:
    """Load a checkpoint, compressed or dense, and return what runs it.

    Args:
        source: a directory, or a hub id.
        settings: device, data type, threads.

    Raises:
        UsageError: it does not load, or the device is absent.
    """
    device = checked_device(settings.device)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    options = {"local_files_only": True} if settings.offline else {}
    dtype = getattr(torch, settings.dtype)
    model = load_checkpoint(source, trust_remote_code=settings.trust_remote_code, dtype=dtype, **options)
    model.to(device)  # type: ignore[arg-type]
    model.train(False)

    def run(batch: Batch) -> None:
        with torch.inference_mode():
            model(**batch)

    return Session(run, partial(forward_inputs, model), longest_sequence(model))


ENGINE = Engine("torch", "PyTorch, eager", "", open_session)
