"""Where tree-sitter's grammars find no meaning in a source file: a measure that no published filter has, for SQL to use."""

from __future__ import annotations

import importlib
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tilth.errors import RecipeError
from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.registry import BatchScores, batch_signal

MAX_BYTES = 1 << 20  # of a text: recovery from errors has no bound that is linear
# Linguist's name of a language -> the module of its grammar, and the function there.
_GRAMMARS = {
    "Python": ("tree_sitter_python", "language"),
    "JavaScript": ("tree_sitter_javascript", "language"),
    "JSX": ("tree_sitter_javascript", "language"),
    "TypeScript": ("tree_sitter_typescript", "language_typescript"),
    "TSX": ("tree_sitter_typescript", "language_tsx"),
    "Java": ("tree_sitter_java", "language"),
    "C": ("tree_sitter_c", "language"),
    "C++": ("tree_sitter_cpp", "language"),
    "Go": ("tree_sitter_go", "language"),
    "Rust": ("tree_sitter_rust", "language"),
    "Ruby": ("tree_sitter_ruby", "language"),
    "PHP": ("tree_sitter_php", "language_php"),
    "Shell": ("tree_sitter_bash", "language"),
}
_LIBRARIES = tuple(sorted({module.replace("_", "-") for module, _ in _GRAMMARS.values()}))


@batch_signal(
    "parse_errors",
    version=1,
    columns={"n_parse_errors": pa.int64(), "parse_error_fraction": pa.float64()},
    libraries=("tree-sitter", *_LIBRARIES),
    needs=("language",),
    max_bytes=MAX_BYTES,
)
def parse_errors(batch: TextBatch) -> BatchScores:
    """How many pieces of a text the grammar passes over or misses, and the share of bytes in those that it passes over.

    An error inside another one counts with it. Undefined for languages other than Python, JavaScript, TypeScript, Java, C,
    C++, Go, Rust, Ruby, PHP and Shell. Raises RecipeError where a grammar is not installed.
    """
    n_errors, n_bytes = np.zeros(len(batch), np.int64), np.zeros(len(batch), np.int64)
    languages = batch.fields["language"].to_pylist()
    sizes = np.diff(batch.offsets)
    for place, language in enumerate(languages):
        if language in _GRAMMARS:
            start = batch.offsets[place]
            n_errors[place], n_bytes[place] = _errors_in(batch.data[start : start + sizes[place]].tobytes(), language)
    no_grammar = np.array([language not in _GRAMMARS for language in languages], bool)
    is_empty = ~no_grammar & (sizes == 0)
    share: npt.NDArray[np.float64] = n_bytes / np.maximum(sizes, 1)
    columns = {
        "n_parse_errors": pa.array(n_errors, mask=no_grammar),
        "parse_error_fraction": pa.array(share, mask=no_grammar | is_empty),
    }
    return BatchScores(columns, {"no grammar for the language": no_grammar, "empty text": is_empty})


def _errors_in(data: bytes, language: str) -> tuple[int, int]:
    parser, query = _parser(language)
    root = parser.parse(data).root_node
    if not root.has_error:
        return 0, 0
    spans = sorted((node.start_byte, -node.end_byte) for nodes in _captures(query, root).values() for node in nodes)
    n_errors = n_bytes = reached = 0
    for start, minus_end in spans:
        end = -minus_end
        if end > reached or (start == end and start >= reached):
            n_errors += 1
            n_bytes += end - max(start, reached)
            reached = max(reached, end)
    return n_errors, n_bytes


def _captures(query: Any, root: Any) -> dict[str, list[Any]]:
    from tree_sitter import QueryCursor

    found: dict[str, list[Any]] = QueryCursor(query).captures(root)
    return found


@cache
def _parser(language: str) -> tuple[Any, Any]:
    """The parser of a language, and the query for its errors. Raises RecipeError."""
    module, function = _GRAMMARS[language]
    try:
        from tree_sitter import Language, Parser, Query

        grammar = Language(getattr(importlib.import_module(module), function)())
    except ImportError as error:
        what = f"the signals `parse_errors` need the grammar of {language}: {error}"
        raise RecipeError(what, "parse_errors", "pip install 'tilth[code]'") from error
    return Parser(grammar), Query(grammar, "(ERROR) @error (MISSING) @missing")
