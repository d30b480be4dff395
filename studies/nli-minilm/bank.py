"""How long all the methods of the bank take for this model, calibration excluded. Writes bank.json.

``python studies/nli-minilm/bank.py FOLDER``: statistics that are there are reused, decompositions are computed anew.
"""

import json
import shutil
import sys
import time
from pathlib import Path

import torch
from common import Lines, spec

from autolr.methods import METHODS
from autolr.optimization.preparation import build_bank
from autolr.problem import open_inputs


def main(folder: Path) -> None:
    inputs = open_inputs(spec(search={"methods": sorted(METHODS.names())}), Lines())
    build_bank(inputs, folder, Lines())
    for name in METHODS.names():
        shutil.rmtree(folder / name)
    started = time.perf_counter()
    build_bank(inputs, folder, Lines())
    seconds = time.perf_counter() - started
    size = sum(p.stat().st_size for p in folder.rglob("*.safetensors"))
    result = {
        "methods": sorted(METHODS.names()),
        "layers": len(inputs.units.units),
        "seconds": round(seconds, 1),
        "threads": torch.get_num_threads(),
        "bank_bytes": size,
    }
    print(json.dumps(result, indent=1))
    (Path(__file__).parent / "bank.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
