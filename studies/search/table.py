"""Prints the tables of this study's README from the parts that are there, and writes search.json.

python studies/search/table.py FOLDER
"""

import json
import sys
from pathlib import Path
from statistics import mean, stdev

from autolr.workflows.compare import slug

HERE = Path(__file__).parent


def spread(values: list[float]) -> float:
    return stdev(values) if len(values) > 1 else 0.0


def cell(rows: list[dict]) -> str:
    """Share of dense in percent, mean ± standard error over the seeds (test set's own error not included)."""
    if not rows:
        return "-"
    shares = [100 * row["accuracy_ratio"] for row in rows]
    nats = mean(row["divergence"]["value"] for row in rows)
    return f"{mean(shares):.1f} ± {spread(shares) / len(shares) ** 0.5:.1f} ({nats:.3f})"


def proposing(folder: Path, entry: str) -> float:
    """Return the share of an entry's trials' time that proposals took."""
    files = [json.loads(path.read_text())["seconds"] for path in folder.glob(f"{slug(entry)}/*/*/trials/*.json")]
    return sum(seconds["propose"] for seconds in files) / sum(sum(seconds.values()) for seconds in files)


def main(folder: Path) -> None:
    parts = {
        name: json.loads(path.read_text())
        for name in ("fixed", "searched", "samplers", "refitted")
        if (path := folder / f"{name}.json").exists()
    }
    rows = {(r["entry"], r["budget"], r["seed"]): r for part in parts.values() for r in part["rows"] if "accuracy" in r}
    budgets = sorted({budget for _, budget, _ in rows}, key=lambda text: -float(text.partition("x")[0]))
    names = list(dict.fromkeys(entry for entry, _, _ in rows))
    print("| | " + " | ".join(budgets) + " | seeds |\n|" + "---|" * (len(budgets) + 2))
    for name in names:
        by_budget = [[r for (entry, b, _), r in rows.items() if (entry, b) == (name, budget)] for budget in budgets]
        print(f"| {name} | " + " | ".join(map(cell, by_budget)) + f" | {max(map(len, by_budget))} |")
    kept = {}
    if "samplers" in parts:
        head = (
            "dominated area | evaluations to 99 % of the best | to 99 % of TPE's last | examples | seconds | proposing"
        )
        print(f"\n| | {head} |\n|" + "---|" * 7)
        goal = 0.99 * parts["samplers"]["search"]["tpe"]["area"][-1]
        for name, found in parts["samplers"]["search"].items():
            deviation = found["deviation"][-1] if found["deviation"] else 0.0
            as_tpe = next((n + 1 for n, area in enumerate(found["area"]) if area >= goal), "never")
            best = found["evaluations"] or "never"
            print(
                f"| {name} | {found['area'][-1]:.3f} ± {deviation:.3f} | {best} | {as_tpe} | "
                f"{found['examples'][-1]:,.0f} | {found['seconds'][-1]:,.0f} | {proposing(folder, name):.0%} |"
            )
        kept["search"] = parts["samplers"]["search"]
    wanted = ("entry", "budget", "seed", "ratio", "accuracy", "dense_accuracy", "accuracy_ratio", "divergence")
    kept["rows"] = [{name: row[name] for name in wanted} for row in rows.values()]
    (HERE / "search.json").write_text(json.dumps(kept) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
