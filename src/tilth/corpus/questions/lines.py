"""What the sources of questions have in common: JSON lines whose fields become one text, and all that they say `meta`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tilth.corpus.attempts import Refused
from tilth.corpus.file_source import FileSource
from tilth.corpus.layouts import LAYOUTS, Place, RecordReader
from tilth.corpus.locations import FoundFile
from tilth.corpus.records import Document, Reject, Shard
from tilth.corpus.sources.json_lines import SUFFIXES, read_json_lines

MAX_LINE_BYTES = 32 << 20
Fields = Mapping[str, Any]
Written = Callable[[Fields], Fields | Refused]  # fields with the `text`, or why there is none


class WrittenReader(RecordReader):
    """Makes documents of records as `RecordReader` does, of the text that `written` makes of their fields."""

    def __init__(self, name: str, kind: str, licence: str | None, written: Written) -> None:
        super().__init__(name, kind, LAYOUTS["plain"], licence)
        self.written = written

    def row(self, record: Any, place: Place) -> Document | Reject:
        """A document, or a reject: not_an_object, what `written` says, or one of RecordReader's."""
        if not isinstance(record, Mapping):
            return super().row(record, place)
        found = self.written(record)
        return Reject(place.location, *found) if isinstance(found, Refused) else super().row(found, place)


@dataclass(frozen=True)
class WrittenLines(FileSource):
    """Files of JSON lines, as `JsonLines` finds and reads them; a line is a document, or a reject at `file:line`."""

    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    kind: ClassVar[str]

    def written(self, record: Fields) -> Fields | Refused:
        """The fields of a document, `text` among them, or why they make none."""
        raise NotImplementedError

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """A row for every line that is not blank, a reject for every damage. Raises SourceError if unreadable."""
        (file,) = unit
        yield from read_json_lines(file, self.reader(shard), MAX_LINE_BYTES, self.where)

    def reader(self, shard: Shard) -> WrittenReader:
        """What makes the records of a shard documents."""
        return WrittenReader(self.name, self.kind, shard.params["licence"], self.written)


def texts_of(record: Fields, names: tuple[str, ...], marks: tuple[str, ...]) -> list[str] | Refused:
    """The strings of these fields; Refused where one is missing, is no string, is empty, or holds one of the marks."""
    for name in names:
        value = record.get(name)
        if value is None:
            return Refused(f"missing_{name}", f"no `{name}` among {', '.join(sorted(map(str, record)))[:200]}")
        if not isinstance(value, str):
            return Refused("wrong_type", f"`{name}` is a {type(value).__name__}, not a string")
        if not value.strip():
            return Refused(f"empty_{name}", f"`{name}` has no letter")
        for mark in marks:
            if mark in f"\n{value}":
                return Refused("holds_marker", f"`{name}` holds {mark.strip()!r} at the start of a line")
    return [record[name] for name in names]
