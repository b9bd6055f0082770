"""Finds, opens and fingerprints files on this machine and behind fsspec URLs (file, http, https, s3, memory), all alike.

A file has a location (how to open it) and a name (its path below the folder that was asked for). Names go
into keys, locations never do.
"""

from __future__ import annotations

import glob
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar, cast

from tilth.corpus.reading import share
from tilth.corpus.records import CHUNK_BYTES, Shard, fingerprint, printable
from tilth.errors import SourceError, did_you_mean

SCHEMES = ("file", "http", "https", "memory", "s3")
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
WILD = re.compile(r"[*?\[]")
SHARD_BYTES = 128 << 20
BLOCK_BYTES = 8 << 20  # of a remote file that is fetched at a time


class Sized(Protocol):
    """What has a size."""

    @property
    def size_bytes(self) -> int:
        """Of its content."""


F = TypeVar("F", bound=Sized)


@dataclass(frozen=True)
class FoundFile:
    """A file that was asked for. `checksum` is what the store says about its content; empty where it says nothing strong."""

    name: str  # below the folder that was asked for, "/" between parts
    location: str  # a local path or a URL
    size_bytes: int
    checksum: str = ""

    @property
    def is_local(self) -> bool:
        """Whether the location is a path of this machine."""
        return URL.match(self.location) is None


def find_files(pattern: str, where: str, suffixes: tuple[str, ...] = ()) -> list[FoundFile]:
    """The files of a path, URL or pattern (`*`, `?`, `[..]`, `**` descends), sorted by name.

    A folder stands for all files below it whose lower-case names end in one of `suffixes` (all if there are
    none); hidden files (`.x`, `_x`) in folders are left out, as Spark and the hub leave them out. `where` names
    the source in errors. Raises SourceError: nothing there, no such scheme, store not reachable.
    """
    scheme, rest = split_url(pattern, where)
    found = _find_local(rest) if scheme == "file" else _find_remote(scheme, pattern, where)
    by_name = {file.name: file for file in found if _wanted(file.name, pattern, suffixes)}
    if not by_name:
        expected = f" that ends in {', '.join(suffixes)}" if suffixes and not WILD.search(rest) else ""
        raise SourceError(
            f"no file{expected} is there", where=f"{where}: {pattern}",
            fix="give a file, a folder, or a pattern such as data/**/*.jsonl.gz (quote it in a shell)",
        )  # fmt: skip
    return [by_name[name] for name in sorted(by_name)]


def split_url(location: str, where: str) -> tuple[str, str]:
    """(scheme, path) of a path or URL; `file` for a path, whose `~` is expanded. Raises SourceError for an unknown scheme."""
    match = URL.fullmatch(location)
    if match is None:
        return "file", os.path.expanduser(location)
    scheme = match[1].lower()
    if scheme not in SCHEMES:
        raise SourceError(f"no such kind of location: `{scheme}://`", where=where, fix=did_you_mean(scheme, SCHEMES))
    return scheme, match[2]


def open_raw(location: str, where: str | None = None) -> BinaryIO:
    """Open the stored bytes to read, buffered and seekable where the store can seek.

    A fault of the disk, the network or the store raises SourceError at once and while reading: it is no property
    of the data, so it must never become a reject.
    """
    scheme, rest = split_url(location, where or location)
    with _faults(where or location):
        if scheme == "file":
            handle: Any = open(rest, "rb", buffering=0)  # noqa: SIM115 - handed to the reader, which closes it
        else:
            handle = _filesystem(scheme, location, where or location).open(location, "rb", block_size=BLOCK_BYTES)
    return cast(BinaryIO, io.BufferedReader(_Watched(handle, where or location), CHUNK_BYTES))


def fingerprint_of(file: FoundFile, digest: Callable[[Path], str] = fingerprint) -> str:
    """64 hexadecimal digits that change whenever the file's content does.

    A local file: `digest` (sha256 of its bytes). A remote object with a strong checksum of its store: sha256 over
    that checksum and the size, without reading it: the ETag of S3 (a digest of content) and a strong ETag of
    HTTP (RFC 9110, 8.8.1: a new one for every change of content). Any other: sha256 of its streamed content.
    The same bytes at two places may so have two fingerprints: that costs a second reading and is never wrong.
    """
    if file.is_local:
        with _faults(file.location):
            return digest(Path(file.location))
    if file.checksum:
        return hashlib.sha256(f"{file.checksum}\0{file.size_bytes}".encode()).hexdigest()
    total = hashlib.sha256()
    with open_raw(file.location) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            total.update(chunk)
    return total.hexdigest()


def plan_files(
    name: str, groups: list[list[FoundFile]], params: Mapping[str, Any], max_bytes: int | None,
    digest: Callable[[Path], str] = fingerprint, root: str = "",
) -> list[Shard]:  # fmt: skip
    """One shard for each group of files, in their order; `root` (the location asked for) is where `files_of` looks again.

    A source's cap on bytes is shared by size. Raises SourceError.
    """
    caps = share(max_bytes, [sum(file.size_bytes for file in group) for group in groups])
    shards = []
    for i, (group, cap) in enumerate(zip(groups, caps, strict=True)):
        contents = hashlib.sha256()
        for file in group:
            contents.update(f"{file.name}\0{fingerprint_of(file, digest)}\n".encode("utf-8", "backslashreplace"))
        own = {"files": [printable(file.name) for file in group], "max_bytes": cap, **params}
        shards.append(Shard(f"{name}/{i:05d}", name, contents.hexdigest(), own, root))
    return shards


