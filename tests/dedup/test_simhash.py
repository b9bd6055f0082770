"""SimHash against plain counting and brute force over all pairs; many equal fingerprints cost no more than one."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.contracts import DUPLICATES, check
from tilth.dedup.simhash.duplicates import SimHash, fingerprint_schema, fingerprints, simhash_duplicates
from tilth.dedup.simhash.hamming import near_values, table_masks
from tilth.errors import ContractError, RecipeError

MakeDocuments = Callable[..., pa.Table]
M64 = (1 << 64) - 1


def _mixed(word: int) -> int:
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & M64
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & M64
    return word ^ (word >> 31)


def _token(word: str) -> int:
    state = 0xCBF29CE484222325
    for char in word:
        state = ((state ^ ord(char)) * 0x100000001B3) & M64
    return _mixed(state)


def _plain_fingerprint(tokens: list[str], n: int) -> int:
    """Charikar's sum of signs over the shingles, written out."""
    width = min(n, len(tokens))
    counts = [0] * 64
    for start in range(len(tokens) - width + 1):
        state = width
        for token in tokens[start : start + width]:
            state = ((state ^ _token(token)) * 0xBF58476D1CE4E5B9) & M64
            state ^= state >> 32
        for bit in range(64):
            counts[bit] += 1 if _mixed(state) >> bit & 1 else -1
    return sum(1 << bit for bit in range(64) if counts[bit] > 0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["soil", "Seed,", "rain", "é", "漢字", "ไทย", "x1"]), max_size=30), st.sampled_from([1, 2, 3, 5]))
def test_fingerprints_are_what_the_definition_says(make_documents: MakeDocuments, words: list[str], n: int) -> None:
    normal = [word.lower().strip(",").replace("é", "e\u0301") for word in words]
    by_word = [token for word in normal for token in (list(word) if word in ("漢字", "ไทย") else [word])]
    for unit, tokens in (("words", by_word), ("characters", list("".join(normal)))):
        found = fingerprints(make_documents([" ".join(words)]), SimHash(n=n, unit=unit))  # type: ignore[arg-type]
        assert found.column("fingerprint").to_pylist() == ([_plain_fingerprint(tokens, n)] if tokens else [])


def test_case_wrapping_and_punctuation_do_not_count(make_documents: MakeDocuments) -> None:
    texts = [
        "Sow the rye in autumn, not in spring.",
        "sow the RYE\r\nin autumn not in spring",
        "ΟΔΟΣ",
        "οδος",
        "",
        "...\0",
        "İ",
        "i\u0307",
    ]
    found = fingerprints(make_documents(texts), SimHash()).to_pylist()
    assert [row["row"] for row in found] == [0, 1, 2, 3, 6, 7]
    assert all(one["fingerprint"] == other["fingerprint"] for one, other in zip(found[::2], found[1::2], strict=True))


def _table(values: list[int], shard: str, make_documents: MakeDocuments, parameters: SimHash) -> pa.Table:
    documents = make_documents(["" for _ in values], shard).drop(["text"])
    return documents.append_column("fingerprint", pa.array(values, pa.uint64())).cast(fingerprint_schema(parameters))


def _truth(values: list[int], max_distance: int) -> tuple[list[int], list[int], list[int]]:
    """Roots, nearest, distances by comparing every pair."""
    n = len(values)
    roots = list(range(n))
    nearest: list[tuple[int, int]] = [(99, place) for place in range(n)]

    def root(place: int) -> int:
        while roots[place] != place:
            place = roots[place]
        return place

    for i, j in itertools.combinations(range(n), 2):
        distance = (values[i] ^ values[j]).bit_count()
        if distance <= max_distance:
            nearest[i], nearest[j] = min(nearest[i], (distance, j)), min(nearest[j], (distance, i))
            a, b = root(i), root(j)
            roots[max(a, b)] = min(a, b)
    return [root(place) for place in range(n)], [place for _, place in nearest], [distance for distance, _ in nearest]


def _clustered(rng: random.Random, n: int, spread: int) -> list[int]:
    values: list[int] = []
    while len(values) < n:
        value = rng.getrandbits(64)
        for _ in range(rng.randrange(1, 5)):
            changed = value
            for bit in rng.sample(range(64), rng.randrange(spread + 3)):
                changed ^= 1 << bit
            values.append(changed)
    return values[:n]


