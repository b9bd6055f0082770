"""Finds, opens and fingerprints files on this machine and behind fsspec URLs (file, http, https, s3, memory), all alike.

A file has a location (how to open it) and a name (its path below the folder that was asked for). Names go
into keys, locations never do.
"""

from __future__ import annotations

import errno
import glob
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from tilth.corpus.reading import share
from tilth.corpus.records import CHUNK_BYTES, Shard, fingerprint, printable
from tilth.errors import SourceError, did_you_mean

SCHEMES = ("file", "http", "https", "memory", "s3")
URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
WILD = re.compile(r"[*?\[]")
BLOCK_BYTES = 8 << 20  # of a remote file that is fetched at a time
T = TypeVar("T")


@dataclass(frozen=True)
class FoundFile:
    """A file that was asked for, or the part of it from `start` to `end`.

    `checksum` is what the store says about its content; empty where it says nothing strong. `stamp` is another when the file
    was written since; empty where the store does not tell. `content` is its fingerprint once it is known.
    """

    name: str  # below the folder that was asked for, "/" between parts
    location: str  # a local path or a URL
    size_bytes: int
    checksum: str = ""
    stamp: str = ""
    content: str = ""
    start: int = 0
    end: int | None = None

    @property
    def n_bytes(self) -> int:
        """Of the part that is meant."""
        return (self.size_bytes if self.end is None else self.end) - self.start

    @property
    def described(self) -> str:
        """The name, and which part of the file it is: what goes into a key."""
        is_whole = self.start == 0 and self.end is None
        return printable(self.name) + ("" if is_whole else f" [{self.start}:{'' if self.end is None else self.end}]")

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
        is_pattern = WILD.search(rest) is not None
        expected = f" that ends in {_endings(suffixes)}" if suffixes and not is_pattern else ""
        what = f"no file{expected} is there"
        if scheme == "file" and not is_pattern and not os.path.exists(rest):
            what = "there is no such file or folder"
        fix = "give a file, a folder, or a pattern such as data/**/*.jsonl.gz (quote it in a shell)"
        raise SourceError(what, where=f"{where}: {pattern}", fix=fix)
    return [by_name[name] for name in sorted(by_name)]


def beside(file: FoundFile, suffix: str, where: str) -> FoundFile | None:
    """The file of the same name with `suffix` after it, such as an index; None where there is none. Raises SourceError."""
    location = f"{file.location}{suffix}"
    scheme, rest = split_url(location, where)
    if scheme == "file":
        return _local_file(f"{file.name}{suffix}", rest) if os.path.isfile(rest) else None
    with _faults(f"{where}: {location}"):
        is_there = _filesystem(scheme, location, where).exists(location)
    return next(iter(find_files(location, where))) if is_there else None


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
            if getattr(handle, "size", None) is None:
                what = "the server does not say how long the file is, so that nothing would tell its end from a broken connection"
                raise SourceError(what, where=where or location, fix="copy it here and read the copy")
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
    digest: Callable[[Path], str] = fingerprint,
) -> list[Shard]:  # fmt: skip
    """One shard for each group of files, in their order. A source's cap on bytes is shared by size. Raises SourceError."""
    caps = share(max_bytes, [sum(file.n_bytes for file in group) for group in groups])
    known: dict[str, str] = {}
    shards = []
    for i, (group, cap) in enumerate(zip(groups, caps, strict=True)):
        files = []
        for file in group:
            if file.location not in known:
                known[file.location] = fingerprint_of(file, digest)
            files.append(replace(file, content=known[file.location]))
        contents = hashlib.sha256("".join(f"{file.described}\0{file.content}\n" for file in files).encode()).hexdigest()
        own = {"files": [file.described for file in files], "max_bytes": cap, **params}
        shards.append(Shard(f"{name}/{i:05d}", name, contents, own, "", tuple(files)))
    return shards


def refuse_changed(file: FoundFile, where: str) -> None:
    """Raise SourceError if the file is not the one that was found: its output would have another file's key.

    Costs a `stat`, or a request for the headers; where a store tells neither ETag nor date, the content is read once more.
    """
    scheme, rest = split_url(file.location, where)
    with _faults(f"{where}: {file.location}"):
        if scheme == "file":
            facts = os.stat(rest)
            same = (facts.st_size, local_stamp(facts)) == (file.size_bytes, file.stamp)
        else:
            told = _filesystem(scheme, file.location, where).info(file.location)
            now = (told.get("size") or 0, _stamp(told), _checksum(scheme, told))
            same = now == (file.size_bytes, file.stamp, file.checksum) and (
                bool(file.stamp) or fingerprint_of(file) == file.content
            )
    if not same:
        what = "the file has changed since the build was planned"
        raise SourceError(what, where=f"{where}: {file.location}", fix="run the same command again")


