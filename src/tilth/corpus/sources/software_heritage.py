"""Software Heritage's graph tables: the files at the main branch of each origin's newest full visit, as git gives them."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tilth.corpus.archive_graph import ArchivedHead, GraphTables, archived_heads, files_of
from tilth.corpus.archived_blobs import ArchivedBlobs
from tilth.corpus.provenance.git_objects import Addition
from tilth.corpus.reading import share
from tilth.corpus.records import Document, Reject, Shard, fingerprint
from tilth.corpus.registry import source
from tilth.corpus.repository_files import RepositoryFiles
from tilth.errors import SourceError


@source
@dataclass(frozen=True)
class SoftwareHeritageGraph:
    """`tables` is a folder or URL with the ORC tables of an export, a folder each; `contents` where the blobs lie.

    `origins` is a regular expression that the whole URL of an origin must match. `contents` is a folder of files named by
    sha1 or sha1_git, or a pattern such as `s3://softwareheritage/content/{sha1}`; gzip or plain. `origins_per_shard` origins
    are traversed together; `max_bytes` is shared evenly. Documents are those that GitRepository gives for a clone.
    """

    name: str
    tables: str
    contents: str
    origins: str = ".*"
    origins_per_shard: int = 100
    max_bytes: int | None = None
    max_blob_bytes: int = 10 << 20

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("license-expression", "resiliparse")

    @property
    def where(self) -> str:
        """What errors name."""
        return f"SoftwareHeritageGraph {self.name}: {self.tables}"

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """Shards of origins in the order of their URLs. Raises SourceError: no table, no origin with a full visit."""
        heads = archived_heads(GraphTables(self.tables, self.where), self._wanted())
        if not heads:
            raise SourceError("no origin that matches has a full visit", self.where, f"`origins` is {self.origins!r}")
        groups = [heads[i : i + self.origins_per_shard] for i in range(0, len(heads), self.origins_per_shard)]
        caps = share(self.max_bytes, [1] * len(groups))
        return [self._shard(i, group, cap) for i, (group, cap) in enumerate(zip(groups, caps, strict=True))]

    def _wanted(self) -> re.Pattern[str]:
        try:
            return re.compile(self.origins)
        except re.error as error:
            raise SourceError(
                f"`origins` is no regular expression: {error}", self.where, "such as https://github.com/a/.*"
            ) from None

    def _shard(self, index: int, heads: list[ArchivedHead], cap: int | None) -> Shard:
        listed = [list(head) for head in heads]
        contents = hashlib.sha256(json.dumps(listed).encode()).hexdigest()
        params = {"heads": listed, "max_bytes": cap, "max_blob_bytes": self.max_blob_bytes}
        return Shard(f"{self.name}/{index:05d}", self.name, contents, params, self.tables)

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """Yield a document or a reject for every distinct blob, and a reject for whatever else is at a path."""
        tables = GraphTables(shard.location, self.where)
        heads = [ArchivedHead(*head) for head in shard.params["heads"]]
        files = files_of(tables, [head.directory for head in heads if not head.problem])
        found = RepositoryFiles()
        for head in heads:
            if head.problem:
                named = f"swh:1:rev:{head.revision}" if head.revision else f"swh:1:snp:{head.snapshot}"
                found.others.append(Reject(head.origin, head.problem, f"{named}: no files without its main branch"))
                continue
            for file in files[head.directory]:
                found.at_head(file, head.origin)
                found.add(Addition(file, head.revision, head.directory, head.date), head.origin, f"swh:1:snp:{head.snapshot}")
        yield from found.rows(ArchivedBlobs(tables, self.contents).read, self.max_blob_bytes)
