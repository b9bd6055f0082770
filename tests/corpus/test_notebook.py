"""Notebooks as scripts and structured cells: the edits give the text, and what is kept stands where the file has it."""

from __future__ import annotations

import ast
import json
from typing import Any

import pytest

from tilth.corpus.edits import edited
from tilth.corpus.extract.notebook import OUTPUT_REASON, REASON, NotebookError, notebook_edits


def notebook(*cells: dict[str, Any], language: str | None = "python", **more: Any) -> str:
    metadata = {} if language is None else {"language_info": {"name": language}}
    return json.dumps({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5, **more}, indent=1)


def markdown(*lines: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {"source": "not this"}, "source": list(lines)}


def code(*lines: str, outputs: Any = ()) -> dict[str, Any]:
    return {"cell_type": "code", "execution_count": 1, "metadata": {}, "outputs": list(outputs), "source": list(lines)}


def stream(*lines: str) -> dict[str, Any]:
    return {"name": "stdout", "output_type": "stream", "text": list(lines)}


def shown(text: str, form: str) -> str:
    return edited(text, [change[:3] for change in notebook_edits(text, form)])


CELLS = (
    markdown("# Title\n", "\n", 'Größe "quoted" \\ and 😀\n'),
    code("import a\n", "s = 'tab\\tquote\"'\n", "%matplotlib inline\n", "  !ls\n", outputs=[stream("one\n", "two\n")]),
    code("\n", "print(s)"),
    markdown("the end"),
)


@pytest.mark.parametrize("ensure_ascii", [True, False])
def test_a_script_has_code_as_it_is_and_all_else_as_comments(ensure_ascii: bool) -> None:
    text = json.dumps(json.loads(notebook(*CELLS)), ensure_ascii=ensure_ascii)
    assert shown(text, "script") == (
        '# # Title\n#\n# Größe "quoted" \\ and 😀\n\n'
        "import a\ns = 'tab\\tquote\"'\n# %matplotlib inline\n  !ls\n\nprint(s)\n\n# the end\n"
    )


def test_structured_cells_alternate_and_end_in_code() -> None:
    text = notebook(code("first()"), *CELLS)
    assert shown(text, "structured") == (
        '<jupyter_start><jupyter_text># Title\n\nGröße "quoted" \\ and 😀'
        "<jupyter_code>import a\ns = 'tab\\tquote\"'\n%matplotlib inline\n  !ls\nprint(s)<jupyter_output><empty_output>"
    )


def test_the_output_is_the_first_of_the_last_cell_and_is_cut() -> None:
    image = {"output_type": "display_data", "data": {"image/png": "QUJD", "text/plain": ["<Figure>"]}}
    for outputs, said in (
        ([stream("a\n", "b\n"), stream("c")], "a\nb"),
        ([image], "<Figure>"),
        ([stream("x" * 1001)], "x" * 1000 + "[...]"),
        ([stream("\u001b[31mé\u0000")], "\u001b[31mé\ufffd"),
        ([], "<empty_output>"),
    ):
        text = notebook(markdown("m"), code("c", outputs=outputs))
        assert shown(text, "structured") == f"<jupyter_start><jupyter_text>m<jupyter_code>c<jupyter_output>{said}"


def test_reasons_tell_where_an_output_was_written_anew() -> None:
    text = notebook(*CELLS[:2], *CELLS[:2])
    reasons = [change.reason for change in notebook_edits(text, "structured")]
    assert reasons.count(OUTPUT_REASON) == 2
    assert set(reasons) == {REASON, OUTPUT_REASON}
    assert {change.reason for change in notebook_edits(text, "script")} == {REASON}


def test_what_is_kept_is_what_the_file_has() -> None:
    text = notebook(*CELLS)
    changes = notebook_edits(text, "script")
    at, kept = 0, []
    for change in changes:
        assert at <= change.start <= change.end
        kept.append(text[at : change.start])
        at = change.end
    assert at == len(text)
    assert "import a" in kept
    assert "print(s)" in kept
    assert not any(part in "".join(kept) for part in ("cell_type", "outputs", "not this", "one"))


@pytest.mark.parametrize(
    ("language", "comment"),
    [
        ("python", "# "),
        ("R", "# "),
        ("julia", "# "),
        ("scala", "// "),
        ("JavaScript", "// "),
        ("haskell", "-- "),
        ("Octave", "% "),
        (None, "# "),
    ],
)
def test_comments_are_the_kernels(language: str | None, comment: str) -> None:
    assert shown(notebook(markdown("a"), code("b"), language=language), "script") == f"{comment}a\n\nb\n"


def test_cells_in_another_language_are_comments() -> None:
    assert shown(notebook(code("%%bash\n", "ls | wc\n"), code("x = 1")), "script") == "# %%bash\n# ls | wc\n\nx = 1\n"


def test_sources_may_be_one_string_and_the_format_older() -> None:
    cells = [
        {"cell_type": "heading", "level": 1, "source": "T"},
        {"cell_type": "code", "input": "x = 1\ny", "language": "python", "outputs": []},
    ]
    old = json.dumps({"worksheets": [{"cells": cells}], "metadata": {}, "nbformat": 3})
    assert shown(old, "script") == "# T\n\nx = 1\ny\n"


def test_a_script_of_python_cells_parses() -> None:
    text = notebook(
        markdown("a\n", "b"),
        code("%load_ext x\n", "def f():\n", "    '''d\n", "\n", "    '''\n", '    return "\\n"'),
        code("!pip\n", "f()"),
    )
    tree = ast.parse(shown(text, "script"))
    assert [type(node).__name__ for node in tree.body] == ["FunctionDef", "Expr"]


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "null", '"cells"', "{}", '{"cells": 1}', '{"cells": [1]}', '{"cells": []}', '{"worksheets": 7}',
        '{"cells": [{"cell_type": "code", "source": 3}]}', '{"cells": [{"cell_type": 5, "source": "x"}]}', "[" * 100_000,
        '{"cells": [{"cell_type": "code", "source": "  "}]}', '{"cells": [{"cell_type": "code", "source": "x}]}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["script", "structured"])
def test_damaged_notebooks_are_told(text: str, form: str) -> None:
    with pytest.raises(NotebookError):
        notebook_edits(text, form)


def test_a_notebook_of_code_alone_has_no_structured_form() -> None:
    with pytest.raises(NotebookError, match="no cell has text"):
        notebook_edits(notebook(code("x = 1")), "structured")
    assert shown(notebook(code("x = 1")), "script") == "x = 1\n"


def test_what_no_document_may_hold_becomes_a_replacement_character() -> None:
    text = notebook(code("a = '\\ud800 \ud83d\ude00'")).replace("\\\\ud800", "\\ud800\\u0000")
    assert shown(text, "script") == "a = '\ufffd\ufffd 😀'\n"
