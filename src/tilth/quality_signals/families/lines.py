"""RedPajama-V2's signals of single lines: lists with one number a line, equal to the published code's scores.

Definitions: arXiv:2411.12372 and the code published with it; one name keeps the spelling it was published with.
"""

from __future__ import annotations

import pyarrow as pa

from tilth.quality_signals.fused.columns import lists, shares, whole_numbers
from tilth.quality_signals.fused.text_batch import MAX_BYTES, MOST_LINES, TextBatch
from tilth.quality_signals.registry import BatchScores, batch_signal

TOO_MANY = f"more than {MOST_LINES} lines"
_SCORES, _COUNTS = pa.list_(pa.float64()), pa.list_(pa.int64())


@batch_signal(
    "lines",
    version=3,
    columns={
        "line_start": _COUNTS,
        "line_end": _COUNTS,
        "rps_lines_ending_with_terminal_punctution_mark": _SCORES,
        "rps_lines_javascript_counts": _COUNTS,
        "rps_lines_num_words": _COUNTS,
        "rps_lines_numerical_chars_fraction": _SCORES,
        "rps_lines_start_with_bulletpoint": _SCORES,
        "rps_lines_uppercase_letter_fraction": _SCORES,
    },
    max_bytes=MAX_BYTES,
)
def lines(batch: TextBatch) -> BatchScores:
    """One number for each line of the text; empty lists for an empty text, null for one of more than MOST_LINES lines.

    `line_start` and `line_end` count characters (code points) from the text's start; the end is exclusive and lies
    behind the line feed. Words and digits are counted in the line's normal form, capitals among all its characters with
    its line feed.
    """
    from tilth.quality_signals.fused.kernels import raw
    from tilth.quality_signals.fused.kernels import words as word

    ((start, end), found), normal = batch.lines, batch.words.lines
    by_line = {
        "line_start": whole_numbers(start),
        "line_end": whole_numbers(end),
        "rps_lines_ending_with_terminal_punctution_mark": pa.array(found[raw.LINE_TERMINAL].astype(float)),
        "rps_lines_javascript_counts": whole_numbers(normal[word.LINE_JAVASCRIPT]),
        "rps_lines_num_words": whole_numbers(normal[word.LINE_WORDS]),
        "rps_lines_numerical_chars_fraction": shares(normal[word.LINE_NUMERIC], normal[word.LINE_CHARS], empty=0.0),
        "rps_lines_start_with_bulletpoint": pa.array(found[raw.LINE_BULLET].astype(float)),
        "rps_lines_uppercase_letter_fraction": shares(found[raw.LINE_UPPER], end - start, empty=0.0),
    }
    too_many = batch.raw_counts[:, raw.N_LINES] > MOST_LINES
    return BatchScores(
        {name: lists(batch.first_lines, values, too_many) for name, values in by_line.items()}, {TOO_MANY: too_many}
    )
