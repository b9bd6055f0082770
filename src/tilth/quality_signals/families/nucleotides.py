"""Composition of DNA: GC, N runs, soft-masking, other codes, CpG islands, low complexity; for documents of nucleotides alone.

Sources: NC-IUB 1984 (codes); Gardiner-Garden and Frommer 1987 (CpG observed/expected); Morgulis et al. 2006 (DUST score,
window 64, threshold 2).
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tilth.quality_signals.fused.text_batch import MAX_BYTES, TextBatch
from tilth.quality_signals.registry import BatchScores, batch_signal

MIN_SHARE = 0.9  # of letters A, C, G, T, U, N; in prose they are a third


@batch_signal(
    "nucleotides",
    version=1,
    columns={
        "dna_gc_fraction": pa.float64(),
        "dna_n_fraction": pa.float64(),
        "dna_n_runs": pa.int64(),
        "dna_longest_n_run": pa.int64(),
        "dna_masked_fraction": pa.float64(),
        "dna_ambiguous_fraction": pa.float64(),
        "dna_other_fraction": pa.float64(),
        "dna_cpg_ratio": pa.float64(),
        "dna_dust_mean": pa.float64(),
        "dna_low_complexity_fraction": pa.float64(),
    },
    max_bytes=MAX_BYTES,
)
def nucleotides(batch: TextBatch) -> BatchScores:
    """Undefined unless 90 % of the text are A, C, G, T, U or N, in either case. Fractions are of all letters unless said.

    GC of the letters that are known to be one of G, C, S or of A, T, U, W. Masked: small letters. Ambiguous: codes of
    several bases but N. Other: no codes, such as gaps. CpG ratio: CpG pairs times A, C, G, T over C times G. DUST: over
    tiles of 64 letters that have two triplets of bases, of which a score above 2 is low complexity.
    """
    from tilth.quality_signals.fused.kernels import nucleotides as kernel

    counts, dust = np.empty((len(batch), kernel.N_COUNTS), np.int64), np.empty(len(batch))
    kernel.compose(batch.data, batch.offsets, kernel.letter_kinds(), counts, dust)
    column = counts.T
    n = np.diff(batch.offsets)
    n_bases = n - column[kernel.N_N] - column[kernel.N_AMBIGUOUS] - column[kernel.N_OTHER]
    n_known = column[kernel.N_GC] + column[kernel.N_AT]
    expected = column[kernel.N_C].astype(np.float64) * column[kernel.N_G]
    other = n_bases + column[kernel.N_N] < MIN_SHARE * n
    other |= n == 0
    reasons = {"empty text": n == 0, "not nucleotides": other & (n > 0)}
    for reason, lacks in (("no bases", n_known), ("no C or no G", expected), ("too short for DUST", column[kernel.N_TILES])):
        reasons[reason] = (lacks == 0) & ~other

    def share(of: np.ndarray, among: np.ndarray) -> pa.Array:
        return pa.array(of / np.where(among == 0, 1, among), mask=other | (among == 0))

    columns = {
        "dna_gc_fraction": share(column[kernel.N_GC], n_known),
        "dna_n_fraction": share(column[kernel.N_N], n),
        "dna_n_runs": pa.array(np.ascontiguousarray(column[kernel.N_N_RUNS]), mask=other),
        "dna_longest_n_run": pa.array(np.ascontiguousarray(column[kernel.LONGEST_N_RUN]), mask=other),
        "dna_masked_fraction": share(column[kernel.N_MASKED], n),
        "dna_ambiguous_fraction": share(column[kernel.N_AMBIGUOUS], n),
        "dna_other_fraction": share(column[kernel.N_OTHER], n),
        "dna_cpg_ratio": share(column[kernel.N_CPG] * n_bases.astype(np.float64), expected),
        "dna_dust_mean": share(dust, column[kernel.N_TILES]),
        "dna_low_complexity_fraction": share(column[kernel.N_LOW_TILES], column[kernel.N_TILES]),
    }
    return BatchScores(columns, reasons)
