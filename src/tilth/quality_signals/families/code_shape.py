"""Shape of a source file: line lengths, share of letters, share of data written as text.

The measures behind the filters of StarCoder (arXiv:2305.06161, line lengths and alphanumeric share) and
The Stack v2 (arXiv:2402.19173, appendix A: alphabetic share and encoded data).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.registry import BatchScores, batch_signal


@batch_signal(
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
def code_shape(batch: TextBatch) -> BatchScores:
    """Lengths in characters without the line's end (`\\n` or `\\r\\n`), fractions of all characters.

    Letters and digits are Unicode's. Encoded data are matches of base64, hexadecimal or `\\u` escapes, as the regular
    expressions of The Stack v2 match them; characters matched twice count once in the fraction, and the longest run is that
    of one match.
    """
    from tilth.quality_signals.fused.character_kinds import character_kinds
    from tilth.quality_signals.fused.kernels import code_shape as kernel

    counts = np.empty((len(batch), 8), np.int64)
    kernel.measure(batch.data, batch.offsets, character_kinds(), kernel.byte_kinds(), counts)
    column = counts.T
    is_empty = column[kernel.N_CHARS] == 0
    n_chars, n_lines = np.maximum(column[kernel.N_CHARS], 1), np.maximum(column[kernel.N_LINES], 1)

    def whole(of: int) -> pa.Array:
        return pa.array(np.ascontiguousarray(column[of]))

    columns = {
        "n_lines": whole(kernel.N_LINES),
        "mean_line_length": pa.array(column[kernel.N_LINE_CHARS] / n_lines, mask=is_empty),
        "max_line_length": whole(kernel.LONGEST_LINE),
        "alphanumeric_fraction": pa.array(column[kernel.N_ALPHANUMERIC] / n_chars, mask=is_empty),
        "alphabetic_fraction": pa.array(column[kernel.N_ALPHABETIC] / n_chars, mask=is_empty),
        "encoded_data_fraction": pa.array(column[kernel.N_ENCODED] / n_chars, mask=is_empty),
        "longest_encoded_run": whole(kernel.LONGEST_ENCODED),
    }
    return BatchScores(columns, {"empty text": is_empty})
