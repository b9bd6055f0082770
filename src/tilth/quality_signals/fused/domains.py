"""Domains by category, as the blacklists of the University of Toulouse (UT1) give them, with RedPajama-V2's category ids."""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

from tilth.errors import SourceError

# The categories that RedPajama-V2 takes from UT1, in the order in which its ids enumerate their combinations.
CATEGORIES = (
    "adult",
    "agressif",
    "agressive",
    "arjel",
    "chat",
    "dating",
    "ddos",
    "filehosting",
    "gambling",
    "mixed_adult",
    "phishing",
    "porn",
    "violence",
)
_SHAPE = 'give JSON such as {"casino.example": "gambling", "x.example": ["adult", "chat"], "y.example": 0}'


def read_domains(data: bytes) -> dict[str, int]:
    """Category ids by domain from JSON whose values are a category, a list of categories, or an id.

    Raises SourceError for anything else, and for a category that is not one of `CATEGORIES`.
    """
    try:
        found = json.loads(data)
    except ValueError as error:
        raise SourceError(f"the blocked domains are not JSON: {error}", fix=_SHAPE) from error
    if not isinstance(found, dict):
        raise SourceError("the blocked domains are not an object by domain", fix=_SHAPE)
    return {domain: _id(domain, value) for domain, value in found.items()}


def blocked_domains(folder: Path) -> bytes:
    """The blocked domains of an unpacked UT1 archive: a folder for each category, with a file `domains`.

    Categories that RedPajama-V2 does not use are passed over. Raises SourceError if none is left.
    """
    found: dict[str, list[str]] = defaultdict(list)
    files = [path for category in CATEGORIES if (path := folder / category / "domains").is_file()]
    for path in files:
        for line in path.read_bytes().decode("utf-8", "replace").splitlines():
            found[line.strip()].append(path.parent.name)
    found.pop("", None)
    if not files:
        raise SourceError("no category of UT1 is there", where=str(folder), fix="give the folder with adult/domains and so on")
    return json.dumps({domain: sorted(set(names)) for domain, names in sorted(found.items())}).encode()


@cache
def category_ids() -> dict[tuple[str, ...], int]:
    """The id of each combination of categories, sorted: by size, then in lexicographic order."""
    sizes = range(1, len(CATEGORIES) + 1)
    combinations = itertools.chain.from_iterable(itertools.combinations(CATEGORIES, size) for size in sizes)
    return {names: number for number, names in enumerate(combinations)}


def _id(domain: str, value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    names = [value] if isinstance(value, str) else value
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        number = category_ids().get(tuple(sorted(set(names))))
        if number is not None:
            return number
    raise SourceError(f"`{value}` is no category of UT1", where=domain, fix=f"use some of {', '.join(CATEGORIES)}")
