"""Which contents a person brought into a git repository, by the e-mail address of the commits."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from tilth.corpus.optout.subjects import Wanted
from tilth.corpus.provenance.git_process import GitProcess
from tilth.errors import SourceError


class Authored(NamedTuple):
    """SWHIDs of the commits by the addresses asked for, and of the contents that these commits added."""

    revisions: set[str]
    contents: set[str]


def authored_by(repository: str, wanted: Wanted) -> Authored:
    """What HEAD's history has by the addresses of `wanted`, as author or committer. Raises SourceError where git fails."""
    found = Authored(set(), set())
    is_asked = False
    for line in _log(repository):
        if line.startswith(b"\x01"):
            commit, author, committer = line[1:].decode("utf-8", "replace").split("\x02")
            is_asked = wanted.email((author, committer))
            if is_asked:
                found.revisions.add(f"swh:1:rev:{commit}")
        elif is_asked and line.startswith(b":"):
            found.contents.add(f"swh:1:cnt:{line.split()[3].decode()}")
    return found


def _log(repository: str) -> Iterator[bytes]:
    shown = ["--raw", "--root", "--no-renames", "--no-abbrev", "--format=%x01%H%x02%ae%x02%ce"]
    words = ["git", "-C", repository, "log", "HEAD", *shown]
    environment = GitProcess(repository, repository).env
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        for line in process.stdout or ():
            yield line.rstrip(b"\n")
        said = process.stderr.read().decode("utf-8", "replace") if process.stderr else ""
    if process.returncode:
        raise SourceError("git cannot tell who wrote what", repository, said.strip()[:200] or "Look with `git log`.")
