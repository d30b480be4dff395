"""``autolr bench``."""

from typing import Annotated

import typer

from autolr.cli import options as o
from autolr.cli.terminal import err, out, print_json, progress, reported
from autolr.spec.measuring import BENCH


@reported
@o.takes(
    *BENCH, "profile", "precision", "max_seconds",
    says={"seq_len": "Tokens of the longest sequence; none: 128, or what the models take."},
)  # fmt: skip
def bench(
    given: o.Given,
    checkpoints: Annotated[
        list[str], typer.Argument(metavar="A [B ...]", help="Checkpoints, dense or compressed; ratios refer to A.")
    ],
    profile: o.Profile = None,
    precision: Annotated[
        float, typer.Option(min=1e-4, max=1, help="Half-width of the ratio's 95 % interval to reach, as a share.")
    ] = 0.01,
    max_seconds: Annotated[float, typer.Option(min=1, help="Stop after so long all the same.")] = 60,
    engine: Annotated[str, typer.Option(help="Software that runs them; other packages may register more.")] = "torch",
    json: o.Json = False,
) -> None:
    """Time checkpoints in turn against the first: medians, spread, and the ratio with its confidence interval."""
    from autolr.report.format import conditions_line
    from autolr.report.measurements import bench_table
    from autolr.workflows.bench import bench as measure
    from autolr.workflows.resolve import resolve

    spec = resolve({**given, "budget": "1x-latency"}, profile, typed=True)
    with progress() as listener:
        timed = measure(checkpoints, spec.run, precision, max_seconds, listener, engine)
    if json:
        print_json(timed.to_json())
    else:
        out.print(bench_table(timed))
        out.print(conditions_line(timed.conditions), highlight=False, markup=False)
    if not timed.settled:
        err.print(
            f"the machine is too noisy for ±{100 * precision:g} % in {max_seconds:g} s: the intervals above are what "
            f"is known; close other programs, raise --max-seconds or --precision",
            highlight=False,
            markup=False,
        )
