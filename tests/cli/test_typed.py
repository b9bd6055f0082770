"""Verbs from a recipe: shown, run, and waited for when the user stops them."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from tilth.cli.typed import typed


def test_a_verb_is_shown_and_its_failure_ends_the_recipe(capfd: pytest.CaptureFixture[str]) -> None:
    typed("--version")
    assert capfd.readouterr().out.startswith("\n$ tilth --version\n")
    with pytest.raises(SystemExit) as ended:
        typed("verb that is none")
    assert ended.value.code == 2
    assert "$ tilth 'verb that is none'" in capfd.readouterr().out


def test_a_verb_that_is_stopped_has_time_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where it then ends well: the next verb shall not begin."""
    waited: list[str] = []

    class Running:
        def __init__(self, command: list[str], **others: Any) -> None:
            waited.append("begun")

        def wait(self) -> int:
            waited.append("waited")
            if len(waited) == 2:
                raise KeyboardInterrupt
            return 0

    monkeypatch.setattr(subprocess, "Popen", Running)
    with pytest.raises(KeyboardInterrupt):
        typed("train", "distill:teacher")
    assert waited == ["begun", "waited", "waited"]
