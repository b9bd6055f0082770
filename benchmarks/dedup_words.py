"""The words of the benchmark's corpus: what real text is made of, with how often each comes.

Words are runs between white space, with their capitals and punctuation, so that a tokeniser meets what it meets in text.
Where the folder of test data is there, they come from its books, web pages and declarations of human rights; else from the
manual pages and the source of Python's own library. Either way the same files give the same vocabulary.
"""

from __future__ import annotations

import json
import pydoc_data
import re
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MAX_WORDS = 60_000
N_DRAWS = 1 << 20  # entries of the table that draws follow; a word rarer than one of them is never drawn
IDEOGRAPH = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")


class Words(NamedTuple):
    """`surface`: every word, as an array of strings. `prose`, `code`, `unspaced`: word numbers, each as often as it comes."""

    surface: npt.NDArray[np.object_]
    prose: npt.NDArray[np.int32]
    code: npt.NDArray[np.int32]
    unspaced: npt.NDArray[np.int32]


def words(data: Path | None) -> Words:
    """The vocabulary from the folder of test data, or from Python's own library where `data` is None."""
    library = Path(sysconfig.get_paths()["stdlib"])
    code = [path.read_text("utf-8") for path in sorted(library.glob("[a-j]*.py"))]
    if data:
        prose, unspaced = list(_books_and_pages(data)), "".join(_declarations(data))
    else:
        prose = [path.read_text("utf-8") for path in sorted(Path(str(pydoc_data.__path__[0])).glob("topics.py"))]
        unspaced = "".join(chr(0x4E00 + rank) * (3000 // (rank + 1)) for rank in range(3000))
    counts = [_ranked(text.split() for text in prose), _ranked(text.split() for text in code), _ranked([list(unspaced)])]
    surface: list[str] = []
    tables = []
    for ranked in counts:
        tables.append(_table(np.array([count for _, count in ranked], float), len(surface)))
        surface += [word for word, _ in ranked]
    return Words(np.array(surface, dtype=object), *tables)


def _ranked(lists: Iterable[list[str]]) -> list[tuple[str, int]]:
    counts: Counter[str] = Counter()
    for found in lists:
        counts.update(word for word in found if len(word) <= 40)
    return sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))[:MAX_WORDS]


def _table(counts: npt.NDArray[np.float64], first: int) -> npt.NDArray[np.int32]:
    shares = np.cumsum(counts) / counts.sum()
    return (np.searchsorted(shares, (np.arange(N_DRAWS) + 0.5) / N_DRAWS) + first).astype(np.int32)


def _books_and_pages(data: Path) -> Iterator[str]:
    for path in sorted(data.glob("pg_*/*-0.txt")):
        yield path.read_text("utf-8")
    with (data / "rpv2_reference" / "docs.jsonl").open(encoding="utf-8") as lines:
        yield from (json.loads(line)["raw_content"] for line in lines)


def _declarations(data: Path) -> Iterator[str]:
    for path in sorted([*data.glob("udhr_xml/data/udhr/udhr_cmn*.xml"), *data.glob("udhr_xml/data/udhr/udhr_jpn*.xml")]):
        yield "".join(IDEOGRAPH.findall(path.read_text("utf-8")))
