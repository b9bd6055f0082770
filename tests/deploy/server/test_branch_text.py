"""Text as tokens come: whole characters, nothing that belongs to a stop string, and in the end what the tokenizer decodes."""

from __future__ import annotations

from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from tilth.deploy.server.branch_text import BranchText, StopMatcher
from tilth.deploy.server.token_text import TokenText
from tilth.inference.engine.requests import NewToken
from tilth.tokenize.bpe import Tokenizer
from tilth.tokenize.nucleotides import nucleotide_tokenizer

LETTERS = "ab"  # so few that strings overlap with themselves and each other


def earliest_end(text: str, stops: list[str]) -> tuple[int, int] | None:
    """(end, begin) of the stop string that is complete first, the longest of those that end there; by trying all places."""
    found = [(at + len(stop), at) for stop in stops for at in range(len(text)) if text.startswith(stop, at)]
    return min(found, default=None)


@given(
    st.lists(st.text(LETTERS, max_size=5), max_size=8),
    st.lists(st.text(LETTERS, min_size=1, max_size=4), min_size=1, max_size=3, unique=True),
)
def test_stop_strings_are_found_as_by_trying_all_places(pieces: list[str], stops: list[str]) -> None:
    matcher, text = StopMatcher(stops), ""
    for piece in pieces:
        text += piece
        cut, expected = matcher.feed(piece), earliest_end(text, stops)
        assert cut == (None if expected is None else expected[1])
        if cut is not None:
            return
        held = max((n for stop in stops for n in range(len(stop)) if text.endswith(stop[:n])), default=0)
        assert matcher.n_held == held


class LetterTokens:
    """Tokens that are code points."""

    def bytes_of(self, token_id: int) -> bytes:
        return chr(token_id).encode()


@given(st.text("abc日", max_size=20), st.lists(st.text("abc日", min_size=1, max_size=4), max_size=3), st.sets(st.integers(0, 20)))
def test_what_was_sent_never_has_to_be_taken_back(text: str, stops: list[str], taken_after: set[int]) -> None:
    branch, sent, said = BranchText(LetterTokens(), stops, keeps_tokens=True), [], []  # type: ignore[arg-type]
    for i, letter in enumerate(text):
        branch.add(NewToken(0, ord(letter)))
        if branch.is_stopped:
            break
        if i in taken_after:
            sent.append(branch.take())
            said += branch.take_tokens()
            assert len(said) <= len("".join(sent)) + 1
    branch.finish()
    sent.append(branch.take())
    said += branch.take_tokens()
    found = earliest_end(text, stops)
    expected = text if found is None else text[: found[1]]
    assert "".join(sent) == expected
    assert "".join(chr(each.token.token_id) for each in said) == expected
    assert [each.offset for each in said] == list(range(len(expected)))


def through(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    branch, pieces = BranchText(TokenText(tokenizer)), []
    for token in ids:
        branch.add(NewToken(0, token))
        pieces.append(branch.take())
    branch.finish()
    return [*pieces, branch.take()]


@given(st.data())
def test_any_tokens_become_what_the_tokenizer_makes_of_them(tokenizer: Tokenizer, data: Any) -> None:
    ids = data.draw(st.lists(st.integers(1, tokenizer.vocab_size - 1), max_size=12))
    text, whole = "".join(through(tokenizer, ids)), tokenizer.decode(ids)
    # a character that was left half said is the only thing missing
    assert whole.startswith(text)
    assert whole[len(text) :] in ("", "\ufffd")


@given(st.text(max_size=30))
def test_any_text_comes_back_in_whole_characters(tokenizer: Tokenizer, text: str) -> None:
    pieces = through(tokenizer, tokenizer.encode(text).tolist())
    assert "".join(pieces) == text
    assert "\ufffd" in text or not any("\ufffd" in piece for piece in pieces)


def metaspace_tokenizer() -> Tokenizer:
    """As Llama's: words begin with a low line, and bytes are tokens where there is no piece."""
    pieces = ["<unk>", "<|endoftext|>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁hello", "▁wor", "ld", "!"]
    library = tokenizers.Tokenizer(tokenizers.models.Unigram([(piece, -1.0) for piece in pieces], 0, byte_fallback=True))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    decoders = tokenizers.decoders
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    library.decoder = decoders.Sequence(steps)
    library.add_special_tokens(["<unk>", "<|endoftext|>"])
    return Tokenizer(library.to_str().encode())


@pytest.mark.parametrize("text", ["hello world!", "hello 日本 world", "hello"])
def test_pieces_with_byte_fallback(text: str) -> None:
    tokenizer = metaspace_tokenizer()
    ids = tokenizer.encode(text).tolist()
    pieces = through(tokenizer, ids)
    # a continuation keeps the space before its first word, which decoding from a text's beginning drops
    assert "".join(pieces) == f" {text}"
    assert not any("\ufffd" in piece for piece in pieces)


def test_nucleotides() -> None:
    tokenizer = Tokenizer(nucleotide_tokenizer())
    assert "".join(through(tokenizer, tokenizer.encode("ACGTN").tolist())) == "ACGTN"


def test_special_tokens_say_nothing_and_have_a_name(tokenizer: Tokenizer) -> None:
    tokens = TokenText(tokenizer)
    assert tokens.bytes_of(tokenizer.separator_id) == b""
    assert tokens.name_of(tokenizer.separator_id) == "<|endoftext|>"
    assert tokens.bytes_of(10**6) == b""
    (high,) = [i for i in range(tokenizer.vocab_size) if tokens.bytes_of(i) == b"\xe6"]
    assert tokens.name_of(high) == "bytes:\\xe6"
