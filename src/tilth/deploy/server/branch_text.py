"""The text of one branch as its tokens come: whole characters only, and nothing that may be the beginning of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass

from tilth.deploy.server.token_text import TokenText
from tilth.inference.engine.requests import NewToken


class StopMatcher:
    """Finds the first of some strings in a text that comes in pieces, in time proportional to the text (Knuth-Morris-Pratt)."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [(stop, _borders(stop)) for stop in stops]
        self._matched = [0] * len(stops)
        self._n_chars = 0

    @property
    def n_held(self) -> int:
        """How many of the last characters may be the beginning of a stop string."""
        return max(self._matched, default=0)

    def feed(self, text: str) -> int | None:
        """The place, in all text so far, at which the stop string that is complete first begins; None if none is."""
        if not self._stops:
            return None
        for letter in text:
            self._n_chars += 1
            for i, (stop, borders) in enumerate(self._stops):
                n = self._matched[i]
                while n and stop[n] != letter:
                    n = borders[n - 1]
                self._matched[i] = n + (stop[n] == letter)
            complete = [len(stop) for (stop, _), n in zip(self._stops, self._matched, strict=True) if n == len(stop)]
            if complete:
                return self._n_chars - max(complete)
        return None


def _borders(word: str) -> list[int]:
    """For each prefix the length of its longest proper prefix that is also its suffix."""
    borders = [0] * len(word)
    for i in range(1, len(word)):
        n = borders[i - 1]
        while n and word[n] != word[i]:
            n = borders[n - 1]
        borders[i] = n + (word[n] == word[i])
    return borders


class StopWatch:
    """Tells in the engine's thread that a branch has said a stop string, before the engine reads the token that completed it.

    The event loop hears of it too late: the branch's states would have seen what nobody is sent.
    """

    def __init__(self, tokens: TokenText, stops: Sequence[str]) -> None:
        self._tokens, self._matcher = tokens, StopMatcher(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.has_stopped = False

    def note(self, token_id: int) -> None:
        """One more token of the branch."""
        text = self._decoder.decode(self._tokens.bytes_of(token_id))
        self.has_stopped = self.has_stopped or self._matcher.feed(text) is not None


@dataclass(frozen=True)
class SaidToken:
    """A token with its log p, and where its text begins in the branch's text, in characters."""

    token: NewToken
    offset: int


class BranchText:
    """Feed it tokens, take from it what may be sent. Bytes that are no UTF-8 become U+FFFD; a character that the last token
    left half said is never sent. keeps_tokens: take_tokens gives the tokens whose text was sent.
    """

    def __init__(self, tokens: TokenText, stops: Sequence[str] = (), keeps_tokens: bool = False) -> None:
        self._tokens, self._matcher, self._keeps_tokens = tokens, StopMatcher(stops), keeps_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._waiting = ""  # decoded, not yet taken
        self._n_taken = self._n_decoded = 0
        self._said: list[SaidToken] = []
        self.is_stopped = False  # a stop string was found: what follows is ignored
        self._is_whole = False

    def add(self, token: NewToken) -> None:
        """One more token of the branch."""
        text = self._decoder.decode(self._tokens.bytes_of(token.token_id))
        if self._keeps_tokens:
            self._said.append(SaidToken(token, self._n_decoded))
        self._n_decoded += len(text)
        self._waiting += text
        cut = self._matcher.feed(text)
        if cut is not None:
            self._waiting = self._waiting[: cut - self._n_taken]
            self._said = [said for said in self._said if said.offset < cut]
            self.is_stopped = self._is_whole = True

    def finish(self) -> None:
        """No token follows: what looked like the beginning of a stop string was none."""
        self._is_whole = True

    def take(self) -> str:
        """What may be sent since the last call."""
        n_held = 0 if self._is_whole else self._matcher.n_held
        end = len(self._waiting) - n_held
        text, self._waiting = self._waiting[:end], self._waiting[end:]
        self._n_taken += len(text)
        return text

    def take_tokens(self) -> list[SaidToken]:
        """The tokens whose text has begun to be sent since the last call, after take."""
        n = len(self._said)
        if not self._is_whole:
            n = next((i for i, said in enumerate(self._said) if said.offset >= self._n_taken), n)
        taken, self._said = self._said[:n], self._said[n:]
        return taken
