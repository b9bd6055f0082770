"""RedPajama-V2's signals of single lines: lists with one number a line, equal to the published code's scores.

Definitions: arXiv:2411.12372 and the code published with it; one name keeps the spelling it was published with.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from tilth.quality_signals.natural_language import N_DECIMALS
from tilth.quality_signals.registry import signal
from tilth.quality_signals.text_view import TextView, normalize

_TERMINAL = (".", "!", "?", "”")
_BULLETS = ("•", "‣", "▶", "◀", "◦", "■", "□", "▪", "▫", "–")
_SCORES = pa.list_(pa.float64())


@signal(
    "lines",
    version=1,
    columns={
        "rps_lines_ending_with_terminal_punctution_mark": _SCORES,
        "rps_lines_javascript_counts": pa.list_(pa.int64()),
        "rps_lines_num_words": pa.list_(pa.int64()),
        "rps_lines_numerical_chars_fraction": _SCORES,
        "rps_lines_start_with_bulletpoint": _SCORES,
        "rps_lines_uppercase_letter_fraction": _SCORES,
    },
)
def lines(view: TextView) -> dict[str, Any]:
    """One number for each line of the text; empty lists for an empty text.

    Words and digits are counted in the line's normal form, capitals among all its characters with its newline.
    """
    raw = [line + "\n" for line in view.lines]
    if raw and not view.text.endswith("\n"):
        raw[-1] = view.lines[-1]
    normal = [normalize(line) for line in raw]
    words = [line.split() for line in normal]
    return {
        "rps_lines_ending_with_terminal_punctution_mark": [float(line.rstrip().endswith(_TERMINAL)) for line in raw],
        "rps_lines_javascript_counts": [found.count("javascript") for found in words],
        "rps_lines_num_words": [len(found) for found in words],
        "rps_lines_numerical_chars_fraction": [_share(sum(map(str.isnumeric, line)), len(line)) for line in normal],
        "rps_lines_start_with_bulletpoint": [float(line.lstrip().startswith(_BULLETS)) for line in raw],
        "rps_lines_uppercase_letter_fraction": [_share(sum(map(str.isupper, line)), len(line)) for line in raw],
    }


def _share(part: int, whole: int) -> float:
    return round(part / whole, N_DECIMALS) if whole else 0.0
