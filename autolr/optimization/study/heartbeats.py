"""Which processes work on a shared study: each beats, and one whose beat stands still is given up.

A beat is a number in the study that its owner raises. Whoever watches counts by its own clock how long the number has
stood still, so clocks need not agree. On the same machine a process that is gone is noticed at once. One that ends in
good order leaves a last beat that says so.
"""

import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import optuna

from autolr.optimization.optuna_access import storage_of, study_id

BEAT_SECONDS = 10.0
"""Between two beats."""
GRACE_SECONDS = 60.0
"""For which a beat may stand still before its owner counts as dead."""
GOODBYE_SECONDS = 5.0
"""For which the end waits until the others can read it; they do without where the database is away."""
_BEAT = "autolr:beat:"
_ENDED = -1
"""The beat of a process that works no more."""


def _machine() -> str:
    """Return what names this machine, or container, until it is started anew."""
    boot, processes = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    parts = [boot.read_text().strip() if boot.exists() else "", str(processes.readlink()) if boot.exists() else ""]
    return "/".join([socket.gethostname(), *parts]).replace(" ", "_")


def _started(pid: int) -> str:
    """Return when a process began, as the kernel counts it; "gone" where there is none.

    Where there is no /proc a process counts as alive until its beat stands still.
    """
    if not Path("/proc/self/stat").exists():
        return "unknown"
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "gone"
    return "gone" if fields[0] == "Z" else fields[19]


def _signature() -> str:
    return f"{_machine()} {os.getpid()} {_started(os.getpid())} {uuid.uuid4().hex[:8]}"


@dataclass
class Heartbeat:
    """This process's entry among those that work on a study, and what it sees of the others.

    Attributes:
        study: that they share.
    """

    study: optuna.Study
    me: str = field(default_factory=_signature)
    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)
    _beats: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _error: BaseException | None = None
    _beaten: float = field(init=False)

    def __post_init__(self) -> None:
        self._beaten = time.monotonic()

    def start(self) -> None:
        """Begin to beat, in a thread of its own."""
        self._beat()
        self._thread = threading.Thread(target=self._run, name="autolr beat", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Beat no more, and let the others know."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(GOODBYE_SECONDS)

    def alive(self, owner: str | None) -> bool:
        """Tell whether an owner still works, as far as is known; None: an owner that has not signed yet."""
        if owner == self.me:
            return True
        gone = None if owner is None else _gone(owner)
        if gone:
            return False
        beat = storage_of(self.study).get_study_system_attrs(study_id(self.study)).get(f"{_BEAT}{owner}", 0)
        if beat == _ENDED:
            return False
        return gone is False or self._moves(str(owner), beat)

    def unsigned(self, trial: int) -> bool:
        """Tell whether a running trial that nobody has signed may still be signed."""
        return self._moves(f"trial {trial}", 0)

    def check(self) -> None:
        """Raise what ended the beats of this process, whose trials others would now take over."""
        if self._error is not None:
            raise self._error

    def _moves(self, name: str, beat: int) -> bool:
        self._forget_if_away()
        now = time.monotonic()
        before, since = self._seen.get(name, (None, now))  # read once: the thread that beats may forget them all
        if before != beat:
            since = now
        self._seen[name] = (beat, since)
        return now - since < GRACE_SECONDS

    def _run(self) -> None:
        try:
            while not self._stop.wait(BEAT_SECONDS):
                self._beat()
            self._say(_ENDED)
        except BaseException as error:  # noqa: BLE001  a thread's boundary: check() raises it, whatever it is
            self._error = error

    def _beat(self) -> None:
        self._beats += 1
        self._say(self._beats)
        self._forget_if_away()
        self._beaten = time.monotonic()

    def _say(self, beat: int) -> None:
        storage_of(self.study).set_study_system_attr(study_id(self.study), _BEAT + self.me, beat)

    def _forget_if_away(self) -> None:
        """Begin to count anew where this process could not beat for a while: then the others could not either."""
        if time.monotonic() - self._beaten > 2 * BEAT_SECONDS:
            self._seen.clear()


def _gone(owner: str) -> bool | None:
    """Tell whether a process of this machine is gone; None for one of another machine."""
    machine, pid, started, *_ = owner.split(" ")
    if machine != _machine():
        return None
    return _started(int(pid)) != started
