"""A cache of letters: each token is a letter, each checkpoint names the text that it stands for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tilth.inference.cache.costs import StateCosts
from tilth.inference.cache.prefix_cache import PrefixCache


class LetterCache(PrefixCache):
    """ask: a whole request at once, as an engine that is never busy would do it; returns its match, released."""

    clock = 0.0

    def tokens(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode(), dtype=np.uint8).astype(np.int32)

    def ask(self, text: str, answer: str = "", root: str = "base", seconds: float = 1.0, keeps_last: bool = True):
        self.clock += seconds
        match = self.match(root, self.tokens(text), self.clock)
        if match.cut is not None:  # the prefill ends here, and goes on
            self.insert(match, self.tokens(text[: match.cut]), None, {match.cut: text[: match.cut]}, self.clock)
        self.insert(match, self.tokens(text), None, {}, self.clock)
        whole = text + answer
        self.insert(match, self.tokens(whole), None, {len(whole): whole} if keeps_last else {}, self.clock)
        self.release(match)
        return match

    @property
    def states(self) -> set[str]:
        return {node.checkpoint for node in self.contents.tree.nodes() if node.has_checkpoint}


@pytest.fixture
def letters() -> Callable[..., LetterCache]:
    """letters(capacity, policy): a byte a token, ten a checkpoint, one FLOP a token."""

    def make(capacity: int, policy=None, **options) -> LetterCache:
        return LetterCache(StateCosts(1, 10, 1.0, 0.0), capacity, policy, **options)

    return make
