"""Ends a worker that hangs: a small process beside it, which kills it when it says nothing for too long.

A thread would not do: a worker that holds the interpreter's lock, or is stopped altogether, could not end itself.
"""

import subprocess
import sys
import time

_EVERY = 1.0
"""Seconds between two signs of life that are passed on."""

_PROGRAM = """
import os, select, signal, sys
worker, timeout = int(sys.argv[1]), float(sys.argv[2])
waiting = False
while True:
    ready, _, _ = select.select([0], [], [], timeout if waiting else None)
    if not ready:
        os.kill(worker, signal.SIGKILL)
        break
    sign = os.read(0, 4096)
    if not sign:
        break
    waiting = not sign.endswith(b"e")
"""


class Watchdog:
    """Kills this process when it works and gives no sign of life for ``timeout`` seconds.

    Args:
        pid: of the process to watch.
        timeout: seconds.
    """

    def __init__(self, pid: int, timeout: float) -> None:
        command = [sys.executable, "-S", "-E", "-c", _PROGRAM, str(pid), str(timeout)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)  # noqa: S603
        self._last = float("-inf")

    def tick(self) -> None:
        """Give a sign of life; from now on silence counts."""
        if time.monotonic() - self._last > _EVERY:
            self._say(b".")

    def rest(self) -> None:
        """Say that the work is done: silence no longer counts."""
        self._say(b"e")
        self._last = float("-inf")  # the next tick begins new work: it is passed on at once

    def close(self) -> None:
        """End the watch."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _say(self, sign: bytes) -> None:
        assert self._process.stdin is not None
        self._last = time.monotonic()
        self._process.stdin.write(sign)
        self._process.stdin.flush()
