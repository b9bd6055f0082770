"""Errors by tree-sitter's grammars: counted where a text is broken, none where it is whole, and said what is not installed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilth.errors import RecipeError
from tilth.quality_signals.families import parse_errors as family

pytest.importorskip("tree_sitter", reason="needs tilth[code]")
Score = Callable[..., dict[str, Any]]
# A whole text, and the same one broken.
TEXTS = {
    "Python": ("def f(x):\n    return x\n", "def f(x:\n    return = x\n"),
    "JavaScript": ("const f = (x) => x + 1;\n", "const = (x => x +;\n"),
    "TypeScript": ("let x: number = 1;\n", "let x: : number = 1;\n"),
    "TSX": ("const a = <b>{x as string}</b>;\n", "const a = <b>{x as string}</c;\n"),
    "Java": ("class A { int x = 1; }\n", "class A { int x = = 1; }\n"),
    "C": ("int main(void) { return 0; }\n", "int main(void { return 0 }\n"),
    "C++": ("template <class T> T f(T x) { return x; }\n", "template <class T T f(T x) { return x }\n"),
    "Go": ("package a\n\nfunc f() int { return 1 }\n", "package a\n\nfunc f( int { return 1 }\n"),
    "Rust": ("fn f(x: &str) -> i32 { 1 }\n", "fn f(x: &str -> i32 { 1 }\n"),
    "Ruby": ("def f(x)\n  x + 1\nend\n", "def f(x\n  x + \nend\n"),
    "PHP": ("<?php function f($x) { return $x; }\n", "<?php function f($x { return $x }\n"),
    "Shell": ("for a in b; do\n  echo $a\ndone\n", "for a in b; do\n  echo $(a\ndone\n"),
}


@pytest.mark.parametrize("language", TEXTS)
def test_a_whole_text_has_no_error_and_a_broken_one_has(score: Score, language: str) -> None:
    whole, broken = TEXTS[language]
    found = score("parse_errors", whole, language=language)
    assert (found["n_parse_errors"], found["parse_error_fraction"]) == (0, 0.0)
    found = score("parse_errors", broken, language=language)
    assert found["n_parse_errors"] >= 1
    assert 0 <= found["parse_error_fraction"] <= 1


def test_an_error_inside_another_counts_once_and_the_share_is_that_of_bytes(score: Score) -> None:
    found = score("parse_errors", "x = 1\n@@@ é\n" + "y = 2\n" * 9, language="Python")
    assert found["n_parse_errors"] >= 1
    assert 0 < found["parse_error_fraction"] < 0.2


def test_our_own_files_have_no_errors(score: Score) -> None:
    files = sorted(Path(family.__file__).parent.glob("*.py"))
    assert len(files) > 10
    assert {score("parse_errors", path.read_text(), language="Python")["n_parse_errors"] for path in files} == {0}


def test_other_languages_and_long_texts_are_undefined(score: Score) -> None:
    assert score("parse_errors", "x", language="TeX")["parse_errors_undefined"] == "no grammar for the language"
    assert score("parse_errors", "x", language=None)["n_parse_errors"] is None
    assert score("parse_errors", "", language="C")["parse_errors_undefined"] == "empty text"
    long = score("parse_errors", "x" * (family.MAX_BYTES + 1), language="C")
    assert long["parse_errors_undefined"] == f"text of more than {family.MAX_BYTES} bytes"


def test_a_grammar_that_is_not_installed_is_named_with_what_to_install(score: Score, monkeypatch: pytest.MonkeyPatch) -> None:
    family._parser.cache_clear()
    monkeypatch.setitem(sys.modules, "tree_sitter_go", None)
    with pytest.raises(RecipeError, match="need the grammar of Go") as caught:
        score("parse_errors", "package a", language="Go")
    assert caught.value.fix == "pip install 'tilth[code]'"
