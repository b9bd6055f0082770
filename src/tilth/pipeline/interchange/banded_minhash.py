"""RedPajama-V2's MinHash signatures, byte for byte, so that its published ones and ours can be compared.

Definition (arXiv:2411.12372 and the code published with it): the 13-grams of the normalised words, joined by a space; the
first four bytes of their SHA-1 as a little-endian number; 128 permutations `((h * a + b) mod (2^61 - 1)) & (2^32 - 1)`,
where h * a + b wraps around at 2^64; bands of the minima as big-endian bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tilth.dedup.minhash.published_minima import hash_ngrams, legacy_minima, legacy_permutations
from tilth.quality_signals.fused.text_batch import TextBatch

SEED = 42
N_PERMUTATIONS = 128
NGRAM_WORDS = 13
# Similarity to (bands, rows): what datasketch's optimal_param gives for 128 permutations.
BANDS: Mapping[str, tuple[int, int]] = {"1.0": (1, 128), "0.9": (5, 25), "0.8": (9, 13), "0.7": (14, 9)}
SIGNATURES = pa.list_(pa.binary())
MINHASH_SCHEMA = pa.schema(
    [
        ("shard_id", pa.string()),
        ("id", pa.string()),
        ("id_int", pa.uint64()),
        *((f"signature_sim{similarity}", SIGNATURES) for similarity in BANDS),
    ]
)


def band_signatures(batch: TextBatch) -> dict[str, pa.Array]:
    """`signature_sim...` to lists of one binary for each band; null for documents of fewer than 13 normalised words."""
    minima, too_short = ngram_minima(batch)
    big_endian = minima.astype(">u4")
    return {f"signature_sim{name}": _bands(big_endian, too_short, *shape) for name, shape in BANDS.items()}


def ngram_minima(batch: TextBatch) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.bool_]]:
    """(documents x 128 minima, which documents have fewer than 13 normalised words and so no signature)."""
    words = batch.words
    values, ends = hash_ngrams(batch.normal_forms.data, words.spans, words.ends, NGRAM_WORDS)
    minima = legacy_minima(values, ends, *legacy_permutations(SEED, N_PERMUTATIONS))
    return minima, np.diff(words.ends) < NGRAM_WORDS


def _bands(minima: npt.NDArray[Any], too_short: npt.NDArray[np.bool_], n_bands: int, n_rows: int) -> pa.Array:
    data = np.ascontiguousarray(minima[~too_short, : n_bands * n_rows]).tobytes()
    n_bytes = 4 * n_rows
    values = pa.array([data[start : start + n_bytes] for start in range(0, len(data), n_bytes)], pa.binary())
    ends = np.concatenate(([0], np.cumsum(np.where(too_short, 0, n_bands)))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends, mask=np.append(too_short, False)), values, type=SIGNATURES)
