"""What a user may get wrong is answered in three lines: what, where, how to fix it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

MISTAKES: dict[str, tuple[list[str], str]] = {
    "unknown verb": (["bild"], "Did you mean `build`?"),
    "unknown recipe": (["build", "smal"], "Did you mean `small`?"),
    "unknown parameter": (["build", "small", "threshhold=0.8"], "Did you mean `threshold`?"),
    "parameter of the wrong type": (["build", "small", "threshold=high"], "is not of type float"),
    "parameter without a value": (["build", "small", "threshold"], "is not `name=value`"),
    "value that cannot be": (["build", "small", "threshold=7"], "`threshold` must be in (0, 1]"),
    "rule for keepers with a typo": (["build", "small", "--explain", "keep=n_tokns desc"], "Did you mean `n_tokens`?"),
    "unknown function": (["train", "small:bas"], "Did you mean `base`?"),
    "which function": (["train", "small"], "which one? base, tuned"),
    "typo in SQL": (["sql", "select sorce from small"], "source"),
    "unknown table": (["sql", "select * from smal"], "small"),
    "SQL that is no query": (["sql", "selec 1"], "syntax"),
    "SQL that writes": (["sql", "copy small to 'x.csv'"], "--csv"),
    "unknown subset": (["train", "small:base", "subset=none"], "there is no subset `none`"),
    "predicate with a typo": (["pick", "clean", "n_token > 3"], "n_tokens"),
    "predicate that selects nothing": (["pick", "clean", "n_tokens < 0"], "n_tokens < 0"),
    "unknown corpus": (["pick", "clean", "true", "--from", "smal"], "Did you mean `small`?"),
    "name that cannot be": (["pick", "../clean", "true"], "cannot be a name"),
    "unknown run": (["deploy", "x", "--base", "y"], "there is no run"),
    "nothing to trace": (["trace", "x", "--step", "1"], "there is no run `x`"),
    "unknown kind": (["ls", "subsetts"], "Did you mean `subsets`?"),
    "unknown thing": (["show", "corpus/smal"], "Did you mean `small`?"),
    "a word that is no thing": (["show", "nothing"], "is not `kind/name`"),
    "a name without its kind": (["show", "small"], "Did you mean `corpus/small` or `recipe/small`?"),
    "what a name stood for once": (["show", "corpus/small@0000"], "It is now `corpus/small@"),
    "a value for a condition": (["pick", "clean", "n_tokens"], "a value of type BIGINT"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered_in_words(name: str, built: Path, tilth: Run) -> None:
    words, answer = MISTAKES[name]
    said = tilth(*words, cwd=built, expect=2).stderr
    assert answer in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) <= 5


def test_outside_a_project(tmp_path: Path, tilth: Run) -> None:
    assert "this is not a Tilth project" in tilth("ls", cwd=tmp_path, expect=2).stderr


BROKEN = {
    "syntax": ("def corpus(:\n", "does not import"),
    "import": ("import nothing_of_that_name\n", "nothing_of_that_name"),
    "no corpus": ("x = 1\n", "no function here returns a Corpus"),
    "error inside": ("from tilth import Corpus\ndef corpus() -> Corpus:\n    return 1 / 0\n", "recipe.py:3"),
    "wrong return": ("from tilth import Corpus\ndef corpus() -> Corpus:\n    return 1\n", "returned int, not Corpus"),
    "no sources": (
        "from tilth import Corpus\ndef corpus() -> Corpus:\n    return Corpus(sources=[])\n",
        "needs at least one source",
    ),
    "missing folder": (
        "from tilth import Corpus, Folder\ndef corpus() -> Corpus:\n    return Corpus(sources=[Folder('a', '/nowhere/at/all')])\n",
        "/nowhere/at/all",
    ),
    "missing archive": (
        "from tilth import Corpus, Warc\ndef corpus() -> Corpus:\n    return Corpus(sources=[Warc('a', 'nowhere.warc.gz')])\n",
        "nowhere.warc.gz",
    ),
    "not a repository": (
        "from tilth import Corpus, GitRepository\ndef corpus() -> Corpus:\n    return Corpus(sources=[GitRepository('a', '/etc')])\n",
        "/etc",
    ),
    "unknown signal": (
        "from tilth import Corpus, Folder\ndef corpus() -> Corpus:\n    return Corpus(sources=[Folder('a', '.')], signals=['langage'])\n",
        "Did you mean `language`?",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_recipe_says_where(name: str, tmp_path: Path, tilth: Run) -> None:
    text, answer = BROKEN[name]
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "recipe.py").write_text(text)
    said = tilth("build", "recipe", cwd=tmp_path, expect=2).stderr
    assert answer in said
    assert "Traceback" not in said


def test_input_that_holds_nothing_is_answered_with_what_was_rejected(tmp_path: Path, tilth: Run) -> None:
    """The corpus gets no name then, so that SQL cannot show its rejects."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "noise.warc.gz").write_bytes(b"this is no archive")
    text = "from tilth import Corpus, Warc\ndef corpus() -> Corpus:\n    return Corpus(sources=[Warc('a', 'noise.warc.gz')])\n"
    (tmp_path / "recipes" / "recipe.py").write_text(text)
    said = tilth("build", "recipe", cwd=tmp_path, expect=2).stderr
    assert "nothing could be read: 0 documents, 1 rejected" in said
    assert "noise.warc.gz@0: bad_record" in said
