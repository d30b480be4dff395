"""Shared fixtures: shape-checked imports, tiny random models, the optional measurement assets."""

import os
from pathlib import Path

import pytest
import torch
from jaxtyping import install_import_hook

# Every jaxtyping annotation of the package is checked while the tests run.
install_import_hook("autolr", "beartype.beartype")

torch.set_num_threads(2)
ASSETS = Path(os.environ.get("AUTOLR_ASSETS", Path(__file__).parents[2] / "shared"))


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of real models and data used by measurements; tests that need it skip where it is absent."""
    if not (ASSETS / "models").is_dir():
        pytest.skip(f"no measurement assets at {ASSETS}; set AUTOLR_ASSETS")
    return ASSETS
