"""Layer patterns: "MMMA*2" reads as MMMAMMMA, "M+MMA*2" as MMMAMMA; a bad one is an error that says where."""

from __future__ import annotations

import re

from tilth.errors import RecipeError

MIXERS = {"M": "mamba2", "A": "attention", "S": "mamba1", "D": "discrete mamba2"}
MAX_LAYERS = 4096
_GROUP = re.compile(r"(?P<mixers>[^*]*)(?:\*(?P<times>.*))?")


def parse_pattern(text: str) -> str:
    """The letters of all layers, one per layer, e.g. "MMMAMMMA" for "MMMA*2".

    A pattern is groups joined by "+"; a group is letters of MIXERS, optionally "*" and a count
    that repeats the group. Raises RecipeError naming the character that is wrong.
    """
    if not isinstance(text, str) or not text:
        raise _error(repr(text), "is empty: a model needs at least one layer", 0)
    letters, start = "", 0
    for group in text.split("+"):
        letters += _parse_group(text, group, start)
        if len(letters) > MAX_LAYERS:
            raise _error(text, f"has more than {MAX_LAYERS} layers", start)
        start += len(group) + 1
    return letters


def _parse_group(text: str, group: str, start: int) -> str:
    match = _GROUP.fullmatch(group)
    mixers = match["mixers"] if match else ""
    for offset, letter in enumerate(mixers):
        if letter not in MIXERS:
            raise _error(text, f"has {letter!r}, which is no mixer", start + offset)
    if not mixers or match is None:
        raise _error(text, "has a group without a mixer", start)
    times = match["times"]
    if times is None:
        return mixers
    # isdecimal alone also accepts digits of other scripts, which int() would read
    if not (times.isascii() and times.isdecimal()) or int(times) == 0:
        raise _error(text, f"repeats a group {times!r} times", start + len(mixers) + 1)
    return mixers * min(int(times), MAX_LAYERS + 1)


def _error(text: str, problem: str, position: int) -> RecipeError:
    known = ", ".join(f"{letter} = {name}" for letter, name in MIXERS.items())
    return RecipeError(
        f"the layer pattern {text} {problem}",
        where=f"layers, character {position + 1}",
        fix=f'write groups such as "MMMA*2" or "M+MMA*3" ({known})',
    )
