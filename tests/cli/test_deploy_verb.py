"""What `tilth deploy` says while it works and of what came of it; the work itself is elsewhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from tilth.cli.model_verbs import deploy
from tilth.pipeline import deploy as pipeline_deploy
from tilth.pipeline import progress
from tilth.pipeline.project import Project

META: dict[str, Any] = {
    "size_bytes": 1_000_000, "full_size_bytes": 13_900_000, "ratio": 13.9, "bf16_ratio": 6.96, "codec": "rank1",
    "matrix_bytes": 1, "table_bytes": 2, "other_bytes": 3, "loss_base": 3.5, "loss_tuned": 3.25, "loss_delta": 3.26,
    "agreement": 0.99, "n_task_answers": 0, "max_logit_error": 0.5, "sample": "text",
}  # fmt: skip


def run(monkeypatch: pytest.MonkeyPatch, *words: str, **meta: float) -> tuple[str, str]:
    """What the verb prints on stdout and stderr, where deploying gives META | meta after two steps."""

    def compressed(*_: object, on_step: Any, **__: object) -> SimpleNamespace:
        on_step(1, 0.75)
        on_step(2, 0.5)
        return SimpleNamespace(label="delta/tuned@0", meta=META | meta)

    monkeypatch.setenv("COLUMNS", "80")  # nothing that matters may be cut there
    monkeypatch.setattr(Project, "find", lambda: None)
    monkeypatch.setattr(pipeline_deploy, "deploy", compressed)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    done = CliRunner().invoke(deploy, ["tuned", "--base", "base", "--distill-steps", "2", *words], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout, done.stderr


def test_it_says_how_far_the_distillation_is(monkeypatch: pytest.MonkeyPatch) -> None:
    _, said = run(monkeypatch)
    assert [line.partition(";")[0] for line in said.splitlines()] == [
        "deploy tuned: 1 of 2, mean squared error of the logits 0.75",
        "deploy tuned: 2 of 2, mean squared error of the logits 0.5",
    ]


def test_the_size_is_compared_with_bf16_first(monkeypatch: pytest.MonkeyPatch) -> None:
    printed, _ = run(monkeypatch)
    assert "1.0 MB (6.96x smaller than bf16, 13.9x than 13.9 MB stored)" in printed


@pytest.mark.parametrize("words", [[], ["--json"]])
def test_a_fine_tune_that_gained_nothing_is_warned_of(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    assert "warning" not in run(monkeypatch, *words)[1]
    printed, said = run(monkeypatch, *words, loss_tuned=3.51)
    assert "warning: the fine-tune gained -0.0100 nats" in said
    assert "warning" not in printed
