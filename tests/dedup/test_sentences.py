"""Repeated spans of sentences: the splitter, keep-first against plain counting, the limits, any split into shards and runs."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.contracts import EDITS, check
from tilth.dedup.passages.lines import repeated_lines
from tilth.dedup.passages.sentence_tiles import sentence_tiles
from tilth.dedup.passages.sentences import Limits, sentence_edits, sentence_run
from tilth.errors import ContractError


def _documents(texts: list[str], shard: str) -> pa.Table:
    rows = pa.array(range(len(texts)), pa.int32())
    return pa.table(
        {"shard": pa.array([shard] * len(texts), pa.string()), "row": rows, "text": pa.array(texts, pa.large_string())}
    )


def _sentences(text: str, by_line: bool = False) -> list[str]:
    tiles = sentence_tiles(pa.array([text]), by_line)
    assert tiles.n_chars.tolist() == [len(text)]
    assert tiles.n_sentences.tolist() == [len(tiles.starts)]
    places = [*tiles.starts.tolist(), len(text)]
    return [text[start:end] for start, end in pairwise(places)]


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("", []),
        (" \n***\n", []),
        ("One. Two! Three", ["One. ", "Two! ", "Three"]),
        ("Pi is 3.14 or so.  Yes?!  No", ["Pi is 3.14 or so.  ", "Yes?!  ", "No"]),
        ('He said "Go." Then (he left.) Done', ['He said "Go." ', "Then (he left.) ", "Done"]),
        ("A title\r\n\r\nA text.\n* * *\nEnd", ["A title\r\n\r\n", "A text.\n* * *\n", "End"]),
        ("* * *\nFirst.\nSecond", ["* * *\nFirst.\n", "Second"]),
        ("漢字。かな」です。「はい！」と言う。", ["漢字。", "かな」です。", "「はい！」", "と言う。"]),
        ("यह है। वह है।", ["यह है। ", "वह है।"]),
        ("zero\0byte. İ ok", ["zero\0byte. ", "İ ok"]),
    ],
)
def test_sentences(text: str, sentences: list[str]) -> None:
    assert _sentences(text) == sentences


def test_lines_can_be_the_unit() -> None:
    assert _sentences("One. Two!\n\nThree。四", by_line=True) == ["One. Two!\n\n", "Three。四"]


def test_words_are_counted_in_the_normal_form() -> None:
    assert sentence_tiles(pa.array(["Don't - stop now. 漢字 kanji!"])).n_words.tolist() == [3, 3]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(st.sampled_from('ab .!?\n\r。」"漢…*\0\u3000Σ'), max_size=30), max_size=4))
def test_sentences_lie_side_by_side_and_batches_do_not_count(texts: list[str]) -> None:
    together = sentence_tiles(pa.array(["x. y", *texts])[1:])
    alone = [sentence_tiles(pa.array([text])) for text in texts]
    for name in together._fields:
        assert getattr(together, name).tolist() == [value for tiles in alone for value in getattr(tiles, name).tolist()]
    for text, tiles in zip(texts, alone, strict=True):
        assert "".join(_sentences(text)) == (text if len(tiles.starts) else "")


def _plain(shards: list[list[str]], n: int, limits: Limits) -> list[list[str]]:
    """What stays, by a set of the spans that were seen; each sentence is one letter and a full stop, or several words."""
    cut: list[list[str]] = []
    seen: set[tuple[str, ...]] = set()
    for texts in shards:
        cut.append([])
        for text in texts:
            sentences = _sentences(text)
            words = [len(sentence.replace(".", "").split()) for sentence in sentences]
            keys = [sentence.strip(". ").lower() for sentence in sentences]
            gone = [False] * len(sentences)
            for start in range(len(keys) - n + 1):
                span = tuple(keys[start : start + n])
                if span in seen:
                    gone[start : start + n] = [True] * n
                seen.add(span)
            start = 0
            while start < len(gone):
                end = start
                while end < len(gone) and gone[end] == gone[start]:
                    end += 1
                if gone[start] and sum(words[start:end]) < limits.min_span_words:
                    gone[start:end] = [False] * (end - start)
                start = end
            n_words = sum(count for count, is_gone in zip(words, gone, strict=True) if not is_gone)
            if any(gone) and (n_words < limits.min_words or gone.count(False) < limits.min_sentences):
                gone = [True] * len(gone)
            cut[-1].append(
                text if not sentences else "".join(one for one, is_gone in zip(sentences, gone, strict=True) if not is_gone)
            )
    return cut


def _cut(documents: pa.Table, edits: pa.Table) -> list[str]:
    check(edits, EDITS)
    texts = documents.column("text").to_pylist()
    places = [(edit["row"], edit["start"], edit["end"]) for edit in edits.to_pylist()]
    assert places == sorted(places)
    for row, start, end in reversed(places):
        assert 0 <= start < end <= len(texts[row])
        texts[row] = texts[row][:start] + texts[row][end:]
    return texts


_TEXTS = st.lists(st.sampled_from(["a. ", "A. ", "b. ", "c c c. ", "d "]), max_size=10).map("".join)


@settings(max_examples=200, deadline=None)
@given(
    shards=st.lists(st.lists(_TEXTS, max_size=4), max_size=3),
    n=st.integers(1, 4),
    limits=st.builds(Limits, st.integers(0, 5), st.integers(0, 6), st.integers(0, 4)),
    rng=st.randoms(),
)
def test_what_stays_equals_plain_counting(shards: list[list[str]], n: int, limits: Limits, rng: Any) -> None:
    tables = [_documents(texts, f"s/{number}") for number, texts in enumerate(shards)]
    runs = []
    for table in tables:
        middle = rng.randrange(table.num_rows + 1)
        runs += [sentence_run(table.slice(0, middle), n), sentence_run(table.slice(middle), n)]
    rng.shuffle(runs)
    repeated = list(repeated_lines(runs, rng.choice([1, 1 << 20])))
    for table, wanted in zip(tables, _plain(shards, n, limits), strict=True):
        middle = rng.randrange(table.num_rows + 1)
        pieces = pa.concat_tables([table.slice(0, middle), table.slice(middle)])
        assert _cut(table, sentence_edits(pieces, repeated, n, limits=limits)) == wanted


def test_cutting_what_was_cut_changes_nothing() -> None:
    own = "Own words come first. They differ. "
    texts = [
        own + "Alpha beta. Gamma delta. Epsilon zeta. End one.",
        "Begin two. ALPHA beta! Gamma, delta. Epsilon\nzeta. End two.",
    ]
    documents = _documents(texts, "s")
    cut = _cut(documents, sentence_edits(documents, list(repeated_lines([sentence_run(documents)]))))
    assert cut[0] == texts[0]
    again = _documents(cut, "s")
    assert sentence_edits(again, list(repeated_lines([sentence_run(again)]))).num_rows == 0


def test_reasons_tell_what_was_repeated_and_what_went_with_it() -> None:
    documents = _documents(["One a. Two b. Three c.", "Zero. One a. Two b. Three c. Four."], "s")
    repeated = list(repeated_lines([sentence_run(documents)]))
    edits = sentence_edits(documents, repeated, limits=Limits(min_words=3)).to_pylist()
    assert [(e["row"], e["start"], e["end"], e["reason"]) for e in edits] == [
        (1, 0, 6, "too_short_after_cuts"),
        (1, 6, 29, "repeated_sentences"),
        (1, 29, 34, "too_short_after_cuts"),
    ]


def test_other_documents_than_the_runs_saw_are_refused() -> None:
    documents = _documents(["A. B. C. D.", "A. B. C."], "s")
    repeated = list(repeated_lines([sentence_run(documents)]))
    with pytest.raises(ContractError, match="first copy"):
        sentence_edits(_documents(["X. Y. Z. A. B. C.", "q"], "s"), repeated)
