"""A reader of a file that is replaced sees the old or the new."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tilth.artifacts.atomic import is_locked, link_atomically, locked, write_atomically
from tilth.errors import StoreError


def test_readers_never_see_a_half(tmp_path: Path) -> None:
    path, seen = tmp_path / "file", set()
    write_atomically(path, b"a" * 100_000)
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            seen.add(path.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    for letter in (b"b", b"c", b"d"):
        write_atomically(path, letter * 100_000)
    done.set()
    reader.join()
    assert all(len(data) == 100_000 and len(set(data)) == 1 for data in seen)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_a_link_is_switched(tmp_path: Path) -> None:
    for target in ("one", "two"):
        (tmp_path / target).write_text(target)
        link_atomically(tmp_path / "link", target)
        assert (tmp_path / "link").read_text() == target


def test_a_lock_is_seen_and_dropped(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_locked(path)
    with locked(path):
        assert is_locked(path)
    assert not is_locked(path)


def test_a_folder_that_refuses_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((StoreError, NotADirectoryError)):
        write_atomically(tmp_path / "file" / "below", b"x")
