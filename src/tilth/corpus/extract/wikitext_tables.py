"""Tables of wikitext as text: a row becomes a line, its cells are separated by CELL. Works line by line, as MediaWiki does."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

ROW, CELL = "\4", "\5"  # a line that begins with ROW is finished; CELL becomes a tab
MAX_DEPTH = 20
CELLS = re.compile(r"\|\|")
HEADINGS = re.compile(r"\|\||!!")
BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
INDENT = " \t\1:"
STRAY = re.compile(r"\|[}+-]")


@dataclass
class _Table:
    rows: list[list[list[str]]] = field(default_factory=lambda: [[]])  # rows of cells of lines
    in_attributes: bool = True  # between `{|` or `|-` and the first cell there are only attributes

    def cells(self, line: str) -> None:
        self.in_attributes = False
        for cell in (HEADINGS if line[0] == "!" else CELLS).split(line[1:]):
            attributes, bar, content = cell.partition("|")
            self.rows[-1].append([(content if bar else attributes).strip()])

    def add(self, line: str) -> None:
        """A line that goes on in the cell before it."""
        if self.rows[-1]:
            self.rows[-1][-1].append(line)
        elif line.strip() and not (self.in_attributes and "=" in line):
            self.rows[-1].append([line])

    def text(self) -> list[str]:
        """The rows as lines; a row of one cell (a layout, not a table) keeps the lines of that cell."""
        found: list[str] = []
        for row in self.rows:
            full = [cell for cell in row if any(line.strip(" \1") for line in cell)]
            if len(full) == 1:
                found += ["", *full[0]] if len(full[0]) > 1 else [ROW + BREAK.sub(" ", full[0][0])]
            elif full:
                shown = CELL.join(BREAK.sub(" ", " ".join(map(_unlisted, cell))).strip() for cell in row)
                found.append(ROW + shown.rstrip(CELL))
        return ["", *found, ""]


def _unlisted(line: str) -> str:
    return line.lstrip("*#:;\4 ").replace(CELL, " ")


def tables_to_lines(text: str, keep: bool = True) -> str:
    """Replace every table by its rows (or by nothing). A table that is never closed ends with the page; nothing is lost."""
    if "{|" not in text and "\n|" not in text:
        return text
    out: list[str] = []
    stack: list[_Table] = []
    n_deeper = 0  # tables below MAX_DEPTH: their lines belong to the one above
    for line in text.split("\n"):
        bare = line.lstrip(INDENT)
        first = bare[:1]
        if first == "{" and bare[1:2] == "|":
            if len(stack) < MAX_DEPTH:
                stack.append(_Table())
            else:
                n_deeper += 1
        elif not stack:
            out.append(_stray(bare) if first == "|" else line)
        elif first == "|" and bare[1:2] == "}":
            n_deeper -= 1
            if n_deeper < 0:
                n_deeper = 0
                _finish(stack, out, keep)
                (stack[-1].add if stack else out.append)(bare[2:])
        elif first == "|" and bare[1:2] == "-":
            stack[-1].rows.append([])
            stack[-1].in_attributes = True
        elif first == "|" and bare[1:2] == "+":
            stack[-1].rows.append([[bare[2:].rpartition("|")[2].strip()]])
            stack[-1].rows.append([])
        elif first and first in "|!":
            stack[-1].cells(bare)
        else:
            stack[-1].add(line)
    while stack:
        _finish(stack, out, True)
    return "\n".join(out)


def _finish(stack: list[_Table], out: list[str], keep: bool) -> None:
    table = stack.pop()
    lines = table.text() if keep else []
    if stack:
        for line in lines:
            stack[-1].add(line)
    else:
        out += lines


def _stray(line: str) -> str:
    """A line of a table that was opened by a template, or not at all."""
    if STRAY.match(line):
        return ""
    return ROW + CELL.join(cell.rpartition("|")[2].strip() for cell in CELLS.split(line[1:]))
