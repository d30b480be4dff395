"""``autolr bench``."""

from typing import Annotated

import typer

from autolr.cli import options as o
from autolr.cli.terminal import err, out, print_json, progress, reported


@reported
def bench(
    checkpoints: Annotated[
        list[str], typer.Argument(metavar="A [B ...]", help="Checkpoints, dense or compressed; ratios refer to A.")
    ],
    batch_size: o.BatchSize = 8,
    seq_len: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the longest sequence; none: 128, or what the models take.")
    ] = None,
    lengths: o.Lengths = None,
    device: o.Device = "cpu",
    dtype: o.Dtype = "float32",
    threads: o.Threads = None,
    profile: o.Profile = None,
    precision: Annotated[
        float, typer.Option(min=1e-4, max=1, help="Half-width of the ratio's 95 % interval to reach, as a share.")
    ] = 0.01,
    max_seconds: Annotated[float, typer.Option(min=1, help="Stop after so long all the same.")] = 60,
    engine: Annotated[str, typer.Option(help="Software that runs them; other packages may register more.")] = "torch",
    offline: o.Offline = False,
    trust_remote_code: o.TrustRemoteCode = False,
    json: o.Json = False,
) -> None:
    """Time checkpoints in turn against the first: medians, spread, and the ratio with its confidence interval."""
    from autolr.report.measurements import bench_conditions, bench_table
    from autolr.workflows.bench import bench as measure

    run = {
        "device": device,
        "dtype": dtype,
        "batch_size": batch_size,
        "seq_len": seq_len,
        "lengths": o.parse_lengths(lengths),
        "threads": threads,
        "offline": offline,
        "trust_remote_code": trust_remote_code,
        **o.read_profile(profile),
    }
    spec = o.from_options({"budgets": ["1x-latency"], "run": run})
    with progress() as listener:
        found = measure(checkpoints, spec.run, precision, max_seconds, listener, engine)
    if json:
        print_json(found)
    else:
        out.print(bench_table(found))
        out.print(bench_conditions(found), highlight=False, markup=False)
    if not found["settled"]:
        err.print(
            f"the machine is too noisy for ±{100 * precision:g} % in {max_seconds:g} s: the intervals above are what "
            f"is known; close other programs, raise --max-seconds or --precision",
            highlight=False,
            markup=False,
        )
