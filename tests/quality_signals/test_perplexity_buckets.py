"""Buckets from the corpus's own percentiles, the same for any split and order, and from a table of cutoffs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.errors import RecipeError, SourceError
from tilth.quality_signals.models.perplexity_buckets import (
    Cutoffs,
    PerplexityCounts,
    assign_buckets,
    merge_counts,
    read_cutoffs,
    write_cutoffs,
)

_ROWS = st.lists(
    st.tuples(st.sampled_from(["en", "de", None]), st.one_of(st.none(), st.integers(0, 300).map(lambda n: n / 10))), max_size=40
)


def _columns(rows: list[tuple[str | None, float | None]]) -> tuple[pa.Array, pa.Array]:
    return pa.array([row[0] for row in rows], pa.string()), pa.array([row[1] for row in rows], pa.float64())


@settings(max_examples=150, deadline=None)
@given(rows=_ROWS, rng=st.randoms(), share=st.integers(0, 50))
def test_cutoffs_are_the_exact_percentiles_however_the_corpus_is_cut(rows: list[Any], rng: Any, share: int) -> None:
    shuffled = rng.sample(rows, len(rows))
    at = rng.randrange(len(rows) + 1)
    parts = []
    for part in (shuffled[:at], shuffled[at:]):
        parts.append(PerplexityCounts())
        parts[-1].add(*_columns(part))
    found = merge_counts(rng.sample(parts, 2)).cutoffs(share, share + 30)
    whole = PerplexityCounts()
    whole.add(*_columns(rows))
    assert found == whole.cutoffs(share, share + 30)
    for language in ("en", "de"):
        values = [value for name, value in rows if name == language and value is not None]
        if values:
            assert found[language] == pytest.approx(tuple(np.percentile(values, [share, share + 30])), rel=1e-12)
        else:
            assert language not in found


@settings(max_examples=100, deadline=None)
@given(rows=_ROWS)
def test_buckets_follow_the_rule(rows: list[Any]) -> None:
    cutoffs = {"en": Cutoffs(10.0, 20.0), "fr": Cutoffs(1.0, 2.0)}
    languages, values = _columns(rows)
    wanted = []
    for language, value in rows:
        if language != "en" or value is None:
            wanted.append("all")
        else:
            wanted.append("head" if value < 10 else "middle" if value < 20 else "tail")
    assert assign_buckets(languages, values, cutoffs).to_pylist() == wanted
    assert assign_buckets(pa.chunked_array([languages]), pa.chunked_array([values]), cutoffs).to_pylist() == wanted


def test_a_third_goes_to_each_bucket() -> None:
    rows = [("en", value / 10) for value in range(1000)]
    counts = PerplexityCounts()
    counts.add(*_columns(rows))
    buckets = assign_buckets(*_columns(rows), counts.cutoffs()).to_pylist()
    assert [buckets.count(name) for name in ("head", "middle", "tail")] == [300, 300, 400]
    assert assign_buckets(*_columns([("en", -1.0)]), counts.cutoffs()).to_pylist() == ["all"]
    assert assign_buckets(*_columns(rows[:2]), {}).to_pylist() == ["all", "all"]


def test_cutoffs_are_read_as_published_and_come_back_exactly(tmp_path: Path) -> None:
    path = tmp_path / "cutoff.csv"
    path.write_text(",en,de\n0,1.5,2\n30,340.2,371.1\n60,520.4,591.9\n")
    assert read_cutoffs(path) == {"en": (340.2, 520.4), "de": (371.1, 591.9)}
    assert read_cutoffs(path, 0, 30)["de"] == (2.0, 371.1)
    wanted = {"fr": Cutoffs(1 / 3, 2e9), "it": Cutoffs(0.1, 0.1 + 0.2)}
    write_cutoffs(wanted, path, 25, 75)
    assert read_cutoffs(path, 25, 75) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n",
        ",en\n30,x\n60,2\n",
        ",en\n30,1\n",
        ",en\n30,1,2\n60,2\n",
        ",en\n30,5\n60,2\n",
        ",en\n30,nan\n60,2\n",
        ",en,en\n30,1,1\n60,2,2\n",
    ],
)
def test_bad_tables_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "cutoff.csv"
    path.write_text(text)
    with pytest.raises(SourceError, match=r"cutoff\.csv"):
        read_cutoffs(path)


def test_bad_parameters_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="ascend"):
        PerplexityCounts().cutoffs(60, 30)
    with pytest.raises(SourceError, match="No such file"):
        read_cutoffs(tmp_path / "none.csv")
    with pytest.raises(SourceError, match="finite"):
        PerplexityCounts().add(*_columns([("en", float("inf"))]))
