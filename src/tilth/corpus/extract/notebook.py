"""Jupyter notebooks as scripts and as structured cells, told as edits of their JSON: what is kept stays where it was.

The two forms are those of StarCoder's and The Stack v2's data (arXiv:2305.06161, section 3.2; bigcode-dataset, preprocessing:
jupyter_script_conversion.py and jupyter-structured). Formats 3 and 4 of nbformat are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

SUFFIX = ".ipynb"
SCRIPT, STRUCTURED = "script", "structured"
REASON, OUTPUT_REASON = "notebook", "notebook_output"
START, TEXT, CODE, OUTPUT, NO_OUTPUT = "<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<empty_output>"
MAX_OUTPUT = 1_000  # characters; what is longer ends in MORE, as published
MORE = "[...]"

_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[{}\[\]:,]|[^\s"{}\[\]:,]++', re.DOTALL)
_ESCAPE = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.", re.DOTALL)
_COMMENT_MARKS = {
    "//": "javascript typescript java scala kotlin c c++ cpp csharp c# .net-csharp f# fsharp go rust swift groovy php dart",
    "--": "haskell sql lua",
    "%": "matlab octave erlang prolog",
    ";": "scheme clojure lisp common-lisp racket",
}
_MARK_OF = {language: mark for mark, languages in _COMMENT_MARKS.items() for language in languages.split()}


class NotebookError(Exception):
    """The text is no notebook; it stays as it is."""


class Change(NamedTuple):
    """A span of the JSON (characters, end exclusive), what stands in its place, and why."""

    start: int
    end: int
    replacement: str
    reason: str


class _Text(NamedTuple):
    """A JSON string between its quotation marks."""

    start: int
    end: int


class _Piece(NamedTuple):
    """Characters of the result: `start:end` of the JSON where these are the same, else made (`start` is where they were read)."""

    start: int
    end: int
    made: str | None = None


class _Cell(NamedTuple):
    kind: str
    source: list[_Text]
    output: str | None  # text of the first output


def notebook_edits(text: str, form: str) -> list[Change]:
    """What makes `form` (SCRIPT or STRUCTURED) of a notebook's JSON. Raises NotebookError for what is no notebook.

    SCRIPT: the code, and all other cells as comments; magics and shell commands of IPython are comments too.
    STRUCTURED: START, then TEXT, CODE and OUTPUT for each run of Markdown with the run of code after it; leading code and
    trailing Markdown are left out; the output is the first one of the last cell of code, cut at MAX_OUTPUT. Outputs are
    written anew (they may stand before the code in the file); all other characters are those of the file, or escapes of theirs.
    """
    root = _parse(text)
    cells = list(_cells(text, root))
    pieces = _script(text, cells, _mark_of(text, root)) if form == SCRIPT else _structured(text, cells)
    changes = list(_changes(text, pieces))
    if not any(piece.made is None for piece in pieces):
        raise NotebookError("no cell has text")
    return changes


def _parse(text: str) -> dict[str, Any]:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        raise NotebookError(f"no JSON: {error}") from None
    root = _tree(text)
    if not isinstance(root, dict):
        raise NotebookError("no object")
    return root


def _tree(text: str) -> Any:
    """Valid JSON as dictionaries (keys decoded) and lists; a string is where it stands, other values are as written."""
    stack: list[Any] = [[]]
    keys: list[str] = []
    is_key = False
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token in "}]":
            stack.pop()
            if token == "}":
                keys.pop()
            is_key = False
        elif token == ",":
            is_key = isinstance(stack[-1], dict)
        elif token == ":":
            is_key = False
        elif is_key and token[0] == '"':
            keys[-1] = json.loads(token)
        else:
            value: Any = {} if token == "{" else [] if token == "[" else token
            if token[0] == '"':
                value = _Text(match.start() + 1, match.end() - 1)
            if isinstance(stack[-1], dict):
                stack[-1][keys[-1]] = value
            else:
                stack[-1].append(value)
            if token in "{[":
                stack.append(value)
                is_key = token == "{"
                if is_key:
                    keys.append("")
    return stack[0][0]


def _cells(text: str, root: dict[str, Any]) -> Iterator[_Cell]:
    found = root.get("cells")
    if found is None:  # nbformat 3
        sheets = [sheet for sheet in _listed(root.get("worksheets")) if isinstance(sheet, dict)]
        found = [cell for sheet in sheets for cell in _listed(sheet.get("cells"))] if sheets else None
    if not isinstance(found, list):
        raise NotebookError("no cells")
    for cell in found:
        if not isinstance(cell, dict):
            raise NotebookError("a cell is no object")
        kind = cell.get("cell_type")
        source = [part for part in _listed(cell.get("source", cell.get("input"))) if isinstance(part, _Text)]
        source = [part for part in source if part.end > part.start]
        if source and isinstance(kind, _Text):
            yield _Cell(text[kind.start : kind.end], source, _output(text, cell))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _output(text: str, cell: dict[str, Any]) -> str | None:
    outputs = _listed(cell.get("outputs"))
    first = outputs[0] if outputs and isinstance(outputs[0], dict) else {}
    data = first.get("data")
    said = first.get("text", data.get("text/plain") if isinstance(data, dict) else None)
    parts = [_decoded(text[part.start : part.end]) for part in _listed(said) if isinstance(part, _Text)]
    return "".join(parts) if parts else None


def _mark_of(text: str, root: dict[str, Any]) -> str:
    """The mark of a line comment in the kernel's language; `#` where it is not known, as in Python, R, Julia and Bash."""
    metadata = root.get("metadata")
    for holder, key in (("language_info", "name"), ("kernelspec", "language"), ("kernelspec", "name")):
        told = metadata.get(holder) if isinstance(metadata, dict) else None
        name = told.get(key) if isinstance(told, dict) else None
        if isinstance(name, _Text):
            return _MARK_OF.get(text[name.start : name.end].lower(), "#")
    return "#"


