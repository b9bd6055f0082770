"""The tables of GitHub's linguist that name languages, as scripts/linguist_data.py packs them (MIT, see LICENSE.linguist)."""

from __future__ import annotations

import json
import lzma
import re
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CONSIDERED_BYTES, STEEP_BYTES = 50 << 10, 4 << 10
Names = tuple[str, ...]


class Test:
    """One regular expression of a content rule.

    `needles` are strings of which a matching content has at least one. A `steep` expression, whose time may grow faster
    than the content, sees only its first `STEEP_BYTES`.
    """

    def __init__(self, source: str, needles: list[str], ignores_case: bool, steep: bool) -> None:
        self._source, self._ignores_case, self._end = source, ignores_case, STEEP_BYTES if steep else CONSIDERED_BYTES
        self._needles = [needle.encode() for needle in needles]

    @cached_property
    def regex(self) -> re.Pattern[bytes]:
        """The expression, compiled when it is first asked for."""
        return re.compile(self._source.encode(), re.MULTILINE)

    def found_in(self, head: Head) -> bool:
        """Whether the expression matches anywhere: the needles first, since few contents have one."""
        if self._needles:
            text = head.lowered if self._ignores_case else head.text
            if not any(needle in text for needle in self._needles):
                return False
        return self.regex.search(head.text, 0, self._end) is not None


class Head:
    """The first 50 KiB of a content: what linguist's rules look at too."""

    def __init__(self, content: bytes) -> None:
        self.text = content[:CONSIDERED_BYTES]

    @cached_property
    def lowered(self) -> bytes:
        """The same bytes with ASCII letters in lower case."""
        return self.text.lower()


class Rule:
    """Languages, and conditions that must all hold: any of the tests matches, or none of them where it is negated."""

    def __init__(self, languages: Names, conditions: list[tuple[bool, list[Test]]]) -> None:
        self.languages, self._conditions = languages, conditions

    def holds(self, head: Head) -> bool:
        """Whether the content meets every condition; a rule without any always holds."""
        return all(any(test.found_in(head) for test in tests) != negated for negated, tests in self._conditions)


class Rules:
    """Languages by file name, extension, interpreter and alias, all in alphabetical order, and rules on contents."""

    def __init__(self, packed: Mapping[str, Any]) -> None:
        self.by_name: dict[str, Names] = _names(packed, "filenames")
        self.by_extension: dict[str, Names] = _names(packed, "extensions")
        self.by_interpreter: dict[str, Names] = _names(packed, "interpreters")
        self.by_alias: dict[str, str] = packed["aliases"]
        self.generic = frozenset(packed["generic"])
        self.vendored = re.compile(packed["vendored"])
        self.documentation = re.compile(packed["documentation"])
        self.version: str = packed["version"]
        self.tests = [Test(*test) for test in packed["tests"]]
        self._content = {
            suffix: [
                Rule(tuple(languages), [(negated, [self.tests[i] for i in numbers]) for negated, numbers in conditions])
                for languages, conditions in rules
            ]
            for suffixes, rules in packed["content"]
            for suffix in suffixes
        }

    @property
    def suffixes_with_rules(self) -> list[str]:
        """Extensions whose languages rules on contents tell apart."""
        return list(self._content)

    def of_extension(self, name: str) -> Names:
        """The languages of the longest known extension of a lower-case file name."""
        at = name.find(".")
        while at >= 0:
            if (languages := self.by_extension.get(name[at:])) is not None:
                return languages
            at = name.find(".", at + 1)
        return ()

    def is_generic(self, name: str) -> bool:
        """Whether a lower-case file name's extension is one that too many formats share to tell anything by itself."""
        return name[name.rfind(".") :] in self.generic

    def content_rules(self, name: str) -> list[Rule]:
        """The rules for a lower-case file name's extension, none where there are none."""
        return self._content.get(name[name.rfind(".") :], [])


def _names(packed: Mapping[str, Any], kind: str) -> dict[str, Names]:
    return {key: tuple(languages) for key, languages in packed[kind].items()}


@cache
def rules() -> Rules:
    """The packed tables, read once."""
    return Rules(json.loads(lzma.decompress((HERE / "linguist.json.xz").read_bytes())))
