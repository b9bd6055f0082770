"""The numbers that FineWeb's own filter compares (arXiv:2406.17557, section 3.6), as datatrove 0.10's `FineWebQualityFilter`
computes them by default. Lines lie between line feeds; blank ones are left out. Nothing is rounded.

FineWeb's recipe runs the filter on what C4's rules leave of a text (`fineweb_after_c4_...`), the filter alone sees all of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tilth.quality_signals.families.c4 import TOO_MANY_LINES, text_left, undefined_of
from tilth.quality_signals.families.gopher import ratio
from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.registry import BatchScores, batch_signal

if TYPE_CHECKING:
    from tilth.quality_signals.rules.texts import Texts

Ints = npt.NDArray[np.int64]
_NAMES = ("terminal_line_frac", "short_line_frac", "dupe_line_char_frac", "newline_word_ratio")
_PREFIXES = ("fineweb_", "fineweb_after_c4_")


@batch_signal("fineweb", version=3, columns={prefix + name: pa.float64() for prefix in _PREFIXES for name in _NAMES})
def fineweb(batch: TextBatch) -> BatchScores:
    """Shares of lines that end in a terminal mark, and of lines of at most 30 characters; the share of characters in lines
    that were seen before; line feeds for each word (of spaCy's English tokeniser). Of the text, and of what C4 leaves of it.
    """
    from tilth.quality_signals.rules import texts

    parts = texts.parts_of(batch)
    columns: dict[str, pa.Array] = {}
    undefined: dict[str, npt.NDArray[np.bool_]] = {}
    for prefix, where, chosen in zip(_PREFIXES, ("", " after C4"), (parts, map(text_left, parts))):
        counts = np.concatenate([np.empty((0, 7), np.int64), *map(_counts_of, chosen)])
        n_lines, n_terminal, n_short, same, n_feeds, n_chars, n_words = counts.T
        ratios = (
            ratio(n_terminal, n_lines),
            ratio(n_short, n_lines),
            ratio(same, np.where(n_lines > 0, n_chars - n_feeds, 0)),
            ratio(n_feeds, n_words),
        )
        columns |= dict(zip((prefix + name for name in _NAMES), ratios))
        undefined |= {f"no lines{where}": n_lines == 0, f"no words{where}": n_words == 0}
    too_many = undefined_of(parts)  # C4 leaves nothing of them, for another reason
    undefined = {reason: none & ~too_many if reason.endswith("C4") else none for reason, none in undefined.items()}
    return BatchScores(columns, undefined | {TOO_MANY_LINES: too_many})


def _counts_of(part: Texts) -> Ints:
    """The counts of `pages.count_page_lines`, then characters and words."""
    from tilth.quality_signals.rules.characters import character_classes
    from tilth.quality_signals.rules.kernels import pages

    lines = np.empty((len(part), 5), np.int64)
    pages.count_page_lines(part.codes, part.starts, character_classes(), lines)
    return np.column_stack((lines, np.diff(part.starts), np.diff(part.words.ends)))
