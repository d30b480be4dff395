"""What work changes of its process, put back afterwards: a caller of the Python API has a process of their own."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import datasets
import huggingface_hub
import optuna
import torch
import transformers

from autolr.machine.shared_change import shared_change


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let the libraries be quiet while a block runs; put their settings, and torch's number of threads, back.

    Where blocks of several threads overlap, all is as it was before the first once the last has ended.

    Example:
        >>> before = torch.get_num_threads()
        >>> with undisturbed():
        ...     torch.set_num_threads(before + 1)
        >>> torch.get_num_threads() == before
        True
    """
    with _quiet():
        threads = torch.get_num_threads()  # OpenMP has a number for each thread, besides the one of the process
        try:
            yield
        finally:
            torch.set_num_threads(threads)


@shared_change
@contextmanager
def _quiet() -> Iterator[None]:
    threads = torch.get_num_threads()
    hf, log = transformers.utils.logging, logging.getLogger("optuna")
    verbosity, bars, level = hf.get_verbosity(), hf.is_progress_bar_enabled(), log.level
    hub, chatter = huggingface_hub.logging, huggingface_hub.logging.get_verbosity()
    data_bars = datasets.are_progress_bars_disabled()
    with warnings.catch_warnings():
        quiet_libraries()
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            hf.set_verbosity(verbosity)
            if bars:
                hf.enable_progress_bar()  # type: ignore[no-untyped-call]
            if not data_bars:
                datasets.enable_progress_bars()
            log.setLevel(level)
            hub.set_verbosity(chatter)


def quiet_libraries() -> None:
    """Silence the libraries' own progress bars and chatter; their errors still come through as exceptions."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    huggingface_hub.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    logging.getLogger("optuna").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