@pytest.mark.parametrize("max_distance", [0, 1, 2, 3, 5, 8])
def test_marks_equal_brute_force_for_any_order(make_documents: MakeDocuments, max_distance: int) -> None:
    rng = random.Random(max_distance)
    parameters = SimHash(max_distance=max_distance)
    values = _clustered(rng, 300, max_distance)
    tables = [_table(values[at : at + 60], f"s/{at:03d}", make_documents, parameters) for at in range(0, 300, 60)]
    ids = [row["doc_id"] for table in tables for row in table.to_pylist()]
    roots, nearest, distances = _truth(values, max_distance)
    wanted = [
        (ids[place], ids[roots[place]], ids[nearest[place]], roots[place] == place, 1 - distances[place] / 64)
        for place in range(300)
        if distances[place] <= max_distance
    ]
    rng.shuffle(tables)
    found = simhash_duplicates([table.take(pa.array(rng.sample(range(60), 60))) for table in tables], parameters)
    check(found, DUPLICATES)
    columns = ("doc_id", "cluster_id", "matched_id", "is_keeper", "similarity")
    assert [tuple(row[name] for name in columns) for row in found.to_pylist()] == wanted
    assert {row["method"] for row in found.to_pylist()} <= {"simhash"}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 3, 7, 2**63, 2**64 - 1]), unique=True, max_size=25),
    st.integers(0, 6),
)
def test_near_values_of_any_values(values: list[int], max_distance: int) -> None:
    roots, nearest, distances = near_values(np.array(values, np.uint64), max_distance, 1000, 8)
    wanted_roots, wanted_nearest, wanted = _truth(values, max_distance)
    assert (roots.tolist(), nearest.tolist()) == (wanted_roots, wanted_nearest)
    assert distances.tolist() == [0 if distance == 99 else distance for distance in wanted]


@pytest.mark.parametrize("n_values", [2, 10**4, 10**6, 10**9])
@pytest.mark.parametrize("max_distance", [1, 3, 5, 12])
def test_every_pair_that_is_near_agrees_in_a_table(n_values: int, max_distance: int) -> None:
    masks = table_masks(n_values, max_distance)
    rng = random.Random(n_values + max_distance)
    for _ in range(300):
        change = sum(1 << bit for bit in rng.sample(range(64), max_distance))
        assert any(not change & mask for mask in masks)


def test_a_hundred_thousand_equal_fingerprints_take_the_time_of_their_number(make_documents: MakeDocuments) -> None:
    parameters = SimHash()
    few, many = (_table([12345] * n, "s", make_documents, parameters) for n in (10_000, 100_000))
    simhash_duplicates([few], parameters)  # compiled now
    times = []
    for table in (few, many):
        begin = time.process_time()
        found = simhash_duplicates([table], parameters)
        times.append(time.process_time() - begin)
        assert found.num_rows == table.num_rows
        assert found.column("is_keeper").to_pylist().count(True) == 1
    assert times[1] < 40 * max(times[0], 0.01)  # all pairs would be 100 times


def test_a_crowd_of_near_fingerprints_stays_linear_and_in_one_cluster() -> None:
    rng = random.Random(3)
    values = {0}
    while len(values) < 40_000:
        values.add(sum(1 << bit for bit in rng.sample(range(64), rng.randrange(1, 4))))
    ordered = [0, *sorted(values - {0})]
    begin = time.process_time()
    roots, _, _ = near_values(np.array(ordered, np.uint64), 3, 1000, 32)
    assert not roots.any()
    assert time.process_time() - begin < 20


def test_other_parameters_are_refused(make_documents: MakeDocuments) -> None:
    table = fingerprints(make_documents(["a b c"]), SimHash(n=2))
    with pytest.raises(ContractError, match="other parameters"):
        simhash_duplicates([table], SimHash(n=3))
    simhash_duplicates([table], SimHash(n=2, max_distance=5))  # how near is near does not change fingerprints


def test_nothing_to_compare_gives_an_empty_table(make_documents: MakeDocuments) -> None:
    parameters = SimHash()
    for tables in ([], [fingerprints(make_documents([]), parameters)], [fingerprints(make_documents(["", "!"]), parameters)]):
        found = simhash_duplicates(tables, parameters)
        check(found, DUPLICATES)
        assert found.num_rows == 0


@pytest.mark.parametrize(
    "settings_", [{"unit": "lines"}, {"max_distance": 13}, {"max_distance": -1}, {"n": 0}, {"max_bucket": 1}]
)
def test_impossible_settings_are_refused(settings_: dict[str, Any]) -> None:
    with pytest.raises(RecipeError):
        SimHash(**settings_)
