"""The table of engines: software that runs checkpoints, for ``autolr bench`` and for budgets in time.

How to add one: write :attr:`autolr.engines.base.Engine.open` and run :func:`check` on the record, and name
it in the entry-point group::

    [project.entry-points."autolr.engines"]
    mine = "mypackage.mymodule:ENGINE"
"""

from collections.abc import Iterable

from autolr.engines.base import Batch, Engine, EngineSettings, Session
from autolr.records import Conditions
from autolr.registry import Registry

__all__ = ["ENGINES", "Batch", "Engine", "EngineSettings", "Session", "check"]


def _built_in() -> Iterable[Engine]:
    from autolr.engines.torch_engine import ENGINE

    return (ENGINE,)


ENGINES = Registry("engine", Engine, _built_in)
"""Every engine by name: the built-in one, and those of installed packages."""


def check(engine: Engine, source: str, settings: EngineSettings | None = None) -> None:
    """Run an engine through its laws on one checkpoint: it opens, and runs batches of what it says that it takes.

    Args:
        engine: the record to test.
        source: a checkpoint that it can run.
        settings: how; None: as they are by default.

    Raises:
        AssertionError: a law is broken; the message names it.
    """
    settings = settings or EngineSettings()
    session = engine.open(source, settings)
    assert session.longest is None or session.longest >= 1, f"longest must be at least 1, got {session.longest}"
    length = min(session.longest or 16, 16)
    for lengths in ((), (length, max(1, length // 2))):
        conditions = Conditions(2, length, settings.dtype, settings.device, settings.threads, lengths)
        batch = session.batch(conditions)
        sizes = {name: tuple(tensor.shape[:2]) for name, tensor in batch.items()}
        assert (2, length) in sizes.values(), f"a batch of 2 x {length} tokens was asked for, got {sizes}"
        for _ in range(2):
            session.run(batch)
