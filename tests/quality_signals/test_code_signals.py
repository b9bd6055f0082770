"""Signals of source files: comments of many languages, visible text, marks in the first lines; equal to slow references."""

from __future__ import annotations

import ast
import io
import re
import time
import tokenize
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.quality_signals.fused.comment_styles import style_numbers
from tilth.quality_signals.registry import compute_families, compute_family, get_family

Score = Callable[..., dict[str, Any]]
ENCODED = (
    re.compile(r"[a-zA-Z0-9+/\n=]{64,}"),
    re.compile(r"(?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,|\b\s*)){8,}"),
    re.compile(r"(?:\\u[0-9a-fA-F]{4}){8,}"),
)


def measured(text: str) -> dict[str, Any]:
    """The shape by Python's own methods and the published regular expressions."""
    spans = sorted(match.span() for pattern in ENCODED for match in pattern.finditer(text))
    lengths = [len(line) - line.endswith("\r") for line in text.removesuffix("\n").split("\n")]
    return {
        "n_lines": len(lengths),
        "mean_line_length": sum(lengths) / len(lengths),
        "max_line_length": max(lengths),
        "alphanumeric_fraction": sum(map(str.isalnum, text)) / len(text),
        "alphabetic_fraction": sum(map(str.isalpha, text)) / len(text),
        "encoded_data_fraction": len({place for span in spans for place in range(*span)}) / len(text),
        "longest_encoded_run": max((end - start for start, end in spans), default=0),
    }


PIECES = [
    "ab",
    "0x1f,",
    "\\x0a",
    "de ",
    "\\u00e9",
    "QUJD",
    "=",
    "\n",
    "\r\n",
    " ",
    "\xa0",
    "é",
    "_",
    "漢",
    "٣",
    ",",
    "zz",
    "\\",
    "\x1f",
    "x",
    "²",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PIECES), st.integers(1, 20)), min_size=1, max_size=25))
def test_shapes_are_those_of_the_published_expressions(score: Score, pieces: list[tuple[str, int]]) -> None:
    text = "".join(piece * n for piece, n in pieces)
    found = score("code_shape", text)
    assert {name: found[name] for name in measured(text)} == measured(text)


