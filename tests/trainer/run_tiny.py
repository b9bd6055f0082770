"""A training run in a process of its own, which can be told to die or fail at a chosen moment."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tilth.models.config import ModelConfig
from tilth.trainer import heartbeat, loop, saving
from tilth.trainer.config import TrainConfig


def at_call(function: Callable[..., Any], n: int, acts: Sequence[Callable[[], None]]) -> Callable[..., Any]:
    """`function`, with `acts` before its n-th call."""
    calls = 0

    def wrapped(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        for act in acts if calls == n else ():
            act()
        return function(*args, **named)

    return wrapped


def settle(work_dir: Path) -> None:
    """Wait until no process is writing a checkpoint, so that which is the last is no matter of chance."""
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()
    while any((work_dir / "checkpoints").glob(".partial-*")):
        time.sleep(0.01)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def fill_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def fail() -> None:
    raise ValueError("boom")


def prepare(setup: dict[str, Any]) -> None:
    """`where` is "target:n": what happens before which call of what, in the process of rank `rank`."""
    heartbeat.SILENT_BEATS = setup.get("silent_beats", heartbeat.SILENT_BEATS)
    if "where" not in setup or int(os.environ.get("RANK", "0")) != setup.get("rank", 0):
        return
    name, n = setup["where"].split(":")
    acts = {"die": die, "stop": stop, "fill": fill_disk, "fail": fail, "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT)}
    then = [partial(settle, Path(setup["work_dir"]))] * (name == "step") + [acts[setup["act"]]]
    owner, attribute = {
        "step": (loop, "_take_step"),
        "digest": (saving, "_digest"),
        "rename": (os, "rename"),
        "rmtree": (shutil, "rmtree"),
        "publish": (loop, "save_model"),
    }[name]
    setattr(owner, attribute, at_call(getattr(owner, attribute), int(n), then))


def main() -> None:
    setup = json.loads(Path(sys.argv[1]).read_text())
    logging.basicConfig(level=logging.INFO)
    prepare(setup)
    for _ in range(setup.get("times", 1)):
        result = loop.train(
            ModelConfig.from_dict(setup["model"]),
            TrainConfig.from_dict(setup["train"]),
            Path(setup["tokens"]),
            Path(setup["validation"]),
            Path(setup["work_dir"]),
        )
        report = {"digest": result.weights_digest, "resumed_from": result.resumed_from, "loss": result.final_loss}
        # one write: `print` makes two, and the lines of two processes would run into each other
        os.write(1, (json.dumps(report) + "\n").encode())


if __name__ == "__main__":
    main()
