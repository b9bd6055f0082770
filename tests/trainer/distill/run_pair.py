"""One of two processes that take all stages together, and store a teacher's predictions. argv: setup."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tilth.models.config import ModelConfig
from tilth.trainer import loop
from tilth.trainer.config import TrainConfig
from tilth.trainer.distill.teacher_pass import store_logits
from tilth.trainer.given import Given


def main() -> None:
    setup = json.loads(Path(sys.argv[1]).read_text())
    folder, tokens, teacher = (Path(setup[name]) for name in ("work_dir", "tokens", "teacher"))
    base = TrainConfig.from_dict(setup["train"])
    store_logits(teacher, base, tokens, folder / "stored" / "logits", 8)
    for name, settings in setup["stages"].items():
        loop.train(
            ModelConfig.from_dict(setup["model"]),
            TrainConfig.from_dict({**setup["train"], **settings}),
            tokens,
            Path(setup["validation"]),
            folder / name,
            Given(Path(setup["initial"]), teacher, folder / "stored" / "logits" if name == "stored_student" else None),
        )


if __name__ == "__main__":
    main()
