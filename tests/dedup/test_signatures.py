"""Signatures: the same for any cut of the documents, unbiased, and never mixed across parameters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth.dedup.minhash import MinHashParameters, minhash_duplicates, signatures
from tilth.dedup.signatures import _MinHash, random_words
from tilth.errors import ContractError

PARAMETERS = MinHashParameters()


def test_any_cut_gives_the_same_rows(make_documents: Callable[..., pa.Table], planted_texts: list[str]) -> None:
    table = make_documents(planted_texts[:40])
    whole = signatures(table, PARAMETERS)
    parts = [signatures(batch, PARAMETERS) for batch in table.to_batches(max_chunksize=7)]
    assert pa.concat_tables(parts) == whole
    chunked = pa.concat_tables([table.slice(0, 3), table.slice(3)])
    assert signatures(chunked, PARAMETERS) == whole


def test_texts_without_tokens_have_no_keys(make_documents: Callable[..., pa.Table]) -> None:
    found = signatures(make_documents(["", "one", "!!!"]), PARAMETERS)
    assert found.column("n_shingles").to_pylist() == [0, 1, 0]
    assert found.column("band_keys").is_null().to_pylist() == [True, False, True]
    assert signatures(make_documents([]), PARAMETERS).num_rows == 0


def test_equal_minima_estimate_the_similarity() -> None:
    parameters = MinHashParameters(threshold=1.0, max_permutations=2048)
    minhash = _MinHash(parameters)
    assert (parameters.n_bands, parameters.n_rows) == (1, 2048)
    words = random_words(99, 3000)
    a, b = np.sort(words[:2000]), np.sort(words[1000:])
    single = _MinHash(MinHashParameters(threshold=0.001, recall=0.5, max_permutations=700))
    equal = np.equal(*single.band_keys([a, b]))
    assert minhash.shape == (1, 2048)
    # 693 bands of one row: each agrees with probability J = 1/3; four standard deviations are 0.072.
    assert abs(equal.mean() - 1 / 3) < 0.072


def test_seeds_give_other_keys(make_documents: Callable[..., pa.Table]) -> None:
    table = make_documents(["some words that are long enough"])
    one, other = (signatures(table, MinHashParameters(seed=seed)).column("band_keys").to_pylist()[0] for seed in (0, 1))
    assert not set(one) & set(other)
    assert len(set(one)) == PARAMETERS.n_bands  # a key says which band it is of


def test_keys_stay_what_they_are(make_documents: Callable[..., pa.Table]) -> None:
    found = signatures(make_documents(["the quick brown fox jumps over the lazy dog"]), PARAMETERS)
    assert found.column("band_keys").to_pylist()[0][:2] == [12235524807580110266, 16389594771908446435]


def test_signatures_of_other_parameters_are_refused(make_documents: Callable[..., pa.Table]) -> None:
    table = make_documents(["a b c", "a b c"])
    made = signatures(table, PARAMETERS)
    for other in (MinHashParameters(n=3), MinHashParameters(seed=5), MinHashParameters(threshold=0.9)):
        with pytest.raises(ContractError, match="other parameters"):
            minhash_duplicates([made], lambda shard, rows: ["a b c"] * len(rows), other)
    with pytest.raises(ContractError, match="other parameters"):
        minhash_duplicates([table], lambda shard, rows: ["a b c"] * len(rows), PARAMETERS)


def test_they_survive_parquet(make_documents: Callable[..., pa.Table], tmp_path: Path) -> None:
    texts = ["", "words that are the same on two rows", "!", "words that are the same on two rows"]
    made = signatures(make_documents(texts), PARAMETERS)
    pq.write_table(made, tmp_path / "signatures.parquet", compression="zstd", row_group_size=3)
    back = pq.read_table(tmp_path / "signatures.parquet")
    assert back == made
    found = minhash_duplicates([back], lambda shard, rows: [texts[row] for row in rows], PARAMETERS)
    assert found.column("row").to_pylist() == [1, 3]
