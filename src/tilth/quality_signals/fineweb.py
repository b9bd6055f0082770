"""The numbers that FineWeb's own filter compares (arXiv:2406.17557, section 3.6), as datatrove 0.10's `FineWebQualityFilter`
computes them by default. Lines lie between line feeds; blank ones are left out. Nothing is rounded.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.gopher import ratio
from tilth.quality_signals.registry import BatchScores, batch_signal


@batch_signal(
    "fineweb",
    version=1,
    columns={
        "fineweb_terminal_line_frac": pa.float64(),
        "fineweb_short_line_frac": pa.float64(),
        "fineweb_dupe_line_char_frac": pa.float64(),
        "fineweb_newline_word_ratio": pa.float64(),
    },
)
def fineweb(batch: TextBatch) -> BatchScores:
    """Shares of lines that end in a terminal mark, and of lines of at most 30 characters; the share of characters in lines
    that were seen before; line feeds for each word (of spaCy's English tokeniser).
    """
    from tilth.quality_signals.rules import pages, texts
    from tilth.quality_signals.rules.characters import character_classes

    found = np.empty((len(batch), 5), np.int64)
    n_chars, n_words = np.empty(len(batch), np.int64), np.empty(len(batch), np.int64)
    done = 0
    for part in texts.parts_of(batch):
        here = slice(done, done + len(part))
        pages.count_page_lines(part.codes, part.starts, character_classes(), found[here])
        n_chars[here], n_words[here] = np.diff(part.starts), np.diff(part.words.ends)
        done += len(part)
    n_lines, n_terminal, n_short, same, n_feeds = found.T
    columns = {
        "fineweb_terminal_line_frac": ratio(n_terminal, n_lines),
        "fineweb_short_line_frac": ratio(n_short, n_lines),
        "fineweb_dupe_line_char_frac": ratio(same, np.where(n_lines > 0, n_chars - n_feeds, 0)),
        "fineweb_newline_word_ratio": ratio(n_feeds, n_words),
    }
    return BatchScores(columns, {"no lines": n_lines == 0, "no words": n_words == 0})
