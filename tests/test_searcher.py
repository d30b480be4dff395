"""What passes between Tune's workers and the study."""

from types import SimpleNamespace
from unittest.mock import create_autospec

from autolr.optimization.study.driver import Pace
from autolr.optimization.workers.dispatcher import Dispatcher, Task
from autolr.optimization.workers.ray_driver import REPLY, WORKER, StudySearcher
from autolr.optimization.workers.worker import Reply
from autolr.types import Candidate


class Board:
    """Keeps what is put into the boxes."""

    def __init__(self) -> None:
        self.boxes: list[tuple[str, int]] = []
        self.put = SimpleNamespace(remote=lambda name, task: self.boxes.append((name, task.trial)))


def test_a_task_is_handed_again_only_after_a_worker_has_not_found_it_three_times() -> None:
    """Idleness from before the task was handed out does not count."""
    ready: list[Task] = []
    dispatcher, pace, board = create_autospec(Dispatcher, instance=True), create_autospec(Pace, instance=True), Board()
    dispatcher.next.side_effect = lambda: ready.pop() if ready else None
    pace.finished.return_value = False
    searcher = StudySearcher(dispatcher, pace, board)
    name = searcher.suggest("one")[WORKER]
    for _ in range(2):
        searcher.on_trial_result(name, {REPLY: Reply(), "time_this_iter_s": 1.0})
    ready.append(Task(7, Candidate(()), None, halved=False))
    assert not searcher.over()  # hands it out
    assert board.boxes == [("one", 7)]
    for _ in range(2):
        searcher.on_trial_result(name, {REPLY: Reply(), "time_this_iter_s": 1.0})
    assert board.boxes == [("one", 7)]
    searcher.on_trial_result(name, {REPLY: Reply(), "time_this_iter_s": 1.0})
    assert board.boxes == [("one", 7)] * 2
    assert searcher.error is None
