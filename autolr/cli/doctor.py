"""``autolr doctor``."""

from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from autolr.cli import options as o
from autolr.cli.terminal import out, print_json, quiet_libraries, reported
from autolr.errors import UsageError


@reported
def doctor(
    cluster: Annotated[bool, typer.Option("--cluster", help="Look at every node of the Ray cluster.")] = False,
    ray_address: o.RayAddress = None,
    workers: o.Workers = None,
    gpus_per_worker: o.GpusPerWorker = None,
    threads: o.Threads = None,
    model: o.Model = None,
    device: o.Device = "cpu",
    dtype: o.Dtype = "float32",
    storage: o.Storage = None,
    study: Annotated[str | None, typer.Option(help="A folder that every node should see and write.")] = None,
    offline: o.Offline = False,
    trust_remote_code: o.TrustRemoteCode = False,
    json: o.Json = False,
) -> None:
    """Check versions, model, storage and memory, here or on every node of a cluster, before anything is spent."""
    from autolr.search.study.database import check_private
    from autolr.workflows.check_machine import Needs, examine, extras, versions

    quiet_libraries()
    remote = cluster or ray_address is not None
    check_private(storage, remote)
    needs = Needs(model, offline, trust_remote_code, storage, study, device, dtype, workers or 1)
    if remote:
        try:
            from autolr.workflows.check_cluster import examine_cluster
        except ImportError as error:
            raise UsageError("a cluster needs Ray; pip install 'autolr[ray]'") from error
        gpus = gpus_per_worker if gpus_per_worker is not None else float(device.startswith("cuda"))
        findings = examine_cluster(ray_address, needs, threads or 1, gpus)
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