def _decoded(escaped: str) -> str:
    """Characters of a JSON string. What no document may hold (NUL, half a pair of surrogates) becomes U+FFFD."""
    return _ESCAPE.sub(lambda match: _unescaped(match[0]), escaped)


def _unescaped(escape: str) -> str:
    char: str = json.loads(f'"{escape}"')
    return "\ufffd" if char == "\0" or 0xD800 <= ord(char[0]) < 0xE000 else char


def _pieces(text: str, source: list[_Text]) -> list[_Piece]:
    """The characters of a cell, escapes decoded, without blank lines at its start and white space at its end."""
    found: list[_Piece] = []
    for part in source:
        at = part.start
        for match in _ESCAPE.finditer(text, part.start, part.end):
            if match.start() > at:
                found.append(_Piece(at, match.start()))
            found.append(_Piece(match.start(), match.end(), _unescaped(match[0])))
            at = match.end()
        if part.end > at:
            found.append(_Piece(at, part.end))
    return _stripped(text, found)


def _stripped(text: str, pieces: list[_Piece]) -> list[_Piece]:
    while pieces and not _shown(text, pieces[-1]).strip():
        pieces.pop()
    while pieces and pieces[0].made == "\n":
        pieces.pop(0)
    if pieces and pieces[-1].made is None:
        last = pieces[-1]
        pieces[-1] = _Piece(last.start, last.start + len(text[last.start : last.end].rstrip()))
    return pieces


def _shown(text: str, piece: _Piece) -> str:
    return text[piece.start : piece.end] if piece.made is None else piece.made


def _script(text: str, cells: list[_Cell], mark: str) -> list[_Piece]:
    found: list[_Piece] = []
    for cell in cells:
        pieces = _pieces(text, cell.source)
        if not pieces:
            continue
        if found:
            found.append(_Piece(pieces[0].start, pieces[0].start, "\n\n"))
        is_code = cell.kind == "code" and not _shown(text, pieces[0]).startswith("%%")
        magics = ("%", "!") if mark == "#" else ()
        found += _lines(text, pieces, mark, magics if is_code else ("",))
    if found:
        found.append(_Piece(found[-1].end, found[-1].end, "\n"))
    return found


def _lines(text: str, pieces: list[_Piece], mark: str, commented: tuple[str, ...]) -> Iterator[_Piece]:
    """The pieces, with `mark` before each line that begins with one of `commented`."""
    at_start = True
    for piece in pieces:
        shown = _shown(text, piece)
        if at_start and shown.startswith(commented):
            yield _Piece(piece.start, piece.start, mark if shown == "\n" else f"{mark} ")
        yield piece
        at_start = shown.endswith("\n")


def _structured(text: str, cells: list[_Cell]) -> list[_Piece]:
    runs: list[tuple[bool, list[_Cell]]] = []
    for cell in cells:
        is_code = cell.kind == "code"
        if runs and runs[-1][0] == is_code:
            runs[-1][1].append(cell)
        else:
            runs.append((is_code, [cell]))
    runs = runs[1:] if runs and runs[0][0] else runs
    runs = runs[:-1] if runs and not runs[-1][0] else runs
    found: list[_Piece] = []
    for is_code, run in runs:
        at = run[0].source[0].start
        if not found:
            found.append(_Piece(at, at, START))
        found.append(_Piece(at, at, CODE if is_code else TEXT))
        for place, cell in enumerate(run):
            if place:
                found.append(_Piece(cell.source[0].start, cell.source[0].start, "\n"))
            found += _pieces(text, cell.source)
        if is_code:
            end = run[-1].source[-1].end
            found.append(_Piece(end, end, OUTPUT + _shortened(run[-1].output)))
    return found


def _shortened(output: str | None) -> str:
    if output is None or not output.strip():
        return NO_OUTPUT
    return (output[:MAX_OUTPUT] + MORE if len(output) > MAX_OUTPUT else output).strip()


def _changes(text: str, pieces: list[_Piece]) -> Iterator[Change]:
    """The edits that leave the pieces, in their order."""
    at, pending = 0, ""
    for piece in pieces:
        if piece.made is not None:
            pending += piece.made
            continue
        if piece.start > at or pending:
            yield Change(at, piece.start, pending, OUTPUT_REASON if OUTPUT in pending else REASON)
        at, pending = piece.end, ""
    if at < len(text) or pending:
        yield Change(at, len(text), pending, OUTPUT_REASON if OUTPUT in pending else REASON)
