"""How much of an HTML file a reader sees: StarCoder's and The Stack v2's measure for files of markup without text."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.registry import BatchScores, batch_signal

LANGUAGE = "HTML"  # as linguist names it


@batch_signal(
    "code_html", version=1, columns={"html_visible_chars": pa.int64(), "html_visible_fraction": pa.float64()}, needs=("language",)
)
def code_html(batch: TextBatch) -> BatchScores:
    """Characters outside tags, comments, scripts and style sheets, white space included, and their share of all characters.

    Character references count as one character. So `get_text` of BeautifulSoup counts, which the published filter takes
    (bigcode-dataset, preprocessing/filtering.py). Undefined where the language is not HTML.
    """
    from tilth.quality_signals.fused.kernels.html_text import visible_characters

    is_html = pc.fill_null(pc.equal(batch.fields["language"], LANGUAGE), False).to_numpy(zero_copy_only=False)
    counts = np.empty((len(batch), 2), np.int64)
    visible_characters(batch.data, batch.offsets, is_html, counts)
    n_visible, n_chars = counts[:, 0], counts[:, 1]
    is_empty = is_html & (n_chars == 0)
    none = ~is_html | is_empty
    columns = {
        "html_visible_chars": pa.array(np.ascontiguousarray(n_visible), mask=~is_html),
        "html_visible_fraction": pa.array(n_visible / np.maximum(n_chars, 1), mask=none),
    }
    return BatchScores(columns, {"not HTML": ~is_html, "empty text": is_empty})
