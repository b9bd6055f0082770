"""The user's own files as they are scored: which source reads each, and what its rows are called."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilth.corpus.locations import FoundFile, find_files
from tilth.corpus.records import Document, Reject, Shard, Source, fingerprint
from tilth.errors import SourceError

NAME = "files"  # of the source in the ids of documents: the same for all, so that moving a file changes none
PACKED = (".gz", ".zst", ".xz", ".bz2", ".lz4")
KINDS = {
    ".jsonl": "JsonLines", ".json": "JsonLines", ".ndjson": "JsonLines",
    ".parquet": "ParquetFiles", ".parq": "ParquetFiles", ".pq": "ParquetFiles",
    ".csv": "CsvFiles", ".tsv": "CsvFiles",
    ".warc": "Warc", ".wet": "Warc", ".arc": "Arc",
}  # fmt: skip


@dataclass(frozen=True)
class Fields:
    """What the user says of records: the names of fields, and the language of texts that do not name theirs."""

    text: str | None = None
    id: str | None = None
    language: str | None = None


@dataclass(frozen=True)
class Input:
    """One file: `name` names its outputs; its source reads it in `shards`."""

    name: str
    location: str
    source: Source
    shards: tuple[Shard, ...]

    @property
    def fingerprints(self) -> dict[str, str]:
        """What was read, for the manifest: shards' numbers and the digests of their content."""
        return {f"{self.name}#{i}": shard.fingerprint for i, shard in enumerate(self.shards)}

    @property
    def params(self) -> dict[str, Any]:
        """What decides how it is read."""
        return {
            "source": type(self.source).__name__,
            "version": self.source.version,
            "shards": [shard.params for shard in self.shards],
        }

    def rows(self) -> Iterator[Document | Reject]:
        """Every row of the file, in its order. Raises SourceError if it cannot be read."""
        own = os.path.basename(self.location) if type(self.source).__name__ == "Folder" else None
        for shard in self.shards:
            for row in self.source.read(shard):
                # A file's name may be a pattern that others match as well.
                if own is None or own == (row.location if isinstance(row, Reject) else row.occurrences[0].path):
                    yield row


def find_inputs(
    files: Sequence[str], fields: Fields, output: Path, digest: Callable[[Path], str] = fingerprint
) -> list[Input]:  # fmt: skip
    """The files of paths, folders, patterns and URLs, in the order of their names, each once; none of those in `output`.

    Raises SourceError: nothing there, a kind that cannot be read from there, two that would have one name.
    """
    ours = os.path.abspath(output) + os.sep
    found: dict[str, FoundFile] = {}
    for pattern in files:
        for file in find_files(pattern, "score"):
            place = os.path.abspath(file.location) if file.is_local else file.location
            if not place.startswith(ours):
                found.setdefault(place, file)
    if not found:
        raise SourceError("there is nothing but what was written here", str(output), "give other files, or another `-o`")
    named = _named(list(found.values()))
    return [_input(name, named[name], fields, digest) for name in sorted(named)]


def kind_of(name: str) -> str:
    """The class of the source for a file's name: `part.jsonl.zst` is JsonLines; what is unknown is a text."""
    stem = name.lower()
    for suffix in PACKED:
        stem = stem.removesuffix(suffix)
    return KINDS.get(os.path.splitext(stem)[1], "Folder")


def _named(files: list[FoundFile]) -> dict[str, FoundFile]:
    """Names that tell the files apart: below what was asked for, or below their common folder where these are equal."""
    names = Counter(file.name for file in files)
    if max(names.values()) > 1 and all(file.is_local for file in files):
        root = os.path.commonpath([os.path.dirname(os.path.abspath(file.location)) for file in files])
        return {os.path.relpath(os.path.abspath(file.location), root): file for file in files}
    twice = [name for name, n in names.items() if n > 1]
    if twice:
        raise SourceError(f"two files are named `{twice[0]}`", "score", "score them into different folders: `-o OTHER`")
    return {file.name: file for file in files}


def _input(name: str, file: FoundFile, fields: Fields, digest: Callable[[Path], str]) -> Input:
    source = _source(file, fields)
    return Input(name, file.location, source, tuple(source.plan(digest)))  # type: ignore[call-arg]


def _source(file: FoundFile, fields: Fields) -> Any:
    kind = kind_of(file.name)
    if kind in ("Warc", "Arc"):
        from tilth.corpus.sources.arc import Arc
        from tilth.corpus.sources.warc import Warc

        return (Warc if kind == "Warc" else Arc)(NAME, file.location)
    if kind == "Folder":
        from tilth.corpus.sources.folder import Folder

        if not file.is_local:
            fix = "name it by what it holds (.jsonl, .parquet, .csv, .warc), or copy it here"
            raise SourceError("a text file behind a URL cannot be read", file.location, fix)
        folder, name = os.path.split(os.path.abspath(file.location))
        return Folder(NAME, folder, pattern=name)
    from tilth.corpus.sources.csv_files import CsvFiles
    from tilth.corpus.sources.json_lines import JsonLines
    from tilth.corpus.sources.parquet_files import ParquetFiles

    chosen = {"JsonLines": JsonLines, "ParquetFiles": ParquetFiles, "CsvFiles": CsvFiles}[kind]
    return chosen(NAME, file.location, text=fields.text, id=fields.id)
