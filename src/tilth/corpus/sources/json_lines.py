"""Files of JSON lines, packed or not: our own, datatrove's, dolma's, RedPajama's; a line is a document."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from tilth.corpus.attempts import MAX_SECONDS, Refused, attempt
from tilth.corpus.formats.content import Cut, lines, unpacked
from tilth.corpus.layouts import Place, RecordReader
from tilth.corpus.locations import FoundFile, open_raw
from tilth.corpus.record_files import RecordFiles
from tilth.corpus.records import Document, Reject, Shard, printable
from tilth.corpus.registry import source

SUFFIXES = tuple(
    f"{suffix}{packed}" for suffix in (".jsonl", ".json", ".ndjson") for packed in ("", ".gz", ".zst", ".xz", ".bz2", ".lz4")
)
MARK = b"\xef\xbb\xbf"
LONG_BYTES = 1 << 20  # a longer line is parsed in a process of its own: objects of JSON take up to 30 times its bytes


@source
@dataclass(frozen=True, kw_only=True)
class JsonLines(RecordFiles):
    """`path` is a file, folder, pattern or URL; gzip, zstd, xz, bzip2 and lz4 are told by their first bytes.

    `layout` is auto, plain, datatrove, dolma, redpajama-v1 or redpajama-v2; `text`, `id`, `url` and `language` name
    fields where yours differ. All other fields go to `meta`. A line that is no document is a reject at `file:line`.
    """

    max_line_bytes: int = 32 << 20

    version: ClassVar[int] = 2
    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    kind: ClassVar[str] = "jsonl"

    def params(self) -> dict[str, Any]:
        """Raises SourceError for an unknown layout."""
        return {**super().params(), "max_line_bytes": self.max_line_bytes}

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """A row for every line that is not blank, a reject for every damage. Raises SourceError if unreadable."""
        (file,) = unit
        yield from read_json_lines(file, self.reader(shard), self.max_line_bytes, self.where)


def read_json_lines(file: FoundFile, reader: RecordReader, max_line_bytes: int, where: str) -> Iterator[Document | Reject]:
    """The rows of one file. Raises SourceError if it is unreadable."""
    name = printable(file.name)
    with open_raw(file.location, where) as raw:
        for line in lines(unpacked(raw), max_line_bytes):
            location = f"{name}:{line.number}"
            if isinstance(line, Cut):
                yield Reject(location, line.reason, line.detail)
            elif line.data is None:
                yield Reject(location, "too_large", f"a line of {line.size_bytes} bytes, at most {max_line_bytes}")
            elif len(line.data) > LONG_BYTES:
                row = attempt(f"{__name__}:read_line", line.data, line.number, line.offset, name, reader, max_seconds=MAX_SECONDS)
                yield Reject(location, *row) if isinstance(row, Refused) else row
            elif line.data.strip(b" \t\r" + MARK):
                yield read_line(line.data, line.number, line.offset, name, reader)


def read_line(data: bytes, number: int, offset: int, name: str, reader: RecordReader) -> Document | Reject:
    """The row of a line: a document, or a reject: decode, too_deep, invalid_json, or one of RecordReader's."""
    location = f"{name}:{number}"
    raw = data.removesuffix(b"\r")
    try:
        text = (raw.removeprefix(MARK) if number == 1 else raw).decode("utf-8")
        record = json.loads(text)
    except UnicodeDecodeError as error:
        return Reject(location, "decode", f"not UTF-8 at byte {error.start} of {len(raw)}")
    except RecursionError:
        return Reject(location, "too_deep", "nested deeper than Python's parser goes")
    except ValueError as error:
        hint = (
            "; an object must be one line: `jq -c '.[]?'` writes an array so"
            if number == 1 and raw.strip()[:1] in (b"[", b"{")
            else ""
        )
        return Reject(location, "invalid_json", str(error)[:200] + hint)
    return reader.row(record, Place(location, name, str(number), offset, raw))
