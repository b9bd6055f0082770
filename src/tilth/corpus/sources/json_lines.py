"""Files of JSON lines, packed or not: our own, datatrove's, dolma's, RedPajama's; a line is a document."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tilth.corpus.formats.content import Cut, Line, lines, unpacked
from tilth.corpus.layouts import Place, RecordReader, choose_layout
from tilth.corpus.locations import FoundFile, files_of, find_files, group_files, open_raw, plan_files
from tilth.corpus.provenance.licences import declared_licence
from tilth.corpus.records import Document, Reject, Shard, fingerprint, printable
from tilth.corpus.registry import source

SUFFIXES = tuple(
    f"{suffix}{packed}" for suffix in (".jsonl", ".json", ".ndjson") for packed in ("", ".gz", ".zst", ".xz", ".bz2", ".lz4")
)
MARK = b"\xef\xbb\xbf"


@source
@dataclass(frozen=True)
class JsonLines:
    """`path` is a file, folder, pattern or URL; gzip, zstd, xz, bzip2 and lz4 are told by their first bytes.

    `layout` is auto, plain, datatrove, dolma, redpajama-v1 or redpajama-v2; `text`, `id`, `url` and `language` name
    fields where yours differ. All other fields go to `meta`. A line that is no document is a reject at `file:line`.
    """

    name: str
    path: str
    layout: str = "auto"
    text: str | None = None
    id: str | None = None
    url: str | None = None
    language: str | None = None
    max_bytes: int | None = None
    max_line_bytes: int = 32 << 20
    shard_bytes: int = 128 << 20
    licence: str | None = None

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ()

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """Shards of whole files. Raises SourceError: nothing there, no such layout or licence."""
        choose_layout(self.layout, self._fields, self._where)
        params = {
            "layout": self.layout, "fields": self._fields, "max_line_bytes": self.max_line_bytes,
            "licence": declared_licence(self.licence, where=self._where),
        }  # fmt: skip
        groups = group_files(find_files(self.path, self._where, SUFFIXES), self.shard_bytes)
        return plan_files(self.name, groups, params, self.max_bytes, digest, self.path)

    @property
    def _where(self) -> str:
        return f"JsonLines {self.name}"

    @property
    def _fields(self) -> dict[str, str | None]:
        return {"text": self.text, "id": self.id, "url": self.url, "language": self.language}

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """Yield a row for every line that is not blank, a reject for every damage. Raises SourceError if unreadable."""
        layout = choose_layout(self.layout, self._fields, self._where)
        reader = RecordReader(self.name, "jsonl", layout, shard.params["licence"])
        for file in files_of(shard, self._where):
            yield from read_json_lines(file, reader, self.max_line_bytes, self._where)


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
            elif line.data.strip(b" \t\r" + MARK):
                yield _row(line, line.data, name, reader)


def _row(line: Line, data: bytes, name: str, reader: RecordReader) -> Document | Reject:
    location = f"{name}:{line.number}"
    raw = data.removesuffix(b"\r")
    try:
        text = (raw.removeprefix(MARK) if line.number == 1 else raw).decode("utf-8")
        record = json.loads(text)
    except UnicodeDecodeError as error:
        return Reject(location, "decode", f"not UTF-8 at byte {error.start} of {len(raw)}")
    except RecursionError:
        return Reject(location, "too_deep", "nested deeper than Python's parser goes")
    except ValueError as error:
        return Reject(location, "invalid_json", str(error)[:200])
    return reader.row(record, Place(location, name, str(line.number), line.offset, raw))
