"""A validation split by predicate: whole clusters of duplicates go with what is held out, whatever marks them."""

from __future__ import annotations

import json
import random
import tempfile
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.artifacts import Store
from tilth.catalog.mixture import Mixture
from tilth.catalog.pick import pick
from tilth.contracts import uuid_bytes
from tilth.errors import QueryError, SubsetError


def splits(store: Store, name: str) -> dict[bytes, str]:
    table = pq.read_table(store.artifact(store.get_named("subset", name).one("pick")).path / "subset.parquet")
    return dict(zip(uuid_bytes(table.column("doc_id")), table.column("split").to_pylist(), strict=True))


@settings(max_examples=10, deadline=None)
@given(
    chromosomes=st.lists(
        st.lists(st.sampled_from(["chr1", "chr2", "chrX", None]), min_size=1, max_size=4), min_size=1, max_size=6
    ),
    only_keepers=st.booleans(),
)
def test_what_is_held_out_takes_its_clusters_with_it(chromosomes, only_keepers, new_document, corpus_builder, new_mark):
    """`chromosomes` has a list for each cluster: where its documents lie."""
    rng = random.Random(1)
    docs, marks, cluster_of, chromosome_of, keepers = [], [], {}, {}, set()
    for cluster, members in enumerate(chromosomes):
        first = None
        for member, chromosome in enumerate(members):
            doc = new_document("dna/00000", len(docs), f"ACGT{cluster}.{member}", rng)
            doc["meta"] = [("sequence", chromosome)] if chromosome else []
            first = first or doc
            docs.append(doc)
            if len(members) > 1:
                marks.append(new_mark(doc, "minhash", first, member == 0))
            cluster_of[doc["doc_id"]], chromosome_of[doc["doc_id"]] = cluster, chromosome
            keepers |= {doc["doc_id"]} if member == 0 else set()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        corpus_builder(store, "dna", docs, marks={"minhash": marks} if marks else {})
        chosen = [doc["doc_id"] for doc in docs if not only_keepers or doc["doc_id"] in keepers]
        held = {cluster_of[doc] for doc in chosen if chromosome_of[doc] == "chrX"}
        expected = {doc: "validation" if cluster_of[doc] in held else "train" for doc in chosen}
        where, held_out = "is_keeper" if only_keepers else "true", "meta['sequence'] = 'chrX'"
        if len(set(expected.values())) < 2:
            with pytest.raises(SubsetError, match="validation"):
                pick(store, "dna", "split", where, validation_where=held_out)
            return
        picked = pick(store, "dna", "split", where, validation_where=held_out)
        assert splits(store, "split") == expected
        meta = picked.named.meta
        assert meta["validation_where"] == "meta['sequence'] = 'chrX'"
        moved = [doc for doc, split in expected.items() if split == "validation" and chromosome_of[doc] != "chrX"]
        assert meta["n_moved_to_validation"] == len(moved)
        assert meta["n_validation"] == sum(split == "validation" for split in expected.values())


def dna(new_document: Any, corpus_saver: Any, n: int = 12) -> None:
    rng = random.Random(1)
    docs = [new_document("dna/00000", row, f"text {row} " * (row + 1), rng) for row in range(n)]
    for row, doc in enumerate(docs):
        doc["meta"] = [("sequence", f"chr{row % 3}")]
    corpus_saver("dna", docs)


def test_the_predicate_is_part_of_the_key_and_of_the_file(store, new_document, corpus_saver):
    dna(new_document, corpus_saver)
    by_share = pick(store, "dna", "a", "true")
    first = pick(store, "dna", "b", "true", validation_where="meta['sequence'] = 'chr1'")
    again = pick(store, "dna", "c", "true", validation_where="meta['sequence']  =  'chr1'")
    other = pick(store, "dna", "d", "true", validation_where="meta['sequence'] = 'chr2'")
    parts = [one.named.one("pick") for one in (by_share, first, again, other)]
    assert parts[1] == parts[2]
    assert len({part.key for part in parts}) == 3
    report = json.loads((store.artifact(parts[1]).path / "pick.json").read_text())
    assert report["validation_where"] == "meta['sequence'] = 'chr1'"
    assert "validation_where" not in by_share.named.meta


def test_a_mixture_repeats_nothing_that_is_held_out(store, new_document, corpus_saver):
    dna(new_document, corpus_saver)
    picked = pick(
        store, "dna", "m", "n_tokens is not null", mixture=Mixture({"dna": 1.0}, 3.0), max_tokens=500,
        validation_where="meta['sequence'] = 'chr0'",
    )  # fmt: skip
    table = pq.read_table(store.artifact(picked.named.one("pick")).path / "subset.parquet").to_pylist()
    assert {row["weight"] for row in table if row["split"] == "validation"} == {1.0}


@pytest.mark.parametrize(
    ("where", "error"),
    [
        ("meta['sequence'] = 'chr9'", SubsetError),
        ("true", SubsetError),
        ("sequence = 'chr1'", QueryError),
        ("n_words", QueryError),
    ],
)
def test_what_cannot_be_held_out_is_refused(store, new_document, corpus_saver, where, error):
    dna(new_document, corpus_saver)
    with pytest.raises(error):
        pick(store, "dna", "x", "true", validation_where=where)
    assert store.find_named("subset", "x") is None


def test_a_share_and_a_predicate_exclude_each_other(store, new_document, corpus_saver):
    dna(new_document, corpus_saver)
    with pytest.raises(SubsetError, match="Give one"):
        pick(store, "dna", "x", "true", validation_share=0.1, validation_where="true")
