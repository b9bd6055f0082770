"""Near-duplicates against the truth of all pairs: what is found, what is not claimed, and that order never matters."""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash, MinHashLSH
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.dedup.minhash.duplicates import renumbered
from tilth.dedup.minhash.parameters import MinHashParameters
from tilth.errors import ContractError

PARAMETERS = MinHashParameters()
Search = Callable[..., Any]
Truth = Callable[[Sequence[str], int, float], dict[tuple[int, int], float]]


def rows(found: Any) -> list[int]:
    return [member.place[1] for member in found.members]


def components(n: int, pairs: Sequence[tuple[int, int]]) -> list[int]:
    roots = list(range(n))
    changed = True
    while changed:
        changed = False
        for a, b in pairs:
            low = min(roots[a], roots[b])
            changed |= roots[a] != low or roots[b] != low
            roots[a] = roots[b] = low
    return roots


@pytest.fixture(scope="module")
def found(planted_texts: list[str], search: Search) -> Any:
    return search(planted_texts)


def test_recall_against_all_pairs(found: Any, planted_texts: list[str], true_pairs: Truth) -> None:
    cluster = {member.place[1]: member.root for member in found.members}
    for least, wanted, n_least in ((0.8, 0.99, 150), (0.7, 0.97, 200)):
        pairs = true_pairs(planted_texts, PARAMETERS.n, least)
        assert len(pairs) > n_least
        n_hit = sum(i in cluster and cluster[i] == cluster.get(j) for i, j in pairs)
        assert n_hit >= wanted * len(pairs)


def test_every_claim_is_true(found: Any, planted_texts: list[str], true_pairs: Truth) -> None:
    pairs = true_pairs(planted_texts, PARAMETERS.n, PARAMETERS.threshold)
    true_root = components(len(planted_texts), list(pairs))
    members = defaultdict(list)
    for member in found.members:
        row, match, root = member.place[1], member.matched[1], member.root[1]
        pair = (min(row, match), max(row, match))
        assert pairs[pair] >= PARAMETERS.threshold  # verified precision is 1
        assert member.similarity == np.float32(pairs[pair])
        assert true_root[row] == true_root[root]
        members[root].append(row)
    for root, cluster in members.items():
        assert len(cluster) >= 2
        assert root == min(cluster)


def test_matches_are_the_most_similar(found: Any, planted_texts: list[str], true_pairs: Truth) -> None:
    best: dict[int, float] = defaultdict(float)
    for (i, j), similarity in true_pairs(planted_texts, PARAMETERS.n, PARAMETERS.threshold).items():
        best[i], best[j] = max(best[i], similarity), max(best[j], similarity)
    n_best = sum(member.similarity == np.float32(best[member.place[1]]) for member in found.members)
    assert n_best >= 0.98 * len(found.members)  # the few others were not proposed


def test_recall_is_that_of_an_independent_implementation(found: Any, planted_texts: list[str], true_pairs: Truth) -> None:
    index = MinHashLSH(num_perm=PARAMETERS.n_permutations, params=(PARAMETERS.n_bands, PARAMETERS.n_rows))
    sketches = []
    for row, text in enumerate(planted_texts):
        words = re.findall(r"[a-z0-9_]+", text.lower())
        sketch = MinHash(num_perm=PARAMETERS.n_permutations)
        sketch.update_batch([" ".join(words[i : i + 5]).encode() for i in range(max(1, len(words) - 4))])
        sketches.append(sketch)
        index.insert(row, sketch)
    theirs = {(min(i, j), max(i, j)) for i, sketch in enumerate(sketches) for j in index.query(sketch) if i != j}
    cluster = {member.place[1]: member.root for member in found.members}
    pairs = true_pairs(planted_texts, PARAMETERS.n, PARAMETERS.threshold)
    recall_theirs = len(theirs & pairs.keys()) / len(pairs)
    recall_ours = sum(i in cluster and cluster[i] == cluster.get(j) for i, j in pairs) / len(pairs)
    assert recall_theirs > 0.9
    assert recall_ours >= recall_theirs - 0.01


