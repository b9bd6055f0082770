"""Hand-made archives and repositories that the tests of this room share."""

from __future__ import annotations

import gzip
import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa
import pytest

from tilth.contracts import DOCUMENTS, LICENCES, OCCURRENCES, REJECTS, check
from tilth.corpus.batches import ShardBatch
from tilth.corpus.reading import read_shard
from tilth.corpus.records import Source

PAGE = "<html lang='en'><head><title>A page</title></head><body><p>{}</p></body></html>"


@pytest.fixture
def warc_record() -> Callable[..., bytes]:
    """Writes one WARC record as bytes."""

    def write(block: bytes, kind: str = "response", number: int = 0, length: int | None = None, **more: str) -> bytes:
        fields = {
            "WARC-Type": kind, "WARC-Record-ID": f"<urn:uuid:00000000-0000-0000-0000-{number:012d}>",
            "WARC-Date": "2024-05-06T07:08:09Z", "WARC-Target-URI": f"http://example.org/{number}",
            "Content-Type": "application/http; msgtype=response" if kind == "response" else "text/plain",
            "Content-Length": str(len(block) if length is None else length),
            **{name.replace("_", "-"): value for name, value in more.items()},
        }  # fmt: skip
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return b"WARC/1.0\r\n" + head.encode() + b"\r\n" + block + b"\r\n\r\n"

    return write


