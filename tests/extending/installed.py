"""A package that registers records by entry points, on disk as pip would leave it, and on the path for a while."""

import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from autolr.checkpoint.formats import FORMATS
from autolr.engines import ENGINES
from autolr.forms import FORMS
from autolr.methods import METHODS
from autolr.optimization.sampler.registry import SAMPLERS
from autolr.recovery.registry import RECOVERIES
from autolr.registry import Registry
from autolr.scores import SCORES, TASKS
from autolr.spec.spaces import SPACES

Points = Mapping[str, Mapping[str, str]]
"""Group -> name -> module:attribute."""
TABLES: tuple[Registry, ...] = (METHODS, FORMS, TASKS, SCORES, SAMPLERS, SPACES, RECOVERIES, FORMATS, ENGINES)


def write_distribution(folder: Path, points: Points) -> Path:
    """Write a distribution named ``extending``: its modules, which lie beside this file, and its metadata."""
    metadata = folder / "extending-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: extending\nVersion: 1.0\n")
    lines = []
    for group, places in points.items():
        lines += [f"[{group}]", *(f"{name} = {place}" for name, place in places.items())]
        for module in {place.partition(":")[0] for place in places.values()}:
            source = Path(__file__).with_name(f"{module}.py")
            if source.is_file():
                shutil.copy(source, folder)
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
    return folder


@contextmanager
def installed(folder: Path, points: Points) -> Iterator[Path]:
    """Have a distribution with these entry points on this process's path while a block runs."""
    package = write_distribution(folder / f"extending-{uuid4().hex[:8]}", points)
    sys.path.insert(0, str(package))
    _forget()
    try:
        yield package
    finally:
        sys.path.remove(str(package))
        _forget()


def _forget() -> None:
    for table in TABLES:
        table.forget()
