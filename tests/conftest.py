"""Shared fixtures: shape-checked imports, the optional measurement assets."""

import gc
import inspect
import os
from pathlib import Path

import jaxtyping
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

gc.disable()  # until all is imported

# Every jaxtyping annotation of the package is checked while the tests run; elsewhere the hook would only cost time,
# twice that of a whole study, for it wraps every function of what it is given.
PACKAGE = Path(__file__).parents[1] / "autolr"
WITH_SHAPES = [
    ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts)
    for file in sorted(PACKAGE.rglob("*.py"))
    if "jaxtyping" in file.read_text(encoding="utf-8")
]
_jaxtyped = jaxtyping.jaxtyped


def _where_shapes_are(*, typechecker):
    """Decorate what has a shape among its annotations: hooks that are made at each call would take long for nothing."""

    def decorate(what):
        annotations = inspect.get_annotations(what)
        return _jaxtyped(what, typechecker=typechecker) if "jaxtyping." in str(list(annotations.values())) else what

    return decorate


jaxtyping.jaxtyped = _where_shapes_are
install_import_hook(WITH_SHAPES, "beartype.beartype")

# No test cuts the power: waiting for the disk took a quarter of a study's time.
os.fsync = lambda _: None

# The models are tiny: a second thread only waits for the first.
torch.set_num_threads(1)

# Examples are the same in every run, and a slow machine is not a failure.
settings.register_profile("autolr", deadline=None, derandomize=True, database=None)
settings.load_profile("autolr")

collect_ignore = ["notebook.py"]  # a script; test_notebook.py runs it

ASSETS = Path(os.environ.get("AUTOLR_ASSETS", Path(__file__).parents[2] / "shared"))


# Files that take long begin first, so that two processes end at the same time.
LONG = (
    "test_workers",
    "test_search",
    "test_latency",
    "test_journal",
    "test_database",
    "test_raced_study",
    "test_notebook",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONG)))


def pytest_collection_finish() -> None:
    """Let no collection of garbage look at what was imported: there is much of it, and it stays."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["AUTOLR_CACHE"] = str(tmp_path_factory.mktemp("cache") / "autolr")


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real models and data used by measurements; tests that need it skip where it is absent."""
    if not (ASSETS / "models").is_dir():
        pytest.skip(f"no measurement assets at {ASSETS}; set AUTOLR_ASSETS")
    return ASSETS


@pytest.fixture(scope="session")
def gpu() -> torch.device:
    """The GPU, or the device that AUTOLR_GPU_TESTS_ON names: on ``cpu`` the tests of a GPU are rehearsed."""
    name = os.environ.get("AUTOLR_GPU_TESTS_ON", "cuda")
    if name.startswith("cuda") and not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device here; AUTOLR_GPU_TESTS_ON=cpu rehearses on the CPU")
    return torch.device(name)