def group_by_size(items: list[T], sizes: list[int], most: int) -> list[list[T]]:
    """Runs of items of at most `most` bytes together, or one larger item."""
    groups: list[list[T]] = []
    n_bytes = 0
    for item, size in zip(items, sizes, strict=True):
        if not groups or n_bytes + size > most:
            groups.append([])
            n_bytes = 0
        groups[-1].append(item)
        n_bytes += size
    return groups


def local_stamp(facts: os.stat_result) -> str:
    """What changes whenever a file of this machine is written."""
    return str(facts.st_mtime_ns)


def _wanted(name: str, pattern: str, suffixes: tuple[str, ...]) -> bool:
    if WILD.search(pattern) or (pattern.endswith(name.rpartition("/")[2]) and "/" not in name):
        return True
    hidden = any(part.startswith((".", "_")) for part in name.split("/"))
    return not hidden and (not suffixes or name.lower().endswith(suffixes))


def _endings(suffixes: tuple[str, ...]) -> str:
    plain = [suffix for suffix in suffixes if not any(suffix.startswith(f"{other}.") for other in suffixes)]
    return ", ".join(plain) + (", packed or not," if len(plain) < len(suffixes) else "")


def _find_local(path: str) -> Iterator[FoundFile]:
    if os.path.isfile(path):
        yield _local_file(os.path.basename(path), path)
        return
    root = path if os.path.isdir(path) else _literal_folder(path)
    matched = _walk(path) if os.path.isdir(path) else glob.glob(path, recursive=True, include_hidden=True)
    for location in matched:
        if os.path.isfile(location):
            yield _local_file(os.path.relpath(location, root).replace(os.sep, "/"), location)


def _local_file(name: str, location: str) -> FoundFile:
    facts = os.stat(location)
    return FoundFile(name, location, facts.st_size, stamp=local_stamp(facts))


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
                yield FoundFile(name, location, facts.get("size") or 0, _checksum(scheme, facts), _stamp(facts))


def _checksum(scheme: str, facts: Mapping[str, Any]) -> str:
    etag = str(facts.get("ETag") or "").strip()
    if scheme == "memory" or not etag or etag.startswith("W/") or facts.get("size") is None:
        return ""
    return f"{scheme.removesuffix('s') if scheme == 'https' else scheme} etag {etag.strip(chr(34))}"


def _stamp(facts: Mapping[str, Any]) -> str:
    """What a store says that changes when an object is written: its ETag, else a date."""
    told = ("ETag", "LastModified", "Last-Modified")  # as s3fs and HTTP name it
    return next((f"{key} {facts[key]}" for key in told if facts.get(key)), "")


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
        if isinstance(cause := error.__cause__, OSError) and not isinstance(cause, FileNotFoundError):  # as fsspec reports it
            raise SourceError(f"cannot reach it: {cause}", where=where, fix="is it running, and is the address right?") from error
        raise SourceError("there is no such file", where=where, fix="is it still there, and is the name right?") from error
    except PermissionError as error:
        raise SourceError(f"not allowed to read: {error}", where=where, fix="check permissions or credentials") from error
    except Exception as error:  # fsspec passes on what aiohttp, botocore and asyncio raise
        what = f"cannot read: {type(error).__name__} {error}".rstrip()
        again = "is it reachable? run the same command again to go on"
        raise SourceError(what, where, "copy it here and read the copy" if "range requests" in what else again) from error


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
            try:
                return int(self._handle.seek(offset, whence))
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
        raise ValueError(f"no byte {offset}")  # what a damaged archive asks for: a fault of the content

    def tell(self) -> int:
        return int(self._handle.tell())

    def readinto(self, buffer: Any) -> int:
        with _faults(self._where):
            n_read = int(self._handle.readinto(buffer))
        n_bytes = getattr(self._handle, "size", None)  # of a remote file, as the store said when it was opened
        if not n_read and len(buffer) and n_bytes is not None and self.tell() < n_bytes:
            what = f"the store gave {self.tell()} of {n_bytes} bytes"
            raise SourceError(what, where=self._where, fix="run the same command again to go on")
        return n_read

    def close(self) -> None:
        if not self.closed:
            self._handle.close()
        super().close()