def files_of(shard: Shard, where: str) -> list[FoundFile]:
    """The files of a shard that `plan_files` made. Raises SourceError if one has gone."""
    present = {printable(file.name): file for file in find_files(shard.location, where)}
    gone = [name for name in shard.params["files"] if name not in present]
    if gone:
        raise SourceError(f"{len(gone)} files are gone, the first: {gone[0]}", where=where, fix="plan again: run the build anew")
    return [present[name] for name in shard.params["files"]]


def group_files(files: list[F], shard_bytes: int = SHARD_BYTES) -> list[list[F]]:
    """Runs of files of at most `shard_bytes` together, or one larger file."""
    groups: list[list[F]] = []
    n_bytes = 0
    for file in files:
        if not groups or n_bytes + file.size_bytes > shard_bytes:
            groups.append([])
            n_bytes = 0
        groups[-1].append(file)
        n_bytes += file.size_bytes
    return groups


def _wanted(name: str, pattern: str, suffixes: tuple[str, ...]) -> bool:
    if WILD.search(pattern) or (pattern.endswith(name.rpartition("/")[2]) and "/" not in name):
        return True
    hidden = any(part.startswith((".", "_")) for part in name.split("/"))
    return not hidden and (not suffixes or name.lower().endswith(suffixes))


def _find_local(path: str) -> Iterator[FoundFile]:
    if os.path.isfile(path):
        yield FoundFile(os.path.basename(path), path, os.stat(path).st_size)
        return
    root = path if os.path.isdir(path) else _literal_folder(path)
    matched = _walk(path) if os.path.isdir(path) else glob.glob(path, recursive=True, include_hidden=True)
    for location in matched:
        if os.path.isfile(location):
            yield FoundFile(os.path.relpath(location, root).replace(os.sep, "/"), location, os.stat(location).st_size)


def _walk(root: str) -> Iterator[str]:
    for folder, _, files in os.walk(root):
        yield from (os.path.join(folder, name) for name in files)


def _literal_folder(pattern: str) -> str:
    """The part of a pattern before its first wildcard, up to the last "/" in it."""
    wild = WILD.search(pattern)
    literal = pattern[: wild.start()] if wild else pattern
    return literal.rpartition("/")[0] or ("/" if literal.startswith("/") else "")


def _find_remote(scheme: str, pattern: str, where: str) -> Iterator[FoundFile]:
    store = _filesystem(scheme, pattern, where)
    with _faults(f"{where}: {pattern}"):
        if WILD.search(pattern):
            found, root = store.glob(pattern, detail=True), _literal_folder(pattern)
        elif (scheme in ("http", "https") and not pattern.endswith("/")) or store.isfile(pattern):
            found, root = {pattern: store.info(pattern)}, pattern.rpartition("/")[0]
        else:
            found, root = store.find(pattern, detail=True), pattern.rstrip("/")
        for path, facts in sorted(found.items()):
            if facts.get("type") != "directory" and not path.endswith("/"):
                location = path if URL.match(path) else f"{scheme}://{path.lstrip('/')}"
                facts = facts if facts.get("size") is not None else store.info(location)
                name = location.removeprefix(f"{root.rstrip('/')}/")
                yield FoundFile(name, location, facts.get("size") or 0, _checksum(scheme, facts))


def _checksum(scheme: str, facts: Mapping[str, Any]) -> str:
    etag = str(facts.get("ETag") or "").strip()
    if scheme == "memory" or not etag or etag.startswith("W/") or facts.get("size") is None:
        return ""
    return f"{scheme.removesuffix('s') if scheme == 'https' else scheme} etag {etag.strip(chr(34))}"


def _filesystem(scheme: str, location: str, where: str) -> Any:
    try:
        import fsspec

        # The listings of another call may be out of date: a new store each time, none from fsspec's cache of instances.
        options = {"use_listings_cache": False} if scheme == "s3" else {}
        return fsspec.filesystem(scheme, skip_instance_cache=scheme == "s3", **options)
    except (ImportError, ValueError) as error:
        needs = {"s3": "s3fs", "http": "aiohttp", "https": "aiohttp"}.get(scheme, "fsspec")
        raise SourceError(f"{scheme}:// needs `{needs}`: {error}", where=where, fix=f"pip install {needs}") from error


@contextmanager
def _faults(where: str) -> Iterator[None]:
    """Turn whatever a disk or a store raises into a SourceError."""
    try:
        yield
    except SourceError:
        raise
    except FileNotFoundError as error:
        raise SourceError("there is no such file", where=where, fix="is it still there, and is the name right?") from error
    except PermissionError as error:
        raise SourceError(f"not allowed to read: {error}", where=where, fix="check permissions or credentials") from error
    except Exception as error:  # fsspec passes on what aiohttp, botocore and asyncio raise
        what = f"cannot read: {type(error).__name__} {error}".rstrip()
        raise SourceError(what, where=where, fix="is it reachable? run the same command again to go on") from error


class _Watched(io.RawIOBase):
    """A raw stream whose faults are SourceErrors, so that what is left are faults of the content."""

    def __init__(self, handle: Any, where: str) -> None:
        self._handle, self._where = handle, where

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._handle.seekable())

    def seek(self, offset: int, whence: int = 0) -> int:
        with _faults(self._where):
            return int(self._handle.seek(offset, whence))

    def tell(self) -> int:
        return int(self._handle.tell())

    def readinto(self, buffer: Any) -> int:
        with _faults(self._where):
            data = self._handle.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._handle.close()
        super().close()
