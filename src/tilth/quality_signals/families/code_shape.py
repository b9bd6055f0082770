"""Shape of a source file: line lengths, share of letters, share of data written as text.

The measures behind the filters of StarCoder (arXiv:2305.06161, line lengths and alphanumeric share) and
The Stack v2 (arXiv:2402.19173, appendix A: alphabetic share and encoded data).
"""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from tilth.quality_signals.registry import Undefined, signal
from tilth.quality_signals.text_view import TextView

EMPTY = Undefined("empty text")
_ENCODED = (
    re.compile(r"[a-zA-Z0-9+/\n=]{64,}"),
    re.compile(r"(?:\b(?:0x|\\x)?[0-9a-fA-F]{2}(?:,|\b\s*)){8,}"),
    re.compile(r"(?:\\u[0-9a-fA-F]{4}){8,}"),
)


@signal(
    "code_shape",
    version=2,
    columns={
        "n_lines": pa.int64(),
        "mean_line_length": pa.float64(),
        "max_line_length": pa.int64(),
        "alphanumeric_fraction": pa.float64(),
        "alphabetic_fraction": pa.float64(),
        "encoded_data_fraction": pa.float64(),
        "longest_encoded_run": pa.int64(),
    },
)
def code_shape(view: TextView) -> dict[str, Any]:
    """Lengths in characters without the line's end (`\\n` or `\\r\\n`), fractions of all characters.

    Letters and digits are Unicode's. Encoded data are matches of base64, hexadecimal or `\\u` escapes; characters
    matched twice count once in the fraction, and the longest run is that of one match.
    """
    n_chars = len(view.text)
    if not n_chars:
        undefined = ("mean_line_length", "alphanumeric_fraction", "alphabetic_fraction", "encoded_data_fraction")
        return {"n_lines": 0, "max_line_length": 0, "longest_encoded_run": 0, **dict.fromkeys(undefined, EMPTY)}
    lengths = [len(line) - line.endswith("\r") for line in view.lines]
    n_encoded, longest = _encoded_chars(view.text)
    counts = view.char_counts
    return {
        "n_lines": len(lengths),
        "mean_line_length": sum(lengths) / len(lengths),
        "max_line_length": max(lengths),
        "alphanumeric_fraction": sum(n for char, n in counts.items() if char.isalnum()) / n_chars,
        "alphabetic_fraction": sum(n for char, n in counts.items() if char.isalpha()) / n_chars,
        "encoded_data_fraction": n_encoded / n_chars,
        "longest_encoded_run": longest,
    }


def _encoded_chars(text: str) -> tuple[int, int]:
    """Characters in the union of all matches, and in the longest match."""
    spans = sorted(match.span() for pattern in _ENCODED for match in pattern.finditer(text))
    n_covered = covered_to = longest = 0
    for start, end in spans:
        n_covered += max(0, end - max(start, covered_to))
        covered_to = max(covered_to, end)
        longest = max(longest, end - start)
    return n_covered, longest
