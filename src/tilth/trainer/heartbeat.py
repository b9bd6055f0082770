"""A sign of life from every process each second: who died, or stopped answering, is known by name."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from typing import Any

log = logging.getLogger(__name__)
BEAT_SECONDS = 1.0
# Counted in beats of one's own, so that a job which was stopped and continued as a whole has missed none.
SILENT_BEATS = 40
_GRACE_SECONDS = 10.0
_WORD_SECONDS = 2.0
_STORE_LOST = "the store of the run is gone: process 0 or the launcher, whichever held it, died"


class Heartbeat(threading.Thread):
    """Beats in the store and watches the next process of the ring.

    When a process dies its connections close, which wakes those that wait for it in a collective. A process that is
    stopped closes none, and what waits for it cannot be woken: so when the loop has not ended by itself
    `_GRACE_SECONDS` after the word of a failure, this process exits with code 1.
    """

    def __init__(self, store: Any, rank: int, size: int) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self.store = store.clone()  # a connection of its own: the loop may be waiting on the other
        self.rank, self.size = rank, size
        self._word = ""  # why training stops, once it is known
        self._ended = threading.Event()

    def run(self) -> None:
        try:
            self._watch()
        except Exception as error:
            if not self._ended.is_set():
                log.debug("the store cannot be read: %s", error)
                self._give_up(self._word or _STORE_LOST)

    def end(self) -> None:
        """No sign of life is owed from here on."""
        self._ended.set()

    def hear(self) -> str:
        """The word that a failing process left, or "". That process, which may hold the store, waits until all have heard."""
        if not self._word and self.store.check(["failed"]):
            self._word = str(self.store.get("failed").decode())
            self.store.set(f"heard/{self.rank}", "")
        return self._word

    def who_failed(self) -> str:
        """What the process at fault said, or else the names of those whose beat has stopped."""
        try:
            end = time.monotonic() + _WORD_SECONDS
            while not self.hear() and time.monotonic() < end:
                time.sleep(0.05)
            if self._word:
                return self._word
            before = self._beats()
            time.sleep(3 * BEAT_SECONDS)
            after = self._beats()
        except Exception:
            return self._word or _STORE_LOST
        silent = [str(rank) for rank in range(self.size) if before[rank] == after[rank] and rank != self.rank]
        who = f"process {', '.join(silent)}" if silent else "another process"
        return f"{who} died or stopped answering"

    def _watch(self) -> None:
        watched, last, n_missed, n_beats = (self.rank + 1) % self.size, "", 0, 0
        while not self._ended.wait(BEAT_SECONDS):
            n_beats += 1
            self.store.set(f"beat/{self.rank}", str(n_beats))
            beat = self._beat(watched)
            n_missed = n_missed + 1 if beat == last else 0
            last = beat
            if n_missed > SILENT_BEATS:
                self._give_up(f"process {watched} has not answered for {n_missed * BEAT_SECONDS:.0f} s")
            elif self.hear():
                self._give_up(self._word)

    def _give_up(self, word: str) -> None:
        with contextlib.suppress(Exception):
            self.store.compare_set("failed", "", word)
        if not self._ended.wait(_GRACE_SECONDS):
            log.critical("training stopped: %s (process %d of %d)", word, self.rank, self.size)
            os._exit(1)

    def _beats(self) -> list[str]:
        return [self._beat(rank) for rank in range(self.size)]

    def _beat(self, rank: int) -> str:
        key = f"beat/{rank}"
        return self.store.get(key).decode() if self.store.check([key]) else ""
