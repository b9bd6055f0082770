"""A training run in a process of its own, which can be told to die or fail at a chosen moment."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tilth.models.config import ModelConfig
from tilth.trainer import heartbeat, loop, saving
from tilth.trainer.config import TrainConfig


def at_call(function: Callable[..., Any], n: int, act: Callable[[], None]) -> Callable[..., Any]:
    """`function`, with `act` before its n-th call."""
    calls = 0

    def wrapped(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == n:
            act()
        return function(*args, **named)

    return wrapped


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def fail() -> None:
    raise ValueError("boom")


def prepare(setup: dict[str, Any]) -> None:
    """`where` is "target:n": what happens before which call of what, in the process of rank `rank`."""
    heartbeat.SILENT_BEATS = setup.get("silent_beats", heartbeat.SILENT_BEATS)
    if "where" not in setup or int(os.environ.get("RANK", "0")) != setup.get("rank", 0):
        return
    name, n = setup["where"].split(":")
    act = {"die": die, "stop": stop, "fail": fail, "interrupt": lambda: os.kill(os.getpid(), signal.SIGINT)}[setup["act"]]
    owner, attribute = {
        "step": (loop, "_take_step"),
        "digest": (saving, "_digest"),
        "rename": (os, "rename"),
        "rmtree": (shutil, "rmtree"),
        "publish": (loop, "save_model"),
    }[name]
    setattr(owner, attribute, at_call(getattr(owner, attribute), int(n), act))


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
