"""However little memory there is, records come out sorted by key, equal keys in the order that they came in."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.corpus.external_sort import ExternalSort

KEYS = st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 1), st.integers(0, 3))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(KEYS, st.binary(max_size=300)), max_size=60), st.sampled_from([1, 700, 1 << 20]), st.integers(1, 4))
def test_sorted_as_in_memory(records: list[tuple[tuple[int, int, int], bytes]], memory_bytes: int, max_runs: int) -> None:
    with ExternalSort(memory_bytes, max_runs) as sort:
        for key, payload in records:
            sort.add(key, payload)
        assert list(sort) == sorted(records, key=lambda record: record[0])
