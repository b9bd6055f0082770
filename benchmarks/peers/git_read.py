"""Reads and hashes the blobs of a repository with pygit2, dulwich and swh.model: {path, oids} in, CPU-seconds by name out."""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
import threading


def cpu_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def check(oid: str, data: bytes) -> None:
    assert hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == oid


def with_pygit2(path: str, oids: list[str]) -> None:
    import pygit2

    pygit2.option(pygit2.enums.Option.SET_OWNER_VALIDATION, False)
    database = pygit2.Repository(path).odb
    for oid in oids:
        check(oid, database.read(oid)[1])


def with_dulwich(path: str, oids: list[str]) -> None:
    from dulwich.repo import Repo

    store = Repo(path).object_store
    for oid in oids:
        check(oid, store.get_raw(oid.encode())[1])


def with_swh_model(path: str, oids: list[str]) -> None:
    from swh.model.model import Content

    command = ["git", "-c", "safe.directory=*", "-C", path, "cat-file", "--batch", "--buffer"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as git:
        threading.Thread(target=lambda: (git.stdin.write("\n".join([*oids, ""]).encode()), git.stdin.close())).start()
        for oid in oids:
            size = int(git.stdout.readline().split()[2])
            assert str(Content.from_data(git.stdout.read(size)).swhid()) == f"swh:1:cnt:{oid}"
            git.stdout.read(1)


def main() -> None:
    asked = json.load(sys.stdin)
    spent = {}
    for name, read in {"pygit2": with_pygit2, "dulwich": with_dulwich, "swh.model": with_swh_model}.items():
        read(asked["path"], asked["oids"][:1])  # imports
        before = cpu_seconds()
        read(asked["path"], asked["oids"])
        spent[name] = cpu_seconds() - before
    json.dump(spent, sys.stdout)


if __name__ == "__main__":
    main()
