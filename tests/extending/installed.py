"""A package on the path that registers records by entry points, as an installed one does."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from autolr.registry import Registry


@contextmanager
def installed(folder: Path, table: Registry, points: Mapping[str, str]) -> Iterator[None]:
    """Have a package with these entry points, name -> module:attribute, while a block runs."""
    name = f"extending_{table.noun}"
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = [f"{name} = {place}" for name, place in points.items()]
    (metadata / "entry_points.txt").write_text("\n".join([f"[{table.group}]", *lines]) + "\n")
    sys.path.insert(0, str(folder))
    table.forget()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        table.forget()
