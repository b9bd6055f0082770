"""From a corpus to answers: the serving recipe as a user runs it, and what a server answers for by the names of a project."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tilth.errors import DeltaError, NotFoundError, UserError
from tilth.pipeline.served_models import find_models

Run = Callable[..., subprocess.CompletedProcess[str]]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def project(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty project with the recipe."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "recipes").mkdir()
    shutil.copy(repository / "recipes" / "serve.py", folder / "recipes")
    return folder


@pytest.fixture(scope="module")
def said(project: Path) -> str:
    """What the whole recipe printed, at a small size."""
    words = [sys.executable, "recipes/serve.py", "megabytes=0.6", "base_steps=30", "tuned_steps=12"]
    done = subprocess.run(words, cwd=project, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_base_and_tenants_answer_and_what_they_share_is_cached(said: str) -> None:
    assert "models: base, prose, python" in said
    answers = re.findall(r"^(\w+), turn (\d): (\d+) tokens, (\d+) cached, \d+ ms: ", said, re.MULTILINE)
    assert [(name, turn) for name, turn, _, _ in answers] == [
        (name, turn) for name in ("base", "prose", "python") for _ in range(4) for turn in "12"
    ]
    for name in ("base", "prose", "python"):
        cached = [int(n) for who, _, _, n in answers if who == name]
        assert cached[0] == 0, "nobody's cache is another's"
        # the instructions are a known path from the second question on, and reused from the third
        assert min(cached[4::2]) > 50
    rate = re.search(r"(\d+) of (\d+) prompt tokens came from the cache", said)
    assert rate is not None
    assert [int(n) for n in rate.groups()] == [sum(int(row[i]) for row in answers) for i in (3, 2)]


def test_models_are_found_by_the_names_of_the_project(said: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    found = find_models("base")
    assert (found.name, sorted(found.deltas), found.outdated) == ("base", ["prose", "python"], ())
    assert find_models("base", ["prose"]).deltas == {"prose": found.deltas["prose"]}
    by_file = find_models(str(found.folder), [f"poet={found.deltas['prose']}", f"coder={found.deltas['python'].parent}"])
    assert by_file.deltas == {"poet": found.deltas["prose"], "coder": found.deltas["python"]}
    assert find_models(str(found.folder)).deltas == {}


def test_what_cannot_be_served_is_refused_in_words(said: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    with pytest.raises(NotFoundError, match="Did you mean `base`"):
        find_models("bas")
    with pytest.raises(NotFoundError, match="Did you mean `prose`"):
        find_models("base", ["pros"])
    with pytest.raises(NotFoundError, match="no delta file"):
        find_models("base", ["x=nowhere.safetensors"])
    with pytest.raises(DeltaError, match="another base"):
        find_models("prose", ["python"])
    with pytest.raises(UserError, match="same name"):
        find_models("base", ["prose", "prose"])
    with pytest.raises(UserError, match="the name of the base"):
        find_models("base", [f"base={find_models('base').deltas['prose']}"])


def test_deltas_of_a_base_that_was_trained_anew_are_left_out_by_name(
    said: str, project: Path, tilth: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    tilth("train", "serve:base", "steps=2", cwd=project)
    found = find_models("base")
    assert (found.deltas, found.outdated) == ({}, ("prose", "python"))
    with pytest.raises(DeltaError, match="trained anew since delta `prose`"):
        find_models("base", ["prose"])