@pytest.mark.parametrize(("threshold", "n"), [(0.5, 3), (0.9, 8), (1.0, 5)])
def test_other_parameters(threshold: float, n: int, planted_texts: list[str], search: Search, true_pairs: Truth) -> None:
    texts = planted_texts[:500]
    found = search(texts, MinHashParameters(n=n, threshold=threshold))
    pairs = true_pairs(texts, n, threshold)
    roots = components(len(texts), list(pairs))
    wanted = {row for row in range(len(texts)) if roots.count(roots[row]) > 1}
    assert set(rows(found)) <= wanted
    assert len(found.members) >= 0.97 * len(wanted) > 0


@pytest.fixture(scope="module")
def three_shards(planted_texts: list[str]) -> dict[str, list[str]]:
    """Texts of three shards, with a crowd of copies that differ in a word."""
    crowd = [f"{planted_texts[0]} copy number {i}" for i in range(60)]
    texts = planted_texts[:150] + crowd + planted_texts[:9]
    return {shard: texts[part::3] for part, shard in enumerate(["b", "a", "c"])}


@settings(max_examples=12, deadline=None)
@given(n_groups=st.integers(1, 6), batch=st.sampled_from([1, 7, 1000]))
def test_batches_and_groups_do_not_matter(n_groups: int, batch: int, three_shards: dict[str, list[str]], search: Search) -> None:
    whole = search(three_shards)
    assert whole.stats["n_crowds"] > 0
    assert len(whole.members) > 60
    parts = search(three_shards, n_groups=n_groups, batch=batch)
    assert parts.members == whole.members
    assert np.array_equal(parts.pairs, whole.pairs)


