"""The items of a benchmark file: which texts they hold, told by the names of their fields or by the user.

JSON lines, a JSON array, CSV (each packed by gzip or not) and Parquet. A field that is a list gives a text for each of its
elements (`choices[2]`); one that is an object of lists, as ARC's choices, those of its member `text`.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilth.errors import SourceError, did_you_mean

# What benchmarks call the texts that must not be trained on. Tests and metadata are looked for only if they are named.
TEXT_FIELDS = (
    "prompt", "question", "problem", "text", "instruction", "input", "query", "goal", "passage", "context", "ctx", "article",
    "story", "premise", "hypothesis", "sentence", "canonical_solution", "solution", "code", "answer", "answers", "output",
    "response", "completion", "target", "rationale", "explanation", "choices", "options", "endings",
)  # fmt: skip
ID_FIELDS = ("task_id", "id", "question_id", "qid", "item_id", "ind", "name")
_SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".parquet")


@dataclass(frozen=True)
class ItemText:
    """One text of a benchmark's item: `field` is `prompt`, or `choices[2]`."""

    item: str
    field: str
    text: str


def read_items(path: str | Path, fields: Sequence[str] = ()) -> list[ItemText]:
    """Every text of every item of a benchmark file, in its order; of `fields`, by default those of TEXT_FIELDS that it has.

    An item goes by its id (ID_FIELDS) where ids differ, else by the number of its row. Raises SourceError: no such file,
    not readable, no items, a field that no item has, no text in any item.
    """
    place = Path(path).expanduser()
    items = [(number, item) for number, item in enumerate(_records(place))]
    if not items:
        raise SourceError("the benchmark has no items", str(place), "Give a file with an item a line.")
    names = list(dict.fromkeys(name for _, item in items for name in item))
    chosen = list(fields) or [name for name in names if name.lower() in TEXT_FIELDS]
    for field in chosen:
        if field not in names:
            raise SourceError(f"no item of the benchmark has a field `{field}`", str(place), did_you_mean(field, names))
    if not chosen:
        fix = f"Name the fields that hold them: one or more of {', '.join(names[:12])}."
        raise SourceError("no field of the benchmark is known to hold texts", str(place), fix)
    ids = _ids(items)
    found = [
        ItemText(ids[number], field + place_in, text)
        for number, item in items
        for field in chosen
        for place_in, text in _texts(item.get(field))
    ]
    if not any(one.text.strip() for one in found):
        raise SourceError(f"the fields {', '.join(chosen)} of the benchmark hold no text", str(place), "Name other fields.")
    return found


def _texts(value: Any) -> Iterator[tuple[str, str]]:
    """The texts of a field's value, each with its place in it."""
    if isinstance(value, str):
        yield "", value
    elif isinstance(value, Mapping):
        yield from _texts(value.get("text"))
    elif isinstance(value, list | tuple):
        for number, element in enumerate(value):
            for place, text in _texts(element):
                yield f"[{number}]{place}", text


def _ids(items: Sequence[tuple[int, Mapping[str, Any]]]) -> list[str]:
    """By the first id field that tells all items apart, else by number."""
    for field in ID_FIELDS:
        values = [item.get(field) for _, item in items]
        if all(isinstance(value, str | int) for value in values) and max(Counter(map(str, values)).values()) == 1:
            return [str(value) for value in values]
    return [str(number) for number, _ in items]


def _records(path: Path) -> Iterator[Mapping[str, Any]]:
    name = path.name.lower().removesuffix(".gz")
    if not path.is_file():
        raise SourceError("there is no such benchmark file", str(path), "Give the path of a file.")
    if not name.endswith(_SUFFIXES):
        raise SourceError("this is no kind of benchmark file", str(path), f"Give one of {', '.join(_SUFFIXES)}, or .gz of it.")
    try:
        if name.endswith(".parquet"):
            import pyarrow.parquet as pq

            yield from pq.read_table(path).to_pylist()
            return
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.name.lower().endswith(".gz") else data).decode("utf-8-sig")
        if name.endswith(".csv"):
            yield from csv.DictReader(io.StringIO(text, newline=""))
        else:
            yield from _of_json(text, path)
    except (OSError, EOFError, ValueError, csv.Error) as error:
        raise SourceError(f"the benchmark cannot be read: {error}", str(path), "Is it whole, and in UTF-8?") from error


def _of_json(text: str, path: Path) -> Iterator[Mapping[str, Any]]:
    if text.lstrip().startswith("["):
        numbered: Iterator[tuple[int, Any]] = enumerate(json.loads(text), 1)
    else:
        # Only a newline ends a record: other separators may stand in a JSON string.
        numbered = ((number, json.loads(line)) for number, line in enumerate(text.split("\n"), 1) if line.strip())
    for number, record in numbered:
        if not isinstance(record, dict):
            raise SourceError(f"item {number} of the benchmark is no object", str(path), "Each item has named fields.")
        yield record
