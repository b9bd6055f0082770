"""The published filters of code: for each single rule a document just inside and one just outside."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

from tilth.catalog.policies import POLICIES
from tilth.quality_signals.registry import compute_families, get_family

FAMILIES = ("code_shape", "code_head", "code_html", "code_comments")
PYTHON = "def add(first, second):\n    # the sum of both\n    return first + second\n" * 2


def broken_clauses(policy: str, text: str, language: str | None, path: str = "src/file.py", n_tokens: int = 20) -> list[str]:
    """The words of the clauses that are not true of a document."""
    n = pa.table({
        "shard": ["s"], "row": pa.array([0], pa.int32()), "text": pa.array([text], pa.large_string()),
        "language": pa.array([language], pa.string()), "path": [path], "n_chars": [len(text)], "n_tokens": [n_tokens],
    })  # fmt: skip
    for table in compute_families([get_family(name) for name in FAMILIES], n).values():
        for name in table.column_names:
            if name not in ("shard", "row"):
                n = n.append_column(name, table.column(name))
    with duckdb.connect() as connection:
        connection.register("documents", n)
        chosen = ", ".join(f"({clause.sql})" for clause in POLICIES[policy].clauses)
        (values,) = connection.execute(f"select {chosen} from documents").fetchall()
    return [clause.word for clause, value in zip(POLICIES[policy].clauses, values, strict=True) if not value]


def lines(length: int, n: int) -> str:
    return ("the words of a line " * (length // 20 + 1))[:length] + "\n" if n == 1 else "".join([lines(length, 1)] * n)


def html(n_visible: int, n_chars: int) -> str:
    text = "".join("abcd efg\n"[i % 9] for i in range(n_visible))
    return text + "<!--" + "".join("some more\n"[i % 10] for i in range(n_chars - n_visible - 7)) + "-->"


STACK: dict[str, tuple[tuple[str, str, str], tuple[str, str, str]]] = {
    "number of lines": (("x;\n" * 100_000, "C", "a.c"), ("x;\n" * 100_001, "C", "a.c")),
    "mean line": ((lines(100, 3), "C", "a.c"), (lines(101, 3), "C", "a.c")),
    "longest line": ((lines(1000, 1) + lines(10, 20), "C", "a.c"), (lines(1001, 1) + lines(10, 20), "C", "a.c")),
    "longest line of all": ((lines(100_000, 1), "TeX", "a.tex"), (lines(100_001, 1), "TeX", "a.tex")),
    "not generated": (("\n\n\n\n\n# This file is GENERATED\nx", "C", "a.c"), ("\n\n\n\n# Automatically Generated\nx", "C", "a.c")),
    "letters": (("ab12+-+-", "C", "a.c"), ("ab12+-+-/", "C", "a.c")),
    "letters and digits": (("a1++++++", "WebAssembly", "a.wat"), ("a1+++++++", "WebAssembly", "a.wat")),
    "longest encoded run": (
        (lines(60, 40) + '"' + "QUJD" * 256 + '"\n', "TeX", "a.tex"), (lines(60, 40) + '"' + "QUJD" * 256 + '=="\n', "TeX", "a.tex")
    ),
    "encoded data": (("(" + "QUJD" * 16 + ")\n" + "xy zz\n" * 10 + "x", "C", "a.c"), ("(" + "QUJD" * 16 + ")\n" + "xy zz\n" * 10, "C", "a.c")),
    "lines of data": (("abc: 1\n" * 512, "YAML", "a.yml"), ("abc: 1\n" * 513, "YAML", "a.yml")),
    "visible text": ((html(100, 500), "HTML", "a.html"), (html(99, 400), "HTML", "a.html")),
    "named as documentation": (("some words", "Text", "docs/dev-Requirements-2.txt"), ("some words", "Text", "docs/required.txt")),
}  # fmt: skip


@pytest.mark.parametrize("rule", STACK)
def test_each_rule_of_the_stack_v2_holds_just_inside_and_breaks_just_outside(rule: str) -> None:
    inside, outside = STACK[rule]
    assert broken_clauses("stack-v2", *inside) == []
    assert broken_clauses("stack-v2", *outside) == [rule]


def test_every_rule_of_the_stack_v2_has_its_pair() -> None:
    assert [clause.word for clause in POLICIES["stack-v2"].clauses] == list(STACK)


def test_the_share_of_visible_text_counts_beside_its_length() -> None:
    assert broken_clauses("stack-v2", html(200, 1000), "HTML", "a.html") == []
    assert broken_clauses("stack-v2", html(199, 1000), "HTML", "a.html") == ["visible text"]


@pytest.mark.parametrize("language", ["HTML", "JSON", "Markdown", "Roff", "Roff Manpage", "SMT", "TeX", "XML"])
def test_long_lines_are_allowed_where_the_paper_allows_them(language: str) -> None:
    assert broken_clauses("stack-v2", lines(2_000, 2), language, "a.x") == []
    assert broken_clauses("stack-v2", lines(2_000, 2), "C", "a.x") == ["mean line", "longest line"]


@pytest.mark.parametrize(
    "name", ["README.txt", "a/notes.txt", "TODO", "description.txt", "CMakeLists.txt", "requirements/base.txt"]
)
def test_plain_text_is_kept_by_its_file_name_alone(name: str) -> None:
    assert broken_clauses("stack-v2", "some words", "Text", name) == (
        [] if name != "requirements/base.txt" else ["named as documentation"]
    )


@pytest.mark.parametrize("policy", ["stack-v2", "starcoder", "santacoder-comments", "santacoder-fertility"])
def test_an_ordinary_file_is_kept(policy: str) -> None:
    assert broken_clauses(policy, PYTHON, "Python") == []


def test_a_document_without_language_and_path_is_judged_by_the_rules_for_all() -> None:
    assert broken_clauses("stack-v2", PYTHON, None, None) == []  # type: ignore[arg-type]
    assert broken_clauses("stack-v2", lines(101, 3), None, None) == ["mean line"]  # type: ignore[arg-type]
    assert broken_clauses("starcoder", PYTHON, None) == ["languages"]


STARCODER: dict[str, tuple[tuple[str, str, str], tuple[str, str, str]]] = {
    "languages": ((PYTHON, "Zig", "a.zig"), (PYTHON, "Nim", "a.nim")),
    "extensions": ((PYTHON, "TeX", "a.tex"), (PYTHON, "TeX", "a.toc")),
    "longest line": ((lines(1000, 1) + lines(10, 20), "C", "a.c"), (lines(1001, 1) + lines(10, 20), "C", "a.c")),
    "mean line": ((lines(100, 3), "C", "a.c"), (lines(101, 3), "C", "a.c")),
    "longest line of a shader": ((lines(500, 1) + lines(9, 20), "GLSL", "a.fsh"), (lines(501, 1) + lines(9, 20), "GLSL", "a.fsh")),
    "letters and digits": (("a1++++++", "C", "a.c"), ("a1+++++++", "C", "a.c")),
    "letters": (("ab12+-+-", "Ada", "a.ads"), ("ab12+-+-/", "Ada", "a.ads")),
    "letters in data": (("ab12" * 15, "JSON", "a.json"), ("ab12" * 15 + "1", "JSON", "a.json")),
    "no XML": (("x" * 86 + "\n<?xml version=abcdef\n", "C", "a.c"), ("x" * 85 + "\n<?xml version=abcdef\n", "C", "a.c")),
    "visible text": ((html(101, 500), "HTML", "a.html"), (html(101, 505), "HTML", "a.html")),
    "size of data": (("abcd\n" * 1000, "YAML", "a.yml"), ("abcd\n" * 1000 + "e", "YAML", "a.yml")),
}  # fmt: skip


@pytest.mark.parametrize("rule", STARCODER)
def test_each_rule_of_starcoder_holds_just_inside_and_breaks_just_outside(rule: str) -> None:
    inside, outside = STARCODER[rule]
    assert broken_clauses("starcoder", *inside) == []
    assert broken_clauses("starcoder", *outside) == [rule]


def test_every_rule_of_starcoder_has_its_pair() -> None:
    assert {clause.word for clause in POLICIES["starcoder"].clauses} == set(STARCODER)


def test_exceptions_of_starcoder_by_language_and_extension() -> None:
    assert broken_clauses("starcoder", lines(2_000, 2), "SQL", "a/b.SQL") == []
    assert broken_clauses("starcoder", lines(2_000, 2), "SQL", "a/b.sql/c.ddl") == ["longest line", "mean line"]
    assert broken_clauses("starcoder", "<?xml version='1.0'?>" + PYTHON, "XSLT", "a.xsl") == []
    assert broken_clauses("starcoder", "abc: " * 10, "YAML", "a.yml") == []  # 50 characters
    assert broken_clauses("starcoder", ("abc: " * 10)[:49], "YAML", "a.yml") == ["size of data"]
    assert broken_clauses("starcoder", html(100, 400), "HTML", "a.html") == ["visible text"]
    assert broken_clauses("starcoder", "a+++++++++", "SAS", "a.sas") == []


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        ("#" + "x" * 98 + "\n", ["some code"]),
        ("x = 1\n" * 17 + "#\n", ["some comments"]),  # 1 of 104
        ("x = 1\n" * 16 + "#\n", []),  # 1 of 98
        ("#" * 79 + "\n" + "x" * 20, []),
        ("#" * 80 + "\n" + "x" * 19, ["some code"]),
    ],
)
def test_santacoder_wants_comments_and_code(text: str, broken: list[str]) -> None:
    assert broken_clauses("santacoder-comments", text, "Python") == broken


@pytest.mark.parametrize(("language", "n_chars"), [("Python", 25), ("Java", 29), ("JavaScript", 26)])
def test_santacoder_wants_characters_a_token(language: str, n_chars: int) -> None:
    # Of eleven tokens one parts documents.
    assert broken_clauses("santacoder-fertility", "x" * n_chars, language, n_tokens=11) == []
    assert broken_clauses("santacoder-fertility", "x" * (n_chars - 1), language, n_tokens=11) == ["characters a token"]
    assert broken_clauses("santacoder-fertility", "x" * 99, "C", n_tokens=11) == ["characters a token"]


def test_sources_are_named() -> None:
    for name in ("stack-v2", "starcoder", "santacoder-comments", "santacoder-fertility"):
        assert "arXiv:" in POLICIES[name].source
        assert POLICIES[name].beyond