COMMENTS = [
    ("C", "int a; // x é\n/* b */ char *s = \"// no\"; char c = '\"'; // y", ["// x é", "/* b */", "// y"]),
    ("C++", 'auto s = R"x(// no )" )x"; // c\nint n = 1\'000; // d', ["// c", "// d"]),
    ("C#", 'var p = @"C:\\"; // c\nvar q = @"a""// no"; // d', ["// c", "// d"]),
    ("Java", '/** doc */ String s = """\n// no \\""" "\n"""; // c', ["/** doc */", "// c"]),
    ("JavaScript", 'a = /[/"]/; // c\nb = 1 / 2; // d\n`// no`; x = y / z / 2 // e', ["// c", "// d", "// e"]),
    ("TypeScript", "return /\\/\\//g; // c", ["// c"]),
    ("Go", "s := `// no\n` + \"//\" // c", ["// c"]),
    ("Rust", "fn f<'a>(x: &'a str) {} // c\nlet s = r#\"// \" no\"#; /* a /* b */ c */ x", ["// c", "/* a /* b */ c */"]),
    ("Kotlin", "/* a /* b */ c */ val s = \"\"\"// no\"\"\"", ["/* a /* b */ c */"]),
    ("Swift", 'let s = "\\"// no" // c', ["// c"]),
    ("PHP", "http://x # no\n<?php // c ?> # no\n<?php # d\n$s = '# no';", ["// c ", "# d"]),
    ("CSS", "a { content: '/*'; } /* c */", ["/* c */"]),
    ("Ruby", '=begin\nx\n=end\nputs "#{a}" # c\n', ["=begin\nx\n=end", "# c"]),
    ("Perl", "my $n = $#array; # c\n\n=head1 X\n\ndoc\n\n=cut\n1;", ["# c", "=head1 X\n\ndoc\n\n=cut"]),
    ("Shell", "echo $# ${a#b} '# no' # c\n", ["# c"]),
    ("YAML", "a: don't # c\nurl: x#y\n", ["# c"]),
    ("TOML", 'a = "# no" # c', ["# c"]),
    ("R", "x <- '#' # c", ["# c"]),
    ("Julia", "y = x' # c\n#= a #= b =# =# z", ["# c", "#= a #= b =# =#"]),
    ("PowerShell", "<# a #> 'x # no' # c", ["<# a #>", "# c"]),
    ("Haskell", "f' x = 'a' -- c\n{- a {- b -} -}", ["-- c", "{- a {- b -} -}"]),
    ("Lua", "--[[ a\nb ]] x = '-- no' -- c\n", ["--[[ a\nb ]]", "-- c"]),
    ("SQL", "select 'it''s -- no' -- c\n/* d */", ["-- c", "/* d */"]),
    ("Ada", "C : Character := '\"'; -- c", ["-- c"]),
    ("OCaml", "let c = '\"' (* a (* b *) *)", ["(* a (* b *) *)"]),
    ("Common Lisp", "(char= #\\; c) ; d\n#| a #| b |# |#", ["; d", "#| a #| b |# |#"]),
    ("TeX", "50\\% of % c\n\\\\% d", ["% c", "% d"]),
    ("Erlang", 'f() -> "% no". % c', ["% c"]),
    ("MATLAB", "x = a'; % c\nfprintf('%d'); % d\n", ["% c", "% d"]),
    ("Fortran", "print *, '! no' ! c", ["! c"]),
    ("HTML", "<p> // no <!-- c --> </p>", ["<!-- c -->"]),
    ("Python", '"""Doc."""\nimport a  # c\ndef f():  # d\n    r"""Doc2"""\n    x = "# no"\n    """not"""\n', ["Doc.", "# c", "# d", "Doc2"]),
    ("Python", 'class A(\n    B,\n):\n    "doc"; x = 1\nif a:\n    "not"\ndef f(): "not"\n', ["doc"]),
]  # fmt: skip


@pytest.mark.parametrize(("language", "text", "comments"), COMMENTS)
def test_comments_of_a_language(score: Score, language: str, text: str, comments: list[str]) -> None:
    found = score("code_comments", text, language=language)
    assert found["n_comment_chars"] == sum(map(len, comments))
    assert found["comment_fraction"] == sum(map(len, comments)) / len(text)
    assert found["code_comments_undefined"] is None


def test_comments_are_undefined_where_no_style_is_known(score: Score) -> None:
    for language in ("Klingon", None):
        found = score("code_comments", "# x", language=language)
        assert found["n_comment_chars"] is found["comment_fraction"] is None
        assert found["code_comments_undefined"] == "no comment style is known for the language"
    assert score("code_comments", "", language="C")["code_comments_undefined"] == "empty text"


def by_tokenize_and_ast(text: str) -> int:
    """Characters of Python's comments, and of docstrings between their quotation marks."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    n = sum(len(token.string) for token in tokens if token.type == tokenize.COMMENT)
    lines = text.encode().split(b"\n")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and ast.get_docstring(
            node, False
        ):
            place = node.body[0].value  # type: ignore[attr-defined]
            own = lines[place.lineno - 1 : place.end_lineno]
            own[-1] = own[-1][: place.end_col_offset]
            own[0] = own[0][place.col_offset :]
            literal = b"\n".join(own).decode().lstrip("rRuU")
            n += len(literal) - (6 if literal[:3] in ('"""', "'''") else 2)
    return n


def test_comments_of_the_standard_library_are_those_of_its_own_tokenizer(score: Score) -> None:
    files = sorted(Path(ast.__file__).parent.glob("*.py"))[::4]
    texts = {path.name: path.read_text(errors="replace") for path in files}
    assert len(texts) > 30
    found = {name: score("code_comments", text, language="Python")["n_comment_chars"] for name, text in texts.items()}
    assert found == {name: by_tokenize_and_ast(text) for name, text in texts.items()}


