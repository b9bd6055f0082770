"""How each language writes comments and strings, as tables for the kernel: facts of the languages' own manuals."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# How a quotation mark is read; the kernel holds copies.
ONE_LINE = 1  # backslash escapes, the line's end closes
MANY_LINES = 2  # backslash escapes
RAW = 3  # no escapes; a doubled mark closes and opens again
RAW_LINE = 4  # no escapes, the line's end closes
CHARACTER = 5  # one character or an escape between two marks; else no quotation mark (lifetimes, primes, type variables)
TRIPLE = 6  # as ONE_LINE, but three in a row open a text that three close
OPERAND = 7  # as RAW_LINE, but behind an operand no quotation mark (a transposition)
# What else a language has.
PYTHON, REGULAR_EXPRESSIONS, SPACED_HASH, RAW_RUST, RAW_CPP, VERBATIM, TAGGED, NESTED = (1 << bit for bit in range(8))
MAX_MARKS, MARK_BYTES = 3, 8


class Style(NamedTuple):
    """Marks of line comments; pairs that open and close block comments; what each quotation mark is; further bits.

    A block whose opening begins with a line feed opens only at the start of a line.
    """

    lines: tuple[str, ...] = ()
    blocks: tuple[tuple[str, str], ...] = ()
    quotes: tuple[tuple[str, int], ...] = ()
    flags: int = 0


_C, _HASH, _DASH = ("//",), ("#",), ("--",)
_STAR = (("/*", "*/"),)
_BOTH = (('"', ONE_LINE), ("'", ONE_LINE))
_WITH_CHARACTERS = (('"', ONE_LINE), ("'", CHARACTER))
_TRIPLE_CHARACTERS = (('"', TRIPLE), ("'", CHARACTER))
_TRIPLES = (('"', TRIPLE), ("'", TRIPLE))
_LONG = (('"', MANY_LINES), ("'", MANY_LINES))
_RAWS = (('"', RAW), ("'", RAW))
_MARKUP = Style(blocks=(("<!--", "-->"),))
_LISP = Style((";",), (("#|", "|#"),), (('"', MANY_LINES),), NESTED)
_ML = (("(*", "*)"),)

# By linguist's names of languages.
_STYLES: tuple[tuple[str, Style], ...] = (
    ("C|C header|Objective-C|OpenCL|GLSL|HLSL|Protocol Buffer|Yacc|Bison|Lex", Style(_C, _STAR, _BOTH)),
    ("C++|Objective-C++|Cuda|CUDA|Metal|Arduino", Style(_C, _STAR, (('"', ONE_LINE), ("'", CHARACTER)), RAW_CPP)),
    ("C#", Style(_C, _STAR, _TRIPLE_CHARACTERS, VERBATIM)),
    ("Java|Groovy|Gradle|Dart|Apex", Style(_C, _STAR, _TRIPLES)),
    ("Kotlin|Scala|Swift", Style(_C, _STAR, _TRIPLE_CHARACTERS, NESTED)),
    ("JavaScript|TypeScript|TSX|JSX|ActionScript", Style(_C, _STAR, (*_BOTH, ("`", MANY_LINES)), REGULAR_EXPRESSIONS)),
    ("Go|V", Style(_C, _STAR, (('"', ONE_LINE), ("'", ONE_LINE), ("`", RAW)))),
    ("Rust", Style(_C, _STAR, (('"', MANY_LINES), ("'", CHARACTER)), RAW_RUST | NESTED)),
    ("Zig|Solidity|SCSS|Less|Sass|Stylus|JSON with Comments|JSON5|Jsonnet", Style(_C, _STAR, (('"', ONE_LINE),))),
    ("Verilog|SystemVerilog", Style(_C, _STAR, (('"', ONE_LINE),))),
    ("D", Style(_C, (("/*", "*/"), ("/+", "+/")), (('"', MANY_LINES), ("'", CHARACTER), ("`", RAW)))),
    ("CSS|PostCSS", Style((), _STAR, _BOTH)),
    ("PHP|Hack", Style(("//", "#"), _STAR, _LONG, TAGGED)),
    ("Thrift", Style(("//", "#"), _STAR, _BOTH)),
    ("Python|Cython|Starlark|SageMath", Style(flags=PYTHON)),
    ("Ruby|Crystal", Style(_HASH, (("\n=begin", "\n=end"),), _BOTH, SPACED_HASH)),
    ("Perl|Raku", Style(_HASH, tuple((f"\n={word}", "\n=cut") for word in ("head", "pod", "begin")), _BOTH, SPACED_HASH)),
    ("Shell|Bash|Fish|Awk|Tcl", Style(_HASH, (), _LONG, SPACED_HASH)),
    ("YAML|Dockerfile|Makefile|Nginx", Style(_HASH, (), (('"', ONE_LINE), ("'", OPERAND)), SPACED_HASH)),
    ("TOML|Elixir|GDScript", Style(_HASH, (), _TRIPLES)),
    ("R|GraphQL|Gnuplot|Puppet|Ignore List", Style(_HASH, (), _LONG)),
    ("Nix", Style(_HASH, _STAR, (('"', MANY_LINES),))),
    ("CMake", Style(_HASH, (("#[[", "]]"),), (('"', MANY_LINES),))),
    ("Julia", Style(_HASH, (("#=", "=#"),), _TRIPLE_CHARACTERS, NESTED)),
    ("Nim", Style(_HASH, (("#[", "]#"),), _TRIPLE_CHARACTERS, NESTED)),
    ("PowerShell", Style(_HASH, (("<#", "#>"),), (('"', RAW), ("'", RAW)))),
    ("HCL|Terraform", Style(("#", "//"), _STAR, (('"', ONE_LINE),))),
    ("CoffeeScript", Style(_HASH, (("###", "###"),), _TRIPLES)),
    ("Haskell|Elm|PureScript|Idris|Agda", Style(_DASH, (("{-", "-}"),), _WITH_CHARACTERS, NESTED)),
    ("Lua", Style(_DASH, (("--[[", "]]"), ("--[=[", "]=]")), _BOTH)),
    ("SQL|PLSQL|PLpgSQL|TSQL", Style(_DASH, _STAR, _RAWS)),
    ("Ada|VHDL", Style(_DASH, (), (('"', RAW_LINE), ("'", CHARACTER)))),
    ("OCaml|Standard ML|Coq|Rocq Prover|Isabelle", Style((), _ML, (('"', MANY_LINES), ("'", CHARACTER)), NESTED)),
    ("F#", Style(_C, _ML, _TRIPLE_CHARACTERS, NESTED)),
    ("Pascal|Modula-2", Style(_C, (("(*", "*)"), ("{", "}")), (("'", RAW_LINE),))),
    ("Common Lisp|Scheme|Racket", _LISP),
    ("Clojure|Emacs Lisp|AutoHotkey", Style((";",), (), (('"', MANY_LINES),))),
    ("INI|Git Config", Style((";", "#"), (), (), SPACED_HASH)),
    ("TeX|BibTeX|PostScript", Style(("%",))),
    ("Prolog|Erlang", Style(("%",), (), _LONG)),
    ("MATLAB|Octave", Style(("%",), (("\n%{", "\n%}"),), (('"', RAW_LINE), ("'", OPERAND)))),
    ("Fortran|Fortran Free Form", Style(("!",), (), (('"', RAW_LINE), ("'", RAW_LINE)))),
    ("Visual Basic .NET|VBA|VBScript", Style(("'",), (), (('"', RAW_LINE),))),
    ("HTML|XML|SVG|XSLT|Markdown|Vue|Svelte|ASP.NET", _MARKUP),
)  # fmt: skip


@cache
def style_numbers() -> dict[str, int]:
    """The row of `style_tables` for each language that has one."""
    return {name: number for number, (names, _) in enumerate(_STYLES) for name in names.split("|")}


class StyleTables(NamedTuple):
    """The styles as the kernel reads them, a row for each.

    `starts` (uint8, x 256): what a byte may begin: 1 a line comment, 2 a block, 4 a quotation, 8 a regular expression.
    `marks` (uint8, x 3 kinds x 3 x 8): line marks, openings, closings: the length, then the bytes. `quotes` (uint8, x 128):
    how a mark is read. `flags` (int64).
    """

    starts: npt.NDArray[np.uint8]
    marks: npt.NDArray[np.uint8]
    quotes: npt.NDArray[np.uint8]
    flags: npt.NDArray[np.int64]


@cache
def style_tables() -> StyleTables:
    """All styles."""
    n = len(_STYLES)
    tables = StyleTables(
        np.zeros((n, 256), np.uint8), np.zeros((n, 3, MAX_MARKS, MARK_BYTES), np.uint8),
        np.zeros((n, 128), np.uint8), np.zeros(n, np.int64),
    )  # fmt: skip
    for row, (_, style) in enumerate(_STYLES):
        for kind, place, mark in _marks(style):
            data = mark.encode()
            tables.marks[row, kind, place, 0] = len(data)
            tables.marks[row, kind, place, 1 : len(data) + 1] = list(data)
            if kind < 2:
                tables.starts[row, data[0]] |= 1 << kind
        for mark, mode in style.quotes:
            tables.starts[row, ord(mark)] |= 4
            tables.quotes[row, ord(mark)] = mode
        if style.flags & REGULAR_EXPRESSIONS:
            tables.starts[row, ord("/")] |= 8
        if style.flags & TAGGED:
            tables.starts[row, ord("?")] |= 1
        tables.flags[row] = style.flags
    return tables


def _marks(style: Style) -> Iterator[tuple[int, int, str]]:
    """Kind (0 line, 1 opening, 2 closing), place, mark."""
    for place, mark in enumerate(style.lines):
        yield 0, place, mark
    for place, pair in enumerate(style.blocks):
        for kind, mark in enumerate(pair, 1):
            yield kind, place, mark
