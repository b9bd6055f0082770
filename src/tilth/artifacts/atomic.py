"""Writing so that a reader sees the old or the new, never a half; and saying in words what a full disk means."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from tilth.errors import StoreError


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn a full disk, a read-only folder or a quota into a StoreError that says what to do."""
    try:
        yield
    except OSError as error:
        # Arrow raises OSError without errno but with the words.
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left" in str(error):
            raise StoreError(
                "the disk is full; nothing that was finished is lost",
                where=str(where),
                fix="Free some space (`df -h` shows where) and run the same command again: it continues.",
            ) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise StoreError(
                "the store cannot be written", where=str(where), fix="Check the folder's owner and permissions."
            ) from error
        raise


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write, piece by piece, that replaces `path` at the end; a crash at any moment leaves the old or the new."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    with disk_errors(path):
        try:
            with open(partial, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Replace `path` by `data`; a crash at any moment leaves the old or the new."""
    with written_atomically(path) as file:
        file.write(data)


def link_atomically(link: Path, target: str) -> None:
    """Make `link` a symbolic link to `target`, replacing whatever link was there."""
    partial = link.with_name(f".{link.name}.{uuid.uuid4().hex}")
    with disk_errors(link):
        os.symlink(target, partial)
        os.replace(partial, link)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` between processes; the kernel drops it when the holder dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with disk_errors(path), open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)


def is_locked(path: Path) -> bool:
    """True while another process (or another open file of this one) holds the lock."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def sync_folder(folder: Path) -> None:
    """Ask the disk to keep the entries of `folder`."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
