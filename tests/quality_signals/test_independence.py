"""A document's values do not depend on what else is scored: the same bits for any batches, any order, any neighbours."""

from __future__ import annotations

import random
from collections.abc import Callable

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.quality_signals import scoring
from tilth.quality_signals.models.importance import train_importance_model
from tilth.quality_signals.models.perplexity import LanguageModelParameters, train_language_model
from tilth.quality_signals.models.quality import train_quality_model
from tilth.quality_signals.registry import compute_families, families

TRAINED_ON = ["one text of the wanted kind, with words in it", "and another one; it has words too"] * 4
OTHERS = ["numbers 1 2 3 4 5 and nothing more", "def f(x): return {x}"] * 4
WORDS = [
    "the", "a", "words", "Σ", "ΟΔΟΣ", "İ", "é", "e\u0301\u0323", "漢字", "lorem", "ipsum", "javascript", "darn", "oh", "dear", "[1]", "{",
    "a@bc.de", "8.8.8.8", "+49 30 1234567", "...", "…", "•", "-", "1", "½", "\0", "\n", "\n\n", "\r\n", "\u2028", ". ", "! ", "  ",
]  # fmt: skip
TEXTS = st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join) | st.lists(st.sampled_from(WORDS), max_size=12).map("".join)


@pytest.fixture(scope="module")
def models() -> dict[str, bytes]:
    return {
        "importance": train_importance_model(TRAINED_ON, OTHERS),
        "perplexity": train_language_model(TRAINED_ON, LanguageModelParameters(n_pieces=0)),
        "quality": train_quality_model(TRAINED_ON, OTHERS),
    }


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=12), data=st.data())
def test_any_batches_in_any_order_give_the_same_bits(
    documents: Callable[..., pa.Table],
    resources: dict[str, bytes],
    models: dict[str, bytes],
    texts: list[str],
    data: st.DataObject,
) -> None:
    chosen = list(families().values())
    languages = data.draw(st.lists(st.sampled_from(["en", "fr", "ru", None]), min_size=len(texts), max_size=len(texts)))
    table = documents(texts, language=languages)
    whole = compute_families(chosen, table, models, resources)
    order = data.draw(st.permutations(range(len(texts))))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(texts)))) | {len(texts)})
    piece_bytes, piece_rows = data.draw(st.integers(1, 400)), data.draw(st.integers(1, 5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scoring, "PIECE_BYTES", piece_bytes)
        patch.setattr(scoring, "PIECE_ROWS", piece_rows)
        shuffled = table.take(pa.array(order))
        parts = [
            compute_families(data.draw(st.permutations(chosen)), shuffled.slice(first, last - first), models, resources)
            for first, last in zip([0, *cuts], cuts)
        ]
    for name, expected in whole.items():
        found = pa.concat_tables([part[name] for part in parts]).combine_chunks()
        # `equals` takes -0.0 for 0.0 and is exact otherwise; nothing is rounded here.
        assert found.equals(expected.take(pa.array(order)).combine_chunks()), name


def test_large_neighbours_leave_nothing_behind(
    documents: Callable[..., pa.Table], resources: dict[str, bytes], models: dict[str, bytes]
) -> None:
    """Tables that grew for a long text are used for the short ones after it."""
    rng = random.Random(0)
    long = " ".join(rng.choices([f"w{i}" for i in range(60_000)], k=150_000))
    short = ["a few words. a few words. a few words", "• One!\nTwo…\n" * 5, ""]
    chosen = list(families().values())
    together = compute_families(chosen, documents([*short, long, *short]), models, resources)
    alone = compute_families(chosen, documents(short), models, resources)
    for name, expected in alone.items():
        for first in (0, 4):
            found = together[name].slice(first, 3).drop(["row"]).combine_chunks()
            assert found.equals(expected.drop(["row"]).combine_chunks()), name
