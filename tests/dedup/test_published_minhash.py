"""Signatures equal to datasketch's own, of both its families of permutations, and SHA-1 equal to hashlib's."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.dedup.minhash.parameters import MinHashParameters
from tilth.dedup.minhash.published_minima import datasketch_minima
from tilth.dedup.minhash.signatures import sign
from tilth.dedup.texts.sha1 import ROOM_BYTES, sha1_head
from tilth.dedup.texts.tokens import tokens

TEXTS = st.lists(st.lists(st.sampled_from(["rye", "oat", "Σας", "漢字", "é", "x" * 300]), max_size=12).map(" ".join), max_size=5)


@settings(max_examples=40, deadline=None)
@given(TEXTS, st.integers(1, 7), st.integers(0, 2**32 - 1), st.sampled_from(["affine32", "legacy"]))
def test_minima_are_those_of_datasketch(texts: list[str], n: int, seed: int, scheme: str) -> None:
    found = datasketch_minima(pa.array(texts, pa.string()), n, "words", seed, 24, scheme)
    assert found.shape == (len(texts), 24)
    for text, minima in zip(texts, found, strict=True):
        words = tokens(text)
        peer = MinHash(24, seed=seed, scheme=scheme)
        peer.update_batch([" ".join(words[i : i + n]).encode() for i in range(max(1, len(words) - n + 1))] if words else [])
        assert minima.tolist() == peer.hashvalues.tolist()


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_sha1_is_that_of_hashlib(message: bytes) -> None:
    buffer = np.zeros(len(message) + ROOM_BYTES, np.uint8)
    buffer[: len(message)] = np.frombuffer(message, np.uint8)
    head = sha1_head(buffer, len(message), np.empty(80, np.uint32))
    assert head == int.from_bytes(hashlib.sha1(message).digest()[:8], "little")


@pytest.mark.parametrize("definition", ["datasketch", "datasketch-legacy"])
def test_documents_can_be_signed_so(definition: str) -> None:
    texts = pa.array(["the quick brown fox jumps over the lazy dog", "the quick brown fox jumps over the lazy dog", "", None])
    parameters = MinHashParameters(definition=definition, bands=(4, 2), seed=1)
    found = sign(pa.array(range(4)), texts, parameters)
    assert found.sizes.tolist() == [5, 5, 0, 0]
    assert np.array_equal(found.band_keys[0], found.band_keys[1])
    assert not np.array_equal(
        found.band_keys[0], sign(pa.array(range(4)), texts, MinHashParameters(bands=(4, 2), seed=1)).band_keys[0]
    )
