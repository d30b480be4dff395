"""The same look at every node of a cluster, each beside what the driver has."""

import socket
from dataclasses import replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from autolr.optimization.workers.ray_driver import cluster
from autolr.workflows.check_machine import Finding, Needs, differing, examine, versions

WAIT_SECONDS = 120.0
"""For which a node may take to answer; its first answer imports the libraries."""


def examine_cluster(address: str | None, needs: Needs, threads: int, gpus: float) -> list[Finding]:
    """Look at every living node.

    Args:
        address: of the cluster; None: one of this machine alone.
        needs: of the study; ``workers`` is their number on the whole cluster.
        threads: CPUs of a worker.
        gpus: GPUs of a worker.

    Returns:
        The findings, node by node.

    Raises:
        UsageError: there is no cluster at the address.
    """
    with cluster(address, needs.workers, threads, gpus):
        everyone: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        nodes = [node for node in everyone if node["Alive"]]
        asked = []
        for node in nodes:
            mine = replace(needs, workers=_room(node["Resources"], needs.workers, threads, gpus))
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked.append(_look.options(scheduling_strategy=there).remote(mine))
        found, here = [], versions()
        for node, reference in zip(nodes, asked, strict=True):
            found += _answer(node["NodeManagerHostname"], reference, here)
        room = sum(_room(node["Resources"], needs.workers, threads, gpus) for node in nodes)
    enough = room >= needs.workers
    seen = f"room for {room} of {needs.workers} workers of {threads} CPUs and {gpus:g} GPUs"
    return [*found, Finding("cluster", "room", enough, seen, "" if enough else "fewer --workers, or more nodes")]


def _room(resources: dict[str, float], workers: int, threads: int, gpus: float) -> int:
    """Return how many workers a node will have."""
    room = int(resources.get("CPU", 0) // threads)
    return min(workers, int(resources.get("GPU", 0) / gpus + 1e-9) if gpus else room, room)


def _answer(name: str, reference: Any, here: dict[str, str]) -> list[Finding]:
    try:
        theirs, findings = ray.get(reference, timeout=WAIT_SECONDS)
    except (ray.exceptions.RayError, TimeoutError) as error:
        seen = f"{type(error).__name__}: {str(error).strip().splitlines()[-1]}"
        return [Finding(name, "answers", False, seen, "install autolr there; see ray's logs of that node")]
    gap = differing(here, theirs)
    same = Finding(
        name, "versions", not gap, gap or "as here", "" if not gap else f"make them those of {socket.gethostname()}"
    )
    return [same, *(replace(one, node=name) for one in findings)]


@ray.remote(num_cpus=0)
def _look(needs: Needs) -> tuple[dict[str, str], list[Finding]]:
    return versions(), examine(needs)