def test_small_parts_of_the_key_range_do_not_matter(
    three_shards: dict[str, list[str]], search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(three_shards)
    monkeypatch.setattr("tilth.dedup.minhash.candidates.PART_ENTRIES", 8)
    monkeypatch.setattr("tilth.dedup.minhash.comparison._PAIRS_AT_ONCE", 3)
    monkeypatch.setattr("tilth.dedup.minhash.duplicates._PAIRS_AT_ONCE", 5)
    assert search(three_shards).members == whole.members


def test_how_texts_are_cut_into_shards_changes_no_cluster(three_shards: dict[str, list[str]], search: Search) -> None:
    texts = [text for shard in three_shards.values() for text in shard]
    one, many = search({"s": texts}), search({f"s{i:03}": [text] for i, text in enumerate(texts)})
    number = {f"s{i:03}": i for i in range(len(texts))}
    assert [member.place[1] for member in one.members] == [number[member.place[0]] for member in many.members]
    assert [member.root[1] for member in one.members] == [number[member.root[0]] for member in many.members]
    assert [member.similarity for member in one.members] == [member.similarity for member in many.members]


def test_the_root_is_the_first_by_shard_and_row(three_shards: dict[str, list[str]], search: Search) -> None:
    for cluster in (found := search(three_shards)).clusters():
        assert {member.root for member in found.members if member.place in cluster} == {min(cluster)}


def test_each_text_is_read_once(three_shards: dict[str, list[str]], search: Search) -> None:
    found = search(three_shards)
    assert len(found.read) == len(set(found.read)) == found.stats["n_texts_read"] > 0


def test_known_pairs_save_comparing_and_change_nothing(three_shards: dict[str, list[str]], search: Search) -> None:
    before = {shard: texts[:-10] for shard, texts in three_shards.items()}
    earlier, whole = search(before), search(three_shards)
    # Numbers change: documents of later shards move back by what was added before them.
    numbers, at = [], 0
    for shard in sorted(three_shards):
        numbers += list(range(at, at + len(before[shard])))
        at += len(three_shards[shard])
    again = search(three_shards, known=renumbered(earlier.pairs, np.array(numbers)))
    assert again.members == whole.members
    assert np.array_equal(again.pairs, whole.pairs)
    assert again.stats["n_known"] > 0.6 * whole.stats["n_compared"]
    assert again.stats["n_compared"] + again.stats["n_known"] == whole.stats["n_compared"]
    same = search(three_shards, known=whole.pairs)
    assert (same.members, same.stats["n_compared"], same.read) == (whole.members, 0, [])


def test_removed_documents_are_as_if_they_had_never_been(three_shards: dict[str, list[str]], search: Search) -> None:
    removed = [("a", row) for row in range(0, 60, 2)] + [("b", 0)]
    found = search(three_shards, removed=removed)
    without = search({s: [None if (s, i) in removed else text for i, text in enumerate(t)] for s, t in three_shards.items()})
    assert found.members == without.members
    assert not {member.place for member in found.members} & set(removed)


def test_short_and_empty_texts(search: Search) -> None:
    texts = [
        "",
        "one",
        None,
        "!!!",
        "One.",
        "two",
        "one two",
        "two one",
        "!!!",
        "two  ONE",
        "漢",
        "字",
        "漢字漢字漢字",
        "漢 字漢字漢字!",
    ]
    found = search(texts)
    assert {frozenset(row for _, row in cluster) for cluster in found.clusters()} == {
        frozenset({1, 4}),
        frozenset({7, 9}),
        frozenset({12, 13}),
    }
    assert all(member.similarity == 1.0 for member in found.members)
    assert found.stats["n_without_shingles"] == 4


def test_layout_of_code_does_not_matter(search: Search) -> None:
    code = "def area(width, height):\n    total = width * height\n    return total\n"
    spread = code.replace("\n", "\r\n\r\n").replace("    ", "\t" * 50)
    assert [member.similarity for member in search([code, spread]).members] == [1.0, 1.0]


@pytest.mark.parametrize("unit", ["words", "characters"])
def test_scripts_without_spaces_are_compared_by_characters(unit: str, search: Search) -> None:
    base = "人人生而自由在尊严和权利上一律平等他们赋有理性和良心并应以兄弟关系的精神相对待"
    near, far = base.replace("良心", "善心"), "任何人不得加以奴役或奴隶买卖一切形式的奴隶制度和奴隶买卖均应予以禁止"
    found = search([base, near, far], MinHashParameters(unit=unit))
    assert rows(found) == [0, 1]
    n_shingles = len(base) - 4
    assert found.members[0].similarity == np.float32((n_shingles - 5) / (n_shingles + 5))


def test_chains_join_only_through_true_matches(search: Search, true_pairs: Truth) -> None:
    words = [f"w{i}" for i in range(130)]
    texts = [" ".join(words[start : start + 100]) for start in (0, 10, 20)]
    assert list(true_pairs(texts, 5, 0.7)) == [(0, 1), (1, 2)]  # the ends are less similar
    found = search(texts)
    assert [member.root[1] for member in found.members] == [0, 0, 0]
    assert [member.matched[1] for member in found.members] == [1, 0, 1]


def test_texts_of_equal_shingles_in_another_order_match_whole(search: Search) -> None:
    # The same sets from other sequences: a repeated part adds nothing to a set.
    base = " ".join(f"w{i}" for i in range(40))
    found = search([base, f"{base} {base}", base.upper()])
    assert rows(found) == [0, 1, 2]
    assert found.members[0].similarity == 1.0
    assert found.members[2].similarity == 1.0


def test_nothing_in_nothing_out(search: Search) -> None:
    for texts in ([], [""], [None], ["alone"]):
        assert search(texts).members == []
    assert search({}).members == []


def test_texts_that_are_not_those_of_the_signatures_are_refused(search: Search) -> None:
    words = random.Random(1).sample(range(10_000), 60)
    texts = [" ".join(map(str, words)), " ".join(map(str, [*words, 1]))]
    with pytest.raises(ContractError, match="not those that the signatures"):
        search(texts, texts_now={"s": ["a b c d e f g h"] * 2})


def test_more_documents_than_can_be_numbered_are_refused(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilth.dedup.minhash.candidates.MAX_DOCUMENTS", 3)
    with pytest.raises(ContractError, match="at most 3"):
        search(["a b", "c d", "e f", "g h"])


def test_the_pairs_of_the_search_can_be_stored(found: Any, tmp_path: Path) -> None:
    np.save(tmp_path / "pairs.npy", found.pairs)
    assert np.array_equal(np.load(tmp_path / "pairs.npy"), found.pairs)
    codes = pa.array(found.pairs["code"])
    assert codes.to_pylist() == sorted(set(codes.to_pylist()))
