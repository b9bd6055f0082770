"""Each stage three times in processes forked from this one: whole, killed in its fifth step, and begun again. argv: setup."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.utils.tensorboard  # noqa: F401 (a second, which each run would pay)

from tilth.models.config import ModelConfig
from tilth.trainer import loop
from tilth.trainer.config import TrainConfig
from tilth.trainer.given import Given


def forked(work: Callable[[], None]) -> int:
    """The exit code of `work` in a process of its own, -9 when it was killed."""
    process = os.fork()
    if not process:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def main() -> None:
    setup: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    codes = {}
    for name, settings in setup["stages"].items():

        def stage(folder: str, name: str = name, settings: dict[str, Any] = settings) -> None:
            config = TrainConfig.from_dict({**setup["train"], **settings["train"]})
            tokens, validation, initial, teacher = (Path(setup[key]) for key in ("tokens", "validation", "initial", "teacher"))
            stored = Path(settings["teacher_logits"]) if "teacher_logits" in settings else None
            work_dir, given = Path(setup["work_dir"]) / name / folder, Given(initial, teacher, stored)
            loop.train(ModelConfig.from_dict(setup["model"]), config, tokens, validation, work_dir, given)

        def killed(stage: Callable[[str], None] = stage) -> None:
            real, n_steps = loop._take_step, 0

            def step(*arguments: Any) -> Any:
                nonlocal n_steps
                n_steps += 1
                if n_steps == 5:
                    arguments[0].saver.wait()  # so that which checkpoint is the last is no matter of chance
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments)

            loop._take_step = step
            stage("killed")

        codes[name] = [forked(lambda: stage("whole")), forked(killed), forked(lambda: stage("killed"))]
    print(json.dumps(codes))


if __name__ == "__main__":
    main()
