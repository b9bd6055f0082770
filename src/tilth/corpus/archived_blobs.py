"""Contents that Software Heritage's archive stores under their sha1, gzip-packed or plain, from a folder or a URL."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tilth.corpus.archive_graph import ArchivedContent, GraphTables, archived_contents
from tilth.corpus.locations import URL, open_raw
from tilth.corpus.provenance.git_objects import Blob
from tilth.corpus.provenance.swhid import object_id
from tilth.errors import SourceError

AT_ONCE, THREADS = 256, 16
GZIP_WINDOW = 31


@dataclass(frozen=True)
class ArchivedBlobs:
    """`contents` is a folder (or URL of one) of files named by sha1 or sha1_git, or a pattern such as `s3://b/{sha1}`.

    A pattern may cut a part from the front: `objects/{sha1:.2}/{sha1}`.
    """

    tables: GraphTables
    contents: str

    def read(self, oids: Iterable[str], max_bytes: int) -> Iterator[Blob]:
        """The contents in the order asked for, each held to its sha1_git. Raises SourceError where a store cannot be reached."""
        wanted = list(oids)
        known = archived_contents(self.tables, wanted)
        with ThreadPoolExecutor(THREADS) as pool:
            for i in range(0, len(wanted), AT_ONCE):
                yield from pool.map(lambda oid: self._blob(oid, known.get(oid), max_bytes), wanted[i : i + AT_ONCE])

    def _blob(self, oid: str, content: ArchivedContent | None, max_bytes: int) -> Blob:
        if content is None or content.status == "absent":
            return Blob(oid, None, "missing", "the archive lacks this content")
        if content.n_bytes > max_bytes:
            return Blob(oid, None, "too_large", f"{content.n_bytes} bytes, at most {max_bytes}", content.n_bytes)
        stored = self._stored(oid, content)
        if stored is None:
            return Blob(oid, None, "missing", f"no file for sha1 {content.sha1}", content.n_bytes)
        for data in (stored, _unpacked(stored, content.n_bytes)):
            if data is not None and object_id("cnt", data).hex() == oid:
                return Blob(oid, data, n_bytes=len(data))
        return Blob(oid, None, "corrupt", f"the file for sha1 {content.sha1} holds other bytes", content.n_bytes)

    def _stored(self, oid: str, content: ArchivedContent) -> bytes | None:
        names = {"sha1": content.sha1, "sha1_git": oid}
        is_pattern = "{" in self.contents
        folder = self.contents.rstrip("/")
        for location in [self.contents.format(**names)] if is_pattern else [f"{folder}/{name}" for name in names.values()]:
            if URL.match(location) is None and not os.path.exists(location):
                continue
            try:
                with open_raw(location, f"content {oid}") as file:
                    return file.read()
            except SourceError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise
        return None


def _unpacked(stored: bytes, n_bytes: int) -> bytes | None:
    try:
        return zlib.decompressobj(GZIP_WINDOW).decompress(stored, n_bytes + 1)
    except zlib.error:
        return None
