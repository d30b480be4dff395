"""A change of the process that blocks in several threads make at once, and that is undone when the last one ends."""

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager


def shared_change(
    change: Callable[[], AbstractContextManager[None]],
) -> Callable[[], AbstractContextManager[None]]:
    """Return a context manager whose overlapping blocks share one change: the first makes it, the last undoes it.

    If each block saved and restored for itself, one that began while another was under way would restore what that one
    had changed, for good.

    Example:
        >>> @shared_change
        ... @contextmanager
        ... def shout():
        ...     print("made")
        ...     yield
        ...     print("undone")
        >>> with shout(), shout():
        ...     print("both")
        made
        both
        undone
    """
    lock, made, blocks = threading.Lock(), ExitStack(), 0

    @contextmanager
    def shared() -> Iterator[None]:
        nonlocal blocks
        with lock:
            if blocks == 0:
                made.enter_context(change())
            blocks += 1
        try:
            yield
        finally:
            with lock:
                blocks -= 1
                if blocks == 0:
                    made.close()

    return shared
