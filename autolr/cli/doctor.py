"""``autolr doctor``."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from autolr.cli import options as o
from autolr.cli.terminal import out, print_json, reported
from autolr.errors import UsageError


@reported
@o.takes(
    "cluster", "ray_address", "workers", "gpus_per_worker", "threads", "model", "device", "dtype", "storage", "study",
    "offline", "trust_remote_code",
)  # fmt: skip
def doctor(
    given: o.Given,
    cluster: Annotated[bool, typer.Option("--cluster", help="Look at every node of the Ray cluster.")] = False,
    study: Annotated[
        Path | None, typer.Option(parser=o.path, help="A folder that every node should see and write.")
    ] = None,
    json: o.Json = False,
) -> None:
    """Check versions, model, storage and memory, here or on every node of a cluster, before anything is spent."""
    from autolr.optimization.study.database import check_private
    from autolr.workflows.check_machine import Needs, examine, extras, versions
    from autolr.workflows.resolve import resolve
    from autolr.workflows.undisturbed import quiet_libraries

    quiet_libraries()
    spec = resolve({**given, "budget": "1x-flops"}, typed=True)
    run, crew, address = spec.run, spec.crew, given["storage"]
    remote = cluster or crew.ray_address is not None
    check_private(address if isinstance(address, str) else None, remote)
    folder = None if study is None else str(study)
    needs = Needs(
        spec.model, run.offline, run.trust_remote_code, spec.storage, folder, run.device, run.dtype, crew.workers
    )
    if remote:
        try:
            from autolr.workflows.check_cluster import examine_cluster
        except ImportError as error:
            raise UsageError("a cluster needs Ray; pip install 'autolr[ray]'") from error
        gpus = crew.gpus_per_worker if crew.gpus_per_worker is not None else float(run.device.startswith("cuda"))
        findings = examine_cluster(crew.ray_address, needs, run.threads or 1, gpus)
    else:
        findings = examine(needs)
    if json:
        plain = {"versions": versions(), "extras": extras(), "findings": [asdict(one) for one in findings]}
        print_json(plain)
    else:
        out.print(", ".join(f"{name} {number}" for name, number in versions().items()), highlight=False)
        out.print("; ".join(f"{name}: {state}" for name, state in extras().items()), highlight=False, markup=False)
        table = Table("node", "check", "", "found", "remedy", box=None)
        for one in findings:
            table.add_row(one.node, one.check, "ok" if one.ok else "[bold red]no[/]", one.found, one.remedy)
        out.print(table)
    if not all(one.ok for one in findings):
        raise typer.Exit(1)
