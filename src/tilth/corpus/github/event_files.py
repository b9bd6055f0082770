"""Files of GHArchive as threads: events are brought together by sorting on disk, so that an archive may be larger than memory."""

from __future__ import annotations

import marshal
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from tilth.corpus.external_sort import ExternalSort, Record
from tilth.corpus.file_source import FileSource
from tilth.corpus.formats.content import Cut, Line, lines, unpacked
from tilth.corpus.github.events import KINDS, Event, Item, Problem, Thread, read_event
from tilth.corpus.github.thread import ThreadHistory, read_thread
from tilth.corpus.locations import FoundFile, open_raw
from tilth.corpus.provenance.spdx_expressions import UNKNOWN
from tilth.corpus.records import Document, LicenceClaim, Occurrence, Reject, Shard, document_id, fingerprint, printable
from tilth.errors import SourceError

SORT_BYTES = 128 << 20
MAX_LINE_BYTES = 8 << 20
SUFFIXES = tuple(f".json{packed}" for packed in (".gz", "", ".zst", ".xz", ".bz2", ".lz4"))
LOW_BITS = (1 << 32) - 1


@dataclass(frozen=True)
class GitHubThreads(FileSource):
    """Threads from the files of GHArchive; a subclass says which events it wants and what a thread's document is.

    A thread's events lie in any of the files, so all files are read together: as one shard, or as `n_shards`, by repository,
    each of which reads all files for its own share.
    """

    n_shards: int = field(default=1, kw_only=True)

    suffixes: ClassVar[tuple[str, ...]] = SUFFIXES
    kind: ClassVar[str]  # of occurrences
    folder: ClassVar[str]  # what GitHub calls it in addresses
    types: ClassVar[tuple[str, ...]] = tuple(KINDS)  # of events that may be wanted

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """Shards of whole repositories. Raises SourceError: nothing there, an option that cannot be."""
        if self.n_shards < 1:
            raise SourceError("`n_shards` must be at least 1", self.where, "leave it out for one shard")
        shards = super().plan(digest)
        return [replace(shard, params={**shard.params, "part": i, "n_parts": len(shards)}) for i, shard in enumerate(shards)]

    def units(self, files: Sequence[FoundFile]) -> list[list[FoundFile]]:
        """All files: any of them may hold an event of any thread."""
        return [list(files)]

    def groups(self, files: Sequence[FoundFile]) -> list[list[FoundFile]]:
        """The files of each shard: all of them."""
        return [list(files)] * self.n_shards

    def wants(self, event: Event) -> bool:
        """Whether an event is of a thread of this source."""
        raise NotImplementedError

    def threads(self, unit: list[FoundFile], shard: Shard) -> Iterator[ThreadHistory | Reject]:
        """The threads, by repository and number; a reject for every unusable line, and one for each file's other events."""
        part, n_parts = shard.params["part"], shard.params["n_parts"]
        wanted = re.compile(rb'"type"\s*:\s*"(?:%s)"' % "|".join(self.types).encode())
        with ExternalSort(SORT_BYTES) as events:
            for file in unit:
                rejects = self._read_file(file, wanted, lambda event: event.repository_id % n_parts == part, events)
                yield from (reject for reject in rejects if part == 0)  # every shard reads them, one tells them
            for (repository, number), records in groupby(events, key=lambda record: record[0][:2]):
                thread = read_thread(map(_event, records), repository, number)
                yield from self._lost(thread)
                yield thread

    def location(self, thread: ThreadHistory) -> str:
        """`REPOSITORY:issues/7`, as opt-out requests name a place."""
        return f"{thread.origin}:{self.folder}/{thread.number}"

    def document(self, thread: ThreadHistory, text: str, meta: dict[str, str], claims: list[LicenceClaim]) -> Document:
        """A document with the thread's provenance: an occurrence for each name that the repository bore."""
        path = f"{self.folder}/{thread.number}"
        raw_swhid = thread.raw_swhid
        occurrences = [
            Occurrence(self.kind, f"https://github.com/{name}", path, record_id=path.replace("/", " "), date=date)
            for name, date in reversed(thread.names.items())
        ]
        if thread.opened:
            occurrences[0] = replace(occurrences[0], date=thread.opened)
        return Document(
            doc_id=document_id(self.kind, self.name, str(thread.repository_id), str(thread.number), raw_swhid),
            text=text, raw_swhid=raw_swhid, encoding="utf-8+replace" if thread.is_mended else "utf-8",
            extraction=f"tilth {self.kind} {self.version}", occurrences=occurrences, url=f"{thread.origin}/{path}",
            meta={key: value for key, value in meta.items() if value}, licences=claims,
        )  # fmt: skip

    def claim(self, thread: ThreadHistory, licence: str | None) -> LicenceClaim:
        """The licence that the recipe declares; else unknown: nothing says under which one people write on GitHub."""
        place, tool = f"{self.folder}/{thread.number}", "recipe" if licence else "none"
        return LicenceClaim(thread.origin, place, licence or UNKNOWN, "declared", "", None, tool, 1.0, effective=True)

    def _lost(self, thread: ThreadHistory) -> Iterator[Reject]:
        if thread.n_duplicates:
            yield Reject(self.location(thread), "duplicate_event", f"{thread.n_duplicates} events that came before")
        if thread.n_too_many:
            yield Reject(self.location(thread), "too_large", f"{thread.n_too_many} events beyond what one thread may hold")

    def _read_file(
        self, file: FoundFile, wanted: re.Pattern[bytes], is_own: Callable[[Event], bool], events: ExternalSort
    ) -> Iterator[Reject]:
        """Add the events of this shard; yield what cannot be used, and how many others there were."""
        name = printable(file.name)
        others: Counter[str] = Counter()
        with open_raw(file.location, self.where) as raw:
            for line in lines(unpacked(raw), MAX_LINE_BYTES):
                found = _read_line(line, wanted)
                if isinstance(found, Problem):
                    yield Reject(f"{name}:{line.number}", *found)
                elif isinstance(found, str):
                    others[found] += 1
                elif not self.wants(found):
                    others["of other threads"] += 1
                elif is_own(found):
                    events.add(_key(found), marshal.dumps(_plain(found)))
        del others[""]
        if others:
            told = ", ".join(f"{n} {what}" for what, n in sorted(others.items()))
            yield Reject(name, "other_events", told)


