"""What is lost against the ratio, and at which layer: the results of knowledge.py as knowledge.svg.

``python studies/probing-pitfalls/plot.py`` (needs matplotlib)
"""

import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

HERE = Path(__file__).parent
COLOURS = {
    "dense": "black",
    "uniform svd": "tab:red",
    "uniform fwsvd": "tab:orange",
    "uniform asvd": "tab:pink",
    "uniform drone": "tab:purple",
    "uniform kfac": "tab:blue",
    "knapsack": "tab:cyan",
    "searched": "tab:green",
}


def score(row: dict) -> float:
    """Return NLI accuracy in per cent, or perplexity."""
    scores = row["scores"]
    return math.exp(scores["loss"]["value"]) if "loss" in scores else 100 * scores["accuracy"]["value"]


def by_layer(row: dict) -> list[float]:
    """Return the mean over the tasks of the probes' accuracies in per cent, at each layer."""
    layers = zip(*(task["layers"] for task in row["tasks"].values()), strict=True)
    return [100 * sum(task["accuracy"]["value"] for task in layer) / len(layer) for layer in layers]


def against_ratio(axes: Axes, rows: list[dict], label: str) -> None:
    dense = next(row for row in rows if row["how"] == "dense")
    for how, colour in COLOURS.items():
        mine = [row for row in rows if row["how"] == how]
        if how != "dense" and mine:
            points = sorted((row["flops"], score(row)) for row in mine)
            axes.plot(*zip(*points, strict=True), "o-", ms=4, lw=1, color=colour, label=how)
    axes.axhline(score(dense), ls="--", lw=1, color="black", label="dense")
    axes.set(xlabel="FLOPs, ratio to dense", ylabel=label)


def at_layers(axes: Axes, rows: list[dict], budget: str) -> None:
    for how, colour in COLOURS.items():
        for row in rows:
            if row["how"] == how and row["budget"] in (budget, "dense"):
                axes.plot(by_layer(row), "o-", ms=4, lw=1, color=colour, label=how)
    axes.set(
        xlabel="layer (0: embeddings)", ylabel=f"probes, mean of ten tasks, %, at {budget.split('-', maxsplit=1)[0]}"
    )


def main() -> None:
    figure, grid = plt.subplots(2, 2, figsize=(9, 7))
    encoder, decoder = (json.loads((HERE / f"knowledge-{name}.json").read_text()) for name in ("encoder", "decoder"))
    against_ratio(grid[0][0], encoder, "MiniLM: NLI accuracy, %")
    at_layers(grid[0][1], encoder, "0.2x-flops")
    against_ratio(grid[1][0], decoder, "small Llama: perplexity")
    grid[1][0].set_yscale("log")
    at_layers(grid[1][1], decoder, "0.6x-nonembedding-params")
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout(rect=(0, 0.08, 1, 1))
    figure.legend(*grid[0][0].get_legend_handles_labels(), loc="lower center", ncol=4, frameon=False, fontsize=8)
    figure.savefig(HERE / "knowledge.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