@pytest.mark.parametrize(
    ("html", "visible"),
    [
        ("<p a='>'>ab&amp;c & d</p>", "ab&c & d"),
        ("<script>var a = '<b>';</script>x<STYLE >p{}</style>y", "xy"),
        ("a<!-- b > c -->d<!DOCTYPE html><?pi?>", "ad"),
        ("1 < 2 && é", "1 < 2 && é"),
        ("<p>open <b", "open "),
        ("<script>never closed", ""),
        ("<!-- never closed <b>x</b>", "x"),
        ("&#233;&eacute;&unknown ;", "éé&unknown ;"),
        ("<scripted>a</scripted>", "a"),
    ],
)
def test_visible_text_of_html(score: Score, html: str, visible: str) -> None:
    found = score("code_html", html, language="HTML")
    assert found["html_visible_chars"] == len(visible)
    assert found["html_visible_fraction"] == len(visible) / len(html)


def test_what_is_not_html_has_no_visible_text(score: Score) -> None:
    for language in ("C", None):
        found = score("code_html", "<p>x", language=language)
        assert found["html_visible_chars"] is None
        assert found["code_html_undefined"] == "not HTML"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("// AUTO-GENERATED by x", True),
        ("\n\n\n\nautogenerated", True),
        ("\n\n\n\n\nautogenerated", False),
        ("# this file is generated", True),
        ("# generated automatically", True),
        ("# we generated this", False),
        ("x" * 20_001 + " autogenerated", False),
    ],
)
def test_files_that_say_they_are_generated(score: Score, text: str, says: bool) -> None:
    assert score("code_head", text)["says_generated"] is says


def test_xml_is_told_by_its_head(score: Score) -> None:
    assert score("code_head", "é" * 86 + "<?xml version='1.0'?>")["has_xml_head"] is True
    assert score("code_head", "é" * 87 + "<?xml version='1.0'?>")["has_xml_head"] is False


MEGABYTES = {
    "spaces": " " * 4_000_000,
    "pairs": "ab " * 1_300_000,
    "pairs without end": "ab " * 7 + "x" + ("ab " * 7 + "x") * 150_000,
    "escapes": "\\u00e" * 600_000,
    "slashes": "=/[" * 1_300_000,
    "quotes": "\"'`" * 1_300_000,
    "openings": "/*" * 2_000_000,
    "comments of HTML": "<!--" * 1_000_000,
    "tags": "<a b='" * 600_000,
    "backslashes": "\\" * 4_000_000 + "%",
    "hashes": '#"' * 2_000_000,
    "raw strings": 'R"x(' * 1_000_000,
}


@pytest.mark.parametrize("name", MEGABYTES)
def test_megabytes_in_one_line_take_linear_time(documents: Callable[..., pa.Table], name: str) -> None:
    text = MEGABYTES[name]
    languages = ["C", "C++", "JavaScript", "Rust", "Python", "HTML", "TeX", "PHP", "Shell"]
    chosen = [get_family(family) for family in ("code_shape", "code_head", "code_html", "code_comments")]
    compute_families(chosen, documents(["x"], language=["C"]))
    start = time.process_time()
    compute_families(chosen, documents([text] * len(languages), language=languages))
    # 36 MB at 40 MB/s would be a second; a loop inside the loop would take hours.
    assert time.process_time() - start < 20


def test_every_language_with_a_style_ends_on_every_text(documents: Callable[..., pa.Table]) -> None:
    ugly = [
        "",
        "\\",
        "'",
        '"',
        "/*",
        "#",
        "\n=",
        "é'",
        "'\\",
        "<?",
        'R"',
        "r#",
        '@"',
        "'''",
        '"""x',
        "/[",
        "--[[",
        "{-",
        "(*",
        "=begin",
    ]
    family = get_family("code_comments")
    for language in style_numbers():
        found = compute_family(family, documents(ugly, language=[language] * len(ugly))).to_pylist()
        assert all(0 <= row["n_comment_chars"] <= len(text) for row, text in zip(found, ugly, strict=True)), language