def _read_line(line: Line | Cut, wanted: re.Pattern[bytes]) -> Event | Problem | str:
    """An event, a problem, or what else a line is: empty for a blank one."""
    if isinstance(line, Cut):
        return Problem(line.reason, line.detail)
    if line.data is None:
        return Problem("too_large", f"a line of {line.size_bytes} bytes, at most {MAX_LINE_BYTES}")
    data = line.data.strip(b" \t\r\xef\xbb\xbf")
    if data[:1] == b"{" and data[-1:] == b"}" and wanted.search(data) is None:
        return "of other kinds"  # most lines: looking for the name of a kind is much faster than parsing
    if not data:
        return ""
    return read_event(data) or "of other kinds"


def _key(event: Event) -> tuple[int, int, int]:
    """Thread, then time, then id, which GitHub counts up: the order does not depend on files."""
    identity = int(event.id) if event.id.isdecimal() else int(event.id[:8], 16)
    return event.repository_id, event.number, (event.seconds & LOW_BITS) << 32 | identity & LOW_BITS


def _plain(event: Event) -> tuple[Any, ...]:
    """What `marshal` takes: plain tuples alone."""
    return tuple(tuple(part) if isinstance(part, tuple) else part for part in event)


def _event(record: Record) -> Event:
    event = Event(*marshal.loads(record[1]))
    return event._replace(thread=Thread(*event.thread), item=event.item and Item(*event.item))
