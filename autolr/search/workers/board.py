"""Where a worker finds its next task: a small actor with a box for each, filled by the driver ahead of time."""

import asyncio
from collections import defaultdict
from typing import Any

import ray


class Boxes:
    """One queue of tasks for each worker; an actor without CPUs of its own."""

    def __init__(self) -> None:
        self._boxes: dict[str, asyncio.Queue[Any]] = defaultdict(asyncio.Queue)

    async def put(self, shift: str, task: Any) -> None:
        """Add a task to a worker's box."""
        await self._boxes[shift].put(task)

    async def get(self, shift: str, wait: float) -> Any:
        """Return a worker's next task; None if none comes within ``wait`` seconds."""
        try:
            return await asyncio.wait_for(self._boxes[shift].get(), wait)
        except TimeoutError:
            return None


def make_board() -> Any:
    """Start the actor; when it dies it is started anew, empty."""
    return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Boxes).remote()