@pytest.fixture
def http_response() -> Callable[..., bytes]:
    """Writes an HTTP response as bytes."""

    def write(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
        fields = {
            "Content-Type": "text/html; charset=utf-8",
            **{name.replace("_", "-"): value for name, value in headers.items()},
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body

    return write


@pytest.fixture
def pages(warc_record: Callable[..., bytes], http_response: Callable[..., bytes]) -> Callable[[int], list[bytes]]:
    """Makes n records of plain pages that say which page they are."""

    def make(n: int) -> list[bytes]:
        bodies = [PAGE.format(f"This is page number {i}. " * 5).encode() for i in range(n)]
        return [warc_record(http_response(body), number=i) for i, body in enumerate(bodies)]

    return make


@pytest.fixture
def members() -> Callable[[Iterable[bytes]], bytes]:
    """Compresses each record on its own, as archives do."""
    return lambda records: b"".join(gzip.compress(record, mtime=0) for record in records)


class Rows:
    """All rows of a source, after every batch was held to its contract."""

    def __init__(self, parts: list[ShardBatch]) -> None:
        for part in parts:
            for batch, contract in zip(part, (DOCUMENTS, OCCURRENCES, LICENCES, REJECTS), strict=True):
                check(batch, contract)
        self.batches = parts
        self.documents, self.occurrences, self.licences, self.rejects = (
            pa.Table.from_batches(list(batches)).to_pylist() for batches in zip(*parts, strict=True)
        )

    @property
    def texts(self) -> list[str]:
        return [row["text"] for row in self.documents]

    @property
    def reasons(self) -> list[str]:
        return [row["reason"] for row in self.rejects]


@pytest.fixture
def rows() -> Callable[[Source], Rows]:
    """Reads all shards of a source."""

    def read(source: Source) -> Rows:
        return Rows([batch for shard in source.plan() for batch in read_shard(source, shard)])

    return read


class Repository:
    """A repository made by git itself, with fixed names and dates."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")

    def git(self, *args: str, data: bytes = b"") -> str:
        env = {
            "PATH": os.environ["PATH"], "HOME": str(self.path), "GIT_CONFIG_NOSYSTEM": "1", "GIT_AUTHOR_NAME": "A"
            , "GIT_AUTHOR_EMAIL": "a@example.org",
            "GIT_COMMITTER_NAME": "C", "GIT_COMMITTER_EMAIL": "c@example.org", "GIT_AUTHOR_DATE": "2024-01-02T03:04:05Z",
            "GIT_COMMITTER_DATE": "2024-01-02T03:04:05Z",
        }  # fmt: skip
        command = ["git", "-c", "safe.directory=*", "-C", str(self.path), *args]
        done = subprocess.run(command, env=env, input=data, capture_output=True, check=True)
        return done.stdout.decode("utf-8", "surrogateescape").strip()

    def write(self, path: str, data: bytes | str) -> None:
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data.encode() if isinstance(data, str) else data)

    def commit(self, message: str = "change") -> str:
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")


class Clone(Repository):
    """A repository that is there already."""

    def __init__(self, path: Path) -> None:
        self.path = path


@pytest.fixture
def clone() -> Callable[[str], Clone]:
    """The clone of `owner/name` below TILTH_TEST_REPOSITORIES (`owner/name` or `owner+name/repo`); skips where there is none."""

    def find(name: str) -> Clone:
        root = os.environ.get("TILTH_TEST_REPOSITORIES")
        if not root:
            pytest.skip("TILTH_TEST_REPOSITORIES names no folder of clones")
        for path in (Path(root, name), Path(root, name.replace("/", "+"), "repo")):
            if path.exists():
                return Clone(path)
        return pytest.skip(f"there is no clone of {name}")

    return find


@pytest.fixture
def repo(tmp_path: Path) -> Repository:
    """An empty repository named `project`."""
    return Repository(tmp_path / "project")


@pytest.fixture
def every_object(repo: Repository) -> Repository:
    """A repository with every kind of object: modes, names and headers of all sorts, merges, tags of everything."""
    for name in ("a/x", "a.txt", "ab/x", "a-b/x", "a0", "b c", "é", "run.sh", "A.txt", "deep/er/and/deeper/still"):
        repo.write(name, name)
    (repo.path / "run.sh").chmod(0o755)
    (repo.path / "link").symlink_to("run.sh")
    (repo.path / "nowhere").symlink_to(b"caf\xe9")
    with open(os.fsencode(repo.path) + b"/caf\xe9.txt", "wb") as file:
        file.write(b"latin")
    (repo.path / "module").mkdir()
    repo.git("update-index", "--add", "--cacheinfo", "160000", "1" * 40, "module")
    first = repo.commit("first\n\nwith a body\n")
    repo.git("checkout", "-q", "-b", "side")
    repo.write("side.py", "side = 1\n")
    side = repo.commit("side")
    repo.git("tag", "-a", "v1", "-m", "a tag", first)
    repo.git("tag", "-a", "v1-again", "-m", "a tag of a tag", "v1")
    repo.git("tag", "-a", "tree", "-m", "a tag of a tree", "HEAD^{tree}")
    repo.git("tag", "-a", "blob", "-m", "a tag of a blob", "HEAD:side.py")
    repo.git("tag", "light")
    repo.git("checkout", "-q", "main")
    repo.write("main.py", "main = 1\n")
    repo.commit()
    repo.git("merge", "-q", "--no-edit", "side")
    tree, parent = repo.git("rev-parse", "HEAD^{tree}"), repo.git("rev-parse", "HEAD")
    empty = repo.git("hash-object", "-t", "tree", "-w", "--stdin")
    who = "A \u00c9 <a@example.org> 1700000000"
    signature = "gpgsig -----BEGIN PGP SIGNATURE-----\n \n iQEz\n =abcd\n -----END PGP SIGNATURE-----\n"
    mergetag = f"mergetag object {side}\n type commit\n tag v2\n tagger {who} +0000\n \n merged\n"
    odd = [
        f"tree {tree}\nparent {parent}\nparent {side}\nauthor {who} -0000\ncommitter {who} +1400\n{mergetag}{signature}\nsigned\n",
        f"tree {empty}\nparent {parent}\nauthor {who} +0530\ncommitter {who} -0730\nencoding ISO-8859-1\n\nempty tree",
        f"tree {tree}\nauthor {who} +0000\ncommitter {who} +0000\n\n",
        f"tree {tree}\nauthor {who} +0000\ncommitter {who} +0000\n",
    ]
    for i, body in enumerate(odd):
        oid = repo.git("hash-object", "-t", "commit", "-w", "--literally", "--stdin", data=body.encode("latin-1"))
        repo.git("update-ref", f"refs/heads/odd-{i}", oid)
    old_tag = f"object {first}\ntype commit\ntag old\n\nwithout a tagger\n"
    repo.git("update-ref", "refs/tags/old", repo.git("hash-object", "-t", "tag", "-w", "--stdin", data=old_tag.encode()))
    return repo
