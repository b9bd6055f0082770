"""Paragraph-level deduplication: the same mechanism as for lines, against plain counting over paragraphs."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.contracts import EDITS, check
from tilth.dedup.passages.line_hashes import EMPTY_LINE
from tilth.dedup.passages.lines import Mode, line_edits, line_run, repeated_lines
from tilth.dedup.passages.paragraphs import hash_paragraphs
from tilth.dedup.texts.normal_text import normal_texts
from tilth.errors import RecipeError

_LINES = st.sampled_from(["a", "A.", "b", "c 1", "", " ", "\r", "\u3000", "* * *", "漢字", "Σας", "\x85", "\xa0\u2028"])


def _documents(texts: list[str], shard: str) -> pa.Table:
    rows = pa.array(range(len(texts)), pa.int32())
    return pa.table(
        {"shard": pa.array([shard] * len(texts), pa.string()), "row": rows, "text": pa.array(texts, pa.large_string())}
    )


def _plain_pieces(text: str) -> list[str]:
    """Lines put together: a line that holds something begins a piece when a blank one is before it."""
    pieces: list[list[str]] = [[]]
    for line in text.split("\n"):
        if line.strip() and pieces[-1] and not pieces[-1][-1].strip():
            pieces.append([])
        pieces[-1].append(line)
    return ["\n".join(piece) for piece in pieces]


def _normal(piece: str) -> str:
    return normal_texts(pa.array([piece]))[0].as_py()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(_LINES, max_size=8).map("\n".join), max_size=4))
def test_pieces_and_their_hashes(texts: list[str]) -> None:
    found = hash_paragraphs(pa.array(["x\n\ny", *texts])[1:])
    pieces = [_plain_pieces(text) for text in texts]
    assert found.n_lines.tolist() == list(map(len, pieces))
    flat = [piece for part in pieces for piece in part]
    assert found.n_chars.tolist() == list(map(len, flat))
    by_hash = {}
    for piece, hash_ in zip(flat, found.hashes.tolist(), strict=True):
        assert (hash_ == EMPTY_LINE) == (_normal(piece) == "")
        assert by_hash.setdefault(_normal(piece), hash_) == hash_
    assert len(set(by_hash.values())) == len(by_hash)


def _cut(documents: pa.Table, edits: pa.Table) -> list[str]:
    check(edits, EDITS)
    texts = documents.column("text").to_pylist()
    for edit in reversed(edits.to_pylist()):
        text = texts[edit["row"]]
        texts[edit["row"]] = text[: edit["start"]] + text[edit["end"] :]
    return texts


@settings(max_examples=150, deadline=None)
@given(
    shards=st.lists(st.lists(st.lists(_LINES, max_size=7).map("\n".join), max_size=4), max_size=3),
    mode=st.sampled_from(["remove_all_copies", "keep_first"]),
    keep_empty=st.booleans(),
    rng=st.randoms(),
)
def test_both_modes_equal_plain_counting(shards: list[list[str]], mode: Mode, keep_empty: bool, rng: Any) -> None:
    tables = [_documents(texts, f"s/{number}") for number, texts in enumerate(shards)]
    runs = [line_run(table, "paragraph") for table in tables]
    rng.shuffle(runs)
    repeated = list(repeated_lines(runs))
    counts = Counter(_normal(piece) for texts in shards for text in texts for piece in _plain_pieces(text))
    seen: set[str] = set()
    for table, texts in zip(tables, shards, strict=True):
        wanted = []
        for text in texts:
            kept = []
            for piece in _plain_pieces(text):
                normal = _normal(piece)
                stays = keep_empty if not normal else counts[normal] == 1 or (mode == "keep_first" and normal not in seen)
                seen.add(normal)
                if stays:
                    kept.append(piece)
            wanted.append("\n".join(kept))
        assert _cut(table, line_edits(table, repeated, mode, keep_empty, "paragraph")) == wanted


def test_a_paragraph_is_the_same_however_it_is_wrapped() -> None:
    documents = _documents(["Own words.\r\n\r\nSow the rye\r\nin autumn.\r\n\r\nMore.", "sow the rye in\nAUTUMN\n\nOther"], "s")
    edits = line_edits(documents, list(repeated_lines([line_run(documents, "paragraph")])), unit="paragraph")
    assert _cut(documents, edits) == ["Own words.\r\n\r\nMore.", "Other"]
    assert set(edits.column("reason").to_pylist()) == {"repeated_paragraph"}


def test_an_unknown_unit_is_refused() -> None:
    with pytest.raises(RecipeError, match="no unit"):
        line_run(_documents(["a"], "s"), "word")  # type: ignore[arg-type]
