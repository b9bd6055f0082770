"""RedPajama-V2 as it was published, and as `tilth score --as rpv2` writes it: documents with their signals and duplicates.

Signals are told by their documents' ids, not by their place alone, and are refused where they are another text's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, ClassVar

import pyarrow as pa

from tilth.corpus.file_source import FileSource
from tilth.corpus.formats.content import Cut, lines, unpacked
from tilth.corpus.layouts import LAYOUTS, RecordReader
from tilth.corpus.locations import FoundFile, find_files, open_raw
from tilth.corpus.records import Document, Reject, Shard, printable
from tilth.corpus.registry import source
from tilth.corpus.sources.json_lines import read_json_lines
from tilth.errors import SourceError

PATH = re.compile(r"(\d{4}-\d{2}/\d{4}/)([a-z]{2})_(head|middle|tail|all)\.json\.gz")
ADDED = {"quality_signals": ".signals.json.gz", "duplicates": ".duplicates.parquet"}
LOST_COUNT = ("damaged", "truncated")  # rejects after which nobody knows the number of a line


@dataclass(frozen=True)
class Published:
    """The signals of one document: `spans` are `[start, end, score]` by name."""

    line: int  # of the document in its file, from 0
    spans: Mapping[str, Any]


@source
@dataclass(frozen=True)
class RedPajamaV2(FileSource):
    """`path` is the folder (or URL) with `documents/` in it; one file of documents is one shard.

    A document's published id is `rpv2_id` in its `meta`, its signals are there by their names (those of lines as JSON, with
    `line_signals`), `rpv2_duplicate` is true where `duplicates/` names it. `languages` and `buckets` choose files. A
    document without signals is a document; signals that cannot be read, or are another text's, are rejects.
    """

    languages: tuple[str, ...] | None = None
    buckets: tuple[str, ...] | None = None
    line_signals: bool = False
    max_line_bytes: int = 64 << 20
    shard_bytes: int = field(default=0, kw_only=True)  # a published file is what others call a shard

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("pyarrow",)

    def files(self) -> list[FoundFile]:
        """Each file of documents with its signals and its duplicates behind it. Raises SourceError: nothing there or chosen."""
        documents = [file for file in self._component("documents") if self._is_chosen(file.name)]
        if not documents:
            fix = "give the folder that holds documents/<snapshot>/<shard>/<language>_<bucket>.json.gz"
            raise SourceError("no file of documents is there", where=f"{self.where}: {self.path}", fix=fix)
        added = {component: {file.name: file for file in self._component(component)} for component in ADDED}
        found = []
        for file in documents:
            found.append(replace(file, name=f"documents/{file.name}"))
            for component, suffix in ADDED.items():
                if known := added[component].get(file.name.removesuffix(".json.gz") + suffix):
                    found.append(replace(known, name=f"{component}/{known.name}"))
        return found

    def units(self, files: Sequence[FoundFile]) -> list[list[FoundFile]]:
        """Documents with what belongs to them."""
        starts = [i for i, file in enumerate(files) if file.name.startswith("documents/")]
        return [list(files[start:end]) for start, end in pairwise([*starts, len(files)])]

    def params(self) -> dict[str, Any]:
        """What of the signals is taken, and the limit."""
        return {"line_signals": self.line_signals, "max_line_bytes": self.max_line_bytes}

    def _component(self, component: str) -> list[FoundFile]:
        try:
            return find_files(f"{self.path.rstrip('/')}/{component}", self.where)
        except SourceError:
            return []  # tails have no signals, and a part of the whole may have been fetched without them

    def _is_chosen(self, name: str) -> bool:
        match = PATH.fullmatch(name)
        if match is None:
            return False
        return (not self.languages or match[2] in self.languages) and (not self.buckets or match[3] in self.buckets)

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """A row for every line of documents, a reject for every damage. Raises SourceError if a file is unreadable."""
        file = replace(unit[0], name=unit[0].name.removeprefix("documents/"))
        name = printable(file.name)
        reader = RecordReader(self.name, "jsonl", LAYOUTS["redpajama-v2"], shard.params["licence"])
        places = {added.name.partition("/")[0]: added for added in unit[1:]}
        duplicates: set[str] = set()
        if "duplicates" in places:
            duplicates, bad = _duplicates(places["duplicates"], self.where)
            yield from bad
        signals = _Signals(places.get("quality_signals"), name, self.max_line_bytes, self.where)
        is_counted = True
        for row in read_json_lines(file, reader, self.max_line_bytes, self.where):
            if isinstance(row, Reject):
                is_counted = is_counted and row.reason not in LOST_COUNT
                yield row
                continue
            if not is_counted:
                yield replace(row, meta={key: value for key, value in row.meta.items() if key != "rpv2_id"})
                continue
            found, bad = signals.of(int(row.occurrences[0].record_id or 0) - 1, len(row.text))
            yield from bad
            more = _as_meta(found.spans, self.line_signals) if found else {}
            if row.meta.get("rpv2_id") in duplicates:
                more["rpv2_duplicate"] = "true"
            yield replace(row, meta={**row.meta, **more})
        yield from signals.rest()


class _Signals:
    """The signals of one file, read along with its documents."""

    def __init__(self, file: FoundFile | None, documents: str, max_line_bytes: int, where: str) -> None:
        self._rows = iter(()) if file is None else _read_signals(file, documents, max_line_bytes, where)
        self._place = "" if file is None else file.name
        self._next: Published | None = None

    def of(self, line: int, n_chars: int) -> tuple[Published | None, list[Reject]]:
        """The signals of a document by its line, and what was found unreadable up to there."""
        bad: list[Reject] = []
        while self._next is None or self._next.line < line:
            row = next(self._rows, None)
            if row is None:
                return None, bad
            if isinstance(row, Reject):
                bad.append(row)
            else:
                self._next = row
        if self._next.line > line:
            return None, bad
        ends = {spans[0][1] for name, spans in self._next.spans.items() if name.startswith(("rps_doc", "ccnet")) and spans}
        if ends - {n_chars}:
            detail = f"signals of {max(ends)} characters, a document of {n_chars}"
            return None, [*bad, Reject(f"{self._place}:{line + 1}", "other_text", detail)]
        return self._next, bad

    def rest(self) -> Iterator[Reject]:
        """What is unreadable after the last document."""
        for row in self._rows:
            if isinstance(row, Reject):
                yield row


def _read_signals(file: FoundFile, documents: str, max_line_bytes: int, where: str) -> Iterator[Published | Reject]:
    last = -1
    with open_raw(file.location, where) as raw:
        for line in lines(unpacked(raw), max_line_bytes):
            place = f"{file.name}:{line.number}"
            if isinstance(line, Cut):
                yield Reject(place, line.reason, line.detail)
                continue
            if line.data is None:
                yield Reject(place, "too_large", f"a line of {line.size_bytes} bytes, at most {max_line_bytes}")
                continue
            row = _published(line.data, documents, place)
            if isinstance(row, Published) and row.line <= last:
                row = Reject(place, "wrong_order", f"line {row.line} after line {last}")
            if isinstance(row, Published):
                last = row.line
            yield row


def _published(data: bytes, documents: str, place: str) -> Published | Reject:
    try:
        record = json.loads(data)
        file, _, number = record["id"].rpartition("/")
        spans = {
            name: [(int(start), int(end), None if score is None else score + 0) for start, end, score in found]
            for name, found in record["quality_signals"].items()
        }
        line = int(number)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return Reject(place, "bad_signals", f"{type(error).__name__}: {error}"[:200])
    if file != documents:
        return Reject(place, "other_file", f"signals of {file}"[:200])
    return Published(line, spans)


def _as_meta(spans: Mapping[str, Any], with_lines: bool) -> dict[str, str]:
    found = {}
    for name, scored in spans.items():
        if name.startswith("rps_lines"):
            if with_lines:
                found[name] = json.dumps(scored, separators=(",", ":"))
        elif scored and scored[0][2] is not None:
            found[name] = repr(scored[0][2])
    return found


def _duplicates(file: FoundFile, where: str) -> tuple[set[str], list[Reject]]:
    """The ids that a file of duplicates names, and the reject that it is where it cannot be read."""
    import pyarrow.parquet as pq

    with open_raw(file.location, where) as raw:
        try:
            table = pq.ParquetFile(raw, pre_buffer=False).read(columns=["doc_id"])
            return set(table.column("doc_id").to_pylist()), []
        except (pa.ArrowException, OSError, ValueError, KeyError) as error:
            return set(), [Reject(file.name, "damaged", (str(error).splitlines() or [""])[0][:300])]
