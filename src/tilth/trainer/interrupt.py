"""Ctrl-C as a wish: the step is finished and saved first; a second one stops at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Wish:
    """True once the user asked to stop."""

    def __init__(self) -> None:
        self.is_set = False


@contextlib.contextmanager
def stop_wish() -> Iterator[Wish]:
    """Turn the first SIGINT inside the block into a wish. Outside the main thread Python allows no handler, and none is set."""
    wish = Wish()
    if threading.current_thread() is not threading.main_thread():
        yield wish
        return
    before = signal.getsignal(signal.SIGINT)

    def note(number: int, frame: FrameType | None) -> None:
        wish.is_set = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield wish
    finally:
        signal.signal(signal.SIGINT, before)
