"""Markers are tokens where their source has set them: nowhere else, not after an edit of them, and always traceable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.errors import ContractError
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.marked_document import encode_marked
from tilth.tokenize.repository_form import RepositoryFile
from tilth.tokenize.source_ranges import segments_of
from tilth.tokenize.thread_markers import ISSUE_MARKERS, MARKERS, PULL_REQUEST_MARKERS, read_places, write_places
from tilth.tokenize.token_spans import TokenSpan

TEXT = (
    "<issue_start>Title: Blüte 🌱\nusername_0: <issue_start> is what I said<issue_comment>username_1: <|endoftext|><issue_closed>"
)
PLACES = [0, TEXT.encode().index(b"<issue_comment>"), TEXT.encode().index(b"<issue_closed>")]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_bpe([TEXT * 9], 320, special_tokens=[*ISSUE_MARKERS, "<fim_middle>"]))


def encode(
    tokenizer: Tokenizer, text: str, places: list[int], edits: list[tuple[int, int, str]] | None = None
) -> tuple[np.ndarray, list[TokenSpan]]:
    segments = None
    if edits is not None:
        segments = segments_of(text, edits)
        for start, end, replacement in reversed(edits):
            text = text[:start] + replacement + text[end:]
    return encode_marked(RepositoryFile(b"d" * 16, "issues/00000", 3, "", text, segments), places, tokenizer)


def specials(tokenizer: Tokenizer, ids: np.ndarray) -> list[str]:
    names = {number: name for name, number in tokenizer.special_ids.items()}
    return [names[int(one)] for one in ids if int(one) in names]


def test_markers_are_single_tokens_and_letters_stay_letters(tokenizer: Tokenizer) -> None:
    ids, spans = encode(tokenizer, TEXT, PLACES)
    assert specials(tokenizer, ids) == ["<issue_start>", "<issue_comment>", "<issue_closed>"]
    assert tokenizer.decode(ids) == TEXT
    assert [(span.kind, span.part) for span in spans] == [
        ("synthetic", None), ("text", "whole"), ("synthetic", None), ("text", "whole"), ("synthetic", None), ("synthetic", None),
    ]  # fmt: skip
    assert all((span.doc_id, span.shard, span.row) == (b"d" * 16, "issues/00000", 3) for span in spans)
    assert spans[-1].token_end == len(ids) + 1
    for span in spans:
        if span.kind == "text":
            own = tokenizer.decode(ids[span.token_start : span.token_end])
            assert TEXT.encode()[span.source_start : span.source_end].decode() == own


def test_edits_move_markers_and_undo_those_that_they_touch(tokenizer: Tokenizer) -> None:
    comment = TEXT.index("<issue_comment>")
    ids, spans = encode(tokenizer, TEXT, PLACES, [(20, 25, "flowers"), (comment + 3, comment + 5, "")])
    assert specials(tokenizer, ids) == ["<issue_start>", "<issue_closed>"]
    (edited,) = [
        span for span in spans if span.kind == "edited" and "flow" in tokenizer.decode(ids[span.token_start : span.token_end])
    ]
    assert edited.source_start is not None
    assert tokenizer.decode(ids).count("<issue_start>") == 2
    ids, _ = encode(tokenizer, TEXT, PLACES, [(comment, comment + len("<issue_comment>"), "<issue_comment>")])
    assert specials(tokenizer, ids) == ["<issue_start>", "<issue_closed>"], "what an edit wrote is no marker"
    joined = "<issue_start>a<issue_XXstart>b"
    ids, _ = encode(tokenizer, joined, [0], [(21, 23, "")])
    assert specials(tokenizer, ids) == ["<issue_start>"], "a cut makes none"
    assert tokenizer.decode(ids) == "<issue_start>a<issue_start>b"


def test_a_place_without_a_marker_is_refused(tokenizer: Tokenizer) -> None:
    for text, places in (
        (TEXT, [1]),
        (TEXT, [5000]),
        ("<fim_middle>", [0]),
        ("<|endoftext|>", [0]),
        ("<pr>", [0]),
        ("<issue_start", [0]),
    ):
        with pytest.raises(ContractError, match="no marker"):
            encode(tokenizer, text, places)


def test_a_text_of_markers_alone_and_none(tokenizer: Tokenizer) -> None:
    ids, spans = encode(tokenizer, "<issue_start><issue_closed>", [0, 13])
    assert len(ids) == 2
    assert sum(span.token_end - span.token_start for span in spans) == 3
    ids, spans = encode(tokenizer, "", [])
    assert len(ids) == 0
    assert [(span.token_start, span.token_end) for span in spans] == [(0, 1)]


@given(st.lists(st.tuples(st.sampled_from(ISSUE_MARKERS), st.text(max_size=9) | st.sampled_from(ISSUE_MARKERS)), max_size=9))
def test_any_words_between_markers(tokenizer: Tokenizer, turns: list[tuple[str, str]]) -> None:
    text, places = "", []
    for marker, words in turns:
        places.append(len(text.encode()))
        text += marker + words
    ids, spans = encode(tokenizer, text, places)
    assert specials(tokenizer, ids) == [marker for marker, _ in turns]
    assert tokenizer.decode(ids) == text
    assert [span.token_start for span in spans] == [0, *(span.token_end for span in spans[:-1])]
    assert read_places(write_places(places)) == places


def test_the_markers_are_those_of_the_paper() -> None:
    assert len(PULL_REQUEST_MARKERS) == len(set(PULL_REQUEST_MARKERS)) == 17
    assert len(MARKERS) == 20
