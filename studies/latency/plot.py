"""Latency against FLOPs of the exports, with the line that FLOPs alone promise. Writes latency.svg.

``python studies/latency/plot.py`` (needs matplotlib)
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent


def main() -> None:
    found = json.loads((HERE / "exports.json").read_text())
    rows = found["exports"]
    flops, ratio = [r["flops_ratio"] for r in rows], [r["ratio"] for r in rows]
    low, high = zip(*(r["ratio_range"] for r in rows), strict=True)
    errors = [[r - x for r, x in zip(ratio, low, strict=True)], [x - r for r, x in zip(ratio, high, strict=True)]]
    figure, axes = plt.subplots(figsize=(5, 3.6))
    axes.plot([0, 1], [0, 1], "--", color="0.6", label="what FLOPs alone promise")
    axes.errorbar(flops, ratio, yerr=errors, fmt="o-", ms=4, lw=1, label=f"measured, batch {found['profile']}")
    axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="FLOPs, ratio to dense", ylabel="latency, ratio to dense")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(HERE / "latency.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
