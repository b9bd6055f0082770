"""The curves of a run on Weights & Biases, from a thread of their own: whatever happens there, the run goes on."""

from __future__ import annotations

import logging
import queue
import threading
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)
MAX_WAITING = 10_000  # lines; beyond them the newest are dropped: metrics.jsonl has them all
LAST_WORD_SECONDS = 10.0  # what the end of a run waits for the last lines to be sent


class OnlineCurves:
    """Sends lines to the project; one warning in the log when that does not work."""

    def __init__(self, project: str, work_dir: Path) -> None:
        self._lines: queue.Queue[dict[str, Any] | None] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._send, args=(project, work_dir), name="wandb", daemon=True)
        self._thread.start()

    def write(self, line: dict[str, Any]) -> None:
        """Take a line to be sent; never waits."""
        if not self._lines.full():
            self._lines.put_nowait(line)

    def close(self) -> None:
        """Send what is left, for at most LAST_WORD_SECONDS."""
        if not self._lines.full():
            self._lines.put_nowait(None)
        self._thread.join(LAST_WORD_SECONDS)
        if self._thread.is_alive():
            log.warning("Weights & Biases did not answer in time: its last curves are missing, those of metrics.jsonl are not")

    def _send(self, project: str, work_dir: Path) -> None:
        try:
            import wandb

            run = wandb.init(project=project, name=work_dir.name, dir=str(work_dir))
            while (line := self._lines.get()) is not None:
                run.log(line, step=line["step"])
            run.finish()
        except BaseException as error:  # its own SystemExit included: nothing of it may end a run
            log.warning("no curves on Weights & Biases: %s: %s", type(error).__name__, error)
