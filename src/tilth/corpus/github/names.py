"""Accounts of one thread under other names: `username_0` for who speaks first, `username_1` for the next, as StarCoder has it."""

from __future__ import annotations

import re
from collections.abc import Iterable

WORD = re.compile(r"[A-Za-z0-9_-]+(?:\[bot\])?")
EDGES = "_-"
PLAIN = re.compile(r"[a-z0-9]+(?:[_-]+[a-z0-9]+)*")  # a word without its edges: what nearly every login is


class Names:
    """Numbers accounts in the order in which they are asked for; texts lose the names of all of `logins`, numbered or not.

    Only whole words are names, in upper and lower case alike (GitHub's logins are so): replacing parts of words, as it was
    published, makes `username_1ing` of `testing` for an account `test`.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._odd: set[str] = set()  # logins that are no plain words

    def of(self, login: str) -> str:
        """The name that stands for an account."""
        name = login.lower()
        if name not in self._numbers:
            self._numbers[name] = len(self._numbers)
            self._odd |= {name} if name and not PLAIN.fullmatch(name) else set()
        return f"username_{self._numbers[name]}"

    def number(self, logins: Iterable[str]) -> None:
        """Give names to those that have none yet."""
        for login in logins:
            self.of(login)

    def replaced(self, text: str) -> str:
        """The text with every login that has a name replaced by it, in linear time."""
        plain = text.lower()
        if self._numbers.keys().isdisjoint(PLAIN.findall(plain)) and not any(name in plain for name in self._odd):
            return text
        return WORD.sub(self._word, text)

    def _word(self, match: re.Match[str]) -> str:
        word = match[0]
        if word.lower() in self._numbers:
            return self.of(word)
        core = word.strip(EDGES)
        return word.replace(core, self.of(core)) if core and core.lower() in self._numbers else word
