"""StackExchange data dumps (Posts.xml, plain, packed or in a .7z): a question with its answers is one row.

The text is RedPajama-V1's (`Q: ...`, then `A: ...` by score), but scores are compared as numbers; RedPajama compared them
as strings. Answers are brought to their questions by sorting on disk, so that a dump may be larger than memory.
"""

from __future__ import annotations

import hashlib
import json
import marshal
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, ClassVar, NamedTuple

from tilth.corpus.external_sort import ExternalSort, Record
from tilth.corpus.extract.post_html import TOOL, post_to_text
from tilth.corpus.formats.compressed import UnpackLimits, unpack
from tilth.corpus.formats.seven_zip import ArchiveRefusedError, list_members, read_member
from tilth.corpus.formats.xml_stream import XmlDamage, XmlElement, XmlReader, XmlRecords, read_xml
from tilth.corpus.locations import FoundFile, find_files, fingerprint_of, open_raw
from tilth.corpus.provenance.licences import UNKNOWN, declared_licence
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.reading import share
from tilth.corpus.records import Document, LicenceClaim, Occurrence, Reject, Shard, document_id, fingerprint, printable, screen
from tilth.corpus.registry import source
from tilth.errors import SourceError

POSTS = XmlRecords("posts", frozenset({"row"}), restart="row")
USERS = XmlRecords("users", frozenset({"row"}), restart="row")
LIMITS = UnpackLimits()
QUESTION, ANSWER = "1", "2"
MAX_QUESTION_CHARS = 64 << 20  # of a question and its answers together, as HTML
SITE = re.compile(r"((?:[a-z0-9-]+\.)+(?:com|net|org))(?:-Posts)?(?:\.(?:7z|xml).*)?$")
LICENCE = re.compile(r"CC BY-SA ([2-4]\.[05])")
SORT_BYTES = 128 << 20


class Post(NamedTuple):
    """What is kept of a row: numbers as they were written, the body as HTML."""

    id: int
    score: int
    body: str
    title: str
    tags: str
    author: str
    author_id: str
    date: str
    licence: str
    accepted: str
    offset: int


@source
@dataclass(frozen=True)
class StackExchange:
    """Questions with their answers, from the dumps of one site or of many.

    `path` is a Posts.xml (plain or as gz, bz2, xz, zst, lz4), a .7z of a site, a folder that holds such files
    anywhere, a glob pattern or a URL. `site` ("coffee.stackexchange.com") makes the addresses; by default the
    name of the file or of its folder says it. `min_score` only adds how many answers reach it to `meta`. Licences are
    what each post says, else what held at its date; `licence` is an SPDX expression declared for all instead.
    Names of authors are taken from Users.xml where that lies beside.
    """

    name: str
    path: str
    site: str | None = None
    min_score: int | None = None
    licence: str | None = None
    max_bytes: int | None = None

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("py7zr",)

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """One shard a site, in the order of their paths. Raises SourceError if there is none, or no such licence."""
        files = _find(self.path, f"StackExchange {self.name}")
        caps = share(self.max_bytes, [file.size_bytes for file in files])
        return [
            Shard(f"{self.name}/{i:05d}", self.name, _digest(file, digest), self._params(file, cap), file.location)
            for i, (file, cap) in enumerate(zip(files, caps, strict=True))
        ]

    def _params(self, file: FoundFile, cap: int | None) -> dict[str, object]:
        return {
            "archive": printable(file.name), "site": self.site or _site_of(file.location), "min_score": self.min_score,
            "max_bytes": cap, "licence": declared_licence(self.licence, where=f"StackExchange {self.name}"),
        }  # fmt: skip

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """Yield a row for every question, a reject for every post that is in none. Raises SourceError if unreadable."""
        with ExternalSort(SORT_BYTES) as posts:
            yield from _Reading(self.name, shard, posts).rows()


class _Reading:
    """One site while it is read: first all posts are sorted by question, then each group becomes a row."""

    def __init__(self, name: str, shard: Shard, posts: ExternalSort) -> None:
        self.name, self.params, self.location = name, shard.params, shard.location
        self.archive: str = shard.params["archive"]
        self.site: str | None = shard.params["site"]
        self.posts = posts
        self.names = sqlite3.connect("")  # a private database that goes to disk when it grows
        self.names.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")

    def rows(self) -> Iterator[Document | Reject]:
        try:
            yield from self._read_7z() if self.location.endswith(".7z") else self._read_xml()
            for question, records in groupby(self.posts, key=lambda record: record[0][0]):
                yield from self._group(question, records)
        finally:
            self.names.close()

    def _read_xml(self) -> Iterator[Reject]:
        users = _users_beside(self.location)
        for location, wanted, take in (
            (self.location, POSTS, self._take_post), (users.location if users else None, USERS, self._take_user),
        ):  # fmt: skip
            if location is not None:
                with open_raw(location) as file:
                    for found in read_xml(unpack(file, limits=LIMITS), wanted):
                        if (reject := take(found)) is not None:
                            yield reject

    def _read_7z(self) -> Iterator[Reject]:
        with open_raw(self.location) as file:
            try:
                members = list_members(file)
            except ArchiveRefusedError as error:
                yield Reject(self.archive, error.reason, error.detail)
                return
            yield from (Reject(f"{self.archive}:{one.name}", "path_traversal", "not read") for one in members if one.unsafe)
            safe = [one.name for one in members if not one.unsafe]
            posts = [name for name in safe if name.rpartition("/")[2] == "Posts.xml"]
            users = [name for name in safe if name.rpartition("/")[2] == "Users.xml"]
            if not posts:
                yield Reject(self.archive, "empty", "no Posts.xml in the archive")
            for name in posts[:1]:
                yield from self._read_member(file, name, POSTS, self._take_post)
            for name in users[:1]:
                yield from self._read_member(file, name, USERS, self._take_user)
            yield from (Reject(f"{self.archive}:{name}", "duplicate_member", "not read") for name in [*posts[1:], *users[1:]])

    def _read_member(self, file: BinaryIO, name: str, wanted: XmlRecords, take: Take) -> Iterator[Reject]:
        reader, rejects = XmlReader(wanted), list[Reject]()

        def push(found: Iterable[XmlElement | XmlDamage]) -> None:
            rejects.extend(reject for one in found if (reject := take(one)) is not None)

        problem: ArchiveRefusedError | None = None
        try:
            read_member(file, name, lambda data: push(reader.feed(data)), LIMITS.max_ratio)
        except ArchiveRefusedError as error:
            problem = error
        push(reader.close())
        yield from rejects
        if problem is not None:
            yield Reject(f"{self.archive}:{name}", problem.reason, problem.detail)

    def _take_user(self, found: XmlElement | XmlDamage) -> Reject | None:
        if isinstance(found, XmlDamage):
            return self._damage(found, "Users.xml: ")
        user, name = found.attributes.get("Id", ""), found.attributes.get("DisplayName")
        if name and re.fullmatch(r"-?[0-9]{1,18}", user):
            self.names.execute("INSERT OR IGNORE INTO users VALUES (?, ?)", (int(user), name.encode("utf-8", "replace").decode()))
        return None

    def _take_post(self, found: XmlElement | XmlDamage) -> Reject | None:
        if isinstance(found, XmlDamage):
            return self._damage(found)
        row = found.attributes
        kind, shown = row.get("PostTypeId"), row.get("Id", "?")[:20]
        if kind not in (QUESTION, ANSWER):
            return self._reject(found.offset, shown, "not_question_or_answer", f"PostTypeId {kind}")
        if "Body" not in row or "DeletionDate" in row:
            return self._reject(found.offset, shown, "deleted", row.get("DeletionDate", "no body"))
        try:
            post = _post(row, found.offset)
            question = post.id if kind == QUESTION else _number(row.get("ParentId", ""), "ParentId")
        except ValueError as error:
            return self._reject(found.offset, shown, "bad_row", str(error))
        self.posts.add((question, int(kind == ANSWER), post.id), marshal.dumps(tuple(post)))
        return None

    def _damage(self, found: XmlDamage, prefix: str = "") -> Reject:
        return Reject(
            f"{self.archive}@{found.offset}", found.reason, prefix + found.detail + (" (packed)" if found.packed else "")
        )

    def _reject(self, offset: int, post: int | str, reason: str, detail: str) -> Reject:
        return Reject(f"{self.archive}@{offset} post {post}", reason, detail)

    def _group(self, question_id: int, records: Iterator[Record]) -> Iterator[Document | Reject]:
        """The question comes first, if it is there; its answers follow by id."""
        question: Post | None = None
        answers: list[Post] = []
        seen: tuple[int, int] | None = None
        n_chars = 0
        for (_, is_answer, post_id), payload in records:
            post = Post(*marshal.loads(payload))
            n_chars += len(post.body)
            if (is_answer, post_id) == seen:
                yield self._reject(post.offset, post_id, "duplicate_id", "a post with this id came before")
            elif not is_answer:
                question = post
            elif question is None:
                yield self._reject(post.offset, post_id, "no_question", f"an answer to {question_id}, which is not here")
            elif n_chars <= MAX_QUESTION_CHARS:
                answers.append(post)
            else:
                yield self._reject(
                    post.offset, post_id, "too_large", f"more than {MAX_QUESTION_CHARS} characters on {question_id}"
                )
            seen = is_answer, post_id
        if question is not None:
            answers.sort(key=lambda post: (-post.score, str(post.id) != question.accepted, post.id))
            yield self._row(question, answers)

    def _row(self, question: Post, answers: list[Post]) -> Document | Reject:
        location = f"{self.archive}@{question.offset} post {question.id}"
        bodies = [post_to_text(post.body) for post in (question, *answers)]
        if unfit := screen("".join(bodies)):
            return Reject(location, *unfit)
        asked = f"{question.title}\n\n{bodies[0]}".strip()
        text = "\n\n".join([f"Q: {asked}", *(f"A: {body}" for body in bodies[1:])])
        try:
            raw_swhid = content_swhid("\n".join(post.body for post in (question, *answers)).encode())
        except UnicodeEncodeError as error:
            return Reject(location, "decode", str(error))
        url = f"https://{self.site}/questions/{question.id}" if self.site else None
        record_id = f"post {question.id}"
        occurrence = Occurrence(
            "stackexchange",
            self.archive,
            url or record_id,
            record_id=record_id,
            offset=question.offset,
            date=question.date or None,
        )
        return Document(
            doc_id=document_id("stackexchange", self.name, self.archive, str(question.id), raw_swhid),
            text=text, raw_swhid=raw_swhid, encoding="utf-8", extraction=TOOL,
            occurrences=[occurrence],
            url=url, meta=self._meta(question, answers), licences=self._claims([question, *answers], url or record_id),
        )  # fmt: skip

    def _meta(self, question: Post, answers: list[Post]) -> dict[str, str]:
        accepted = [i for i, post in enumerate(answers) if str(post.id) == question.accepted]
        meta = {
            "title": question.title, "tags": ", ".join(re.findall(r"[^<>|\s]+", question.tags)), "question_id": str(question.id),
            "score": str(question.score), "n_answers": str(len(answers)),
            "answer_scores": ", ".join(str(post.score) for post in answers),
            "accepted_answer": str(accepted[0] + 1) if accepted else "",
            "authors": json.dumps([self._author(post) for post in (question, *answers)], ensure_ascii=False),
            "site": self.site or "",
        }  # fmt: skip
        least = self.params["min_score"]
        if least is not None:
            meta["min_score"] = str(least)
            meta["n_answers_min_score"] = str(sum(post.score >= least for post in answers))
        return {key: value for key, value in meta.items() if value}

    def _author(self, post: Post) -> str:
        if post.author:
            return post.author
        if re.fullmatch(r"-?[0-9]{1,18}", post.author_id):
            found = self.names.execute("SELECT name FROM users WHERE id = ?", (int(post.author_id),)).fetchone()
            return str(found[0]) if found else f"user {post.author_id}"
        return "unknown"  # deleted with the account

    def _claims(self, posts: list[Post], path: str) -> list[LicenceClaim]:
        """A claim for each licence among the posts; the newest is in force, for the older ones allow to pass on under it."""
        if declared := self.params["licence"]:
            return [LicenceClaim(self.archive, path, declared, "declared", "", None, "recipe", 1.0, effective=True)]
        found: dict[str, tuple[list[str], str]] = {}
        for post in posts:
            spdx, tool = _licence(post)
            found.setdefault(spdx, ([], tool))[0].append(str(post.id))
        newest = max(found)
        return [
            LicenceClaim(
                self.archive, path, spdx, "declared", f"posts {', '.join(ids[:20])}{', ...' * (len(ids) > 20)}", None, tool,
                1.0 if tool == BY_POST else 0.9, effective=spdx == newest,
            )
            for spdx, (ids, tool) in sorted(found.items())
        ]  # fmt: skip


POSTS_FILE = re.compile(r"Posts\.xml(?:\.(?:gz|bz2|xz|zst|lz4))?|[^-]+(?:-Posts)?\.7z|(?:[a-z0-9-]+\.)+[a-z]{3}(?:-Posts)?\.7z")
Take = Callable[[XmlElement | XmlDamage], Reject | None]
BY_POST, BY_DATE = "ContentLicense", "CreationDate"


def _licence(post: Post) -> tuple[str, str]:
    """(SPDX, tool): what the post says; else what the site's terms were at its date (stackoverflow.com/help/licensing)."""
    if match := LICENCE.fullmatch(post.licence.strip()):
        return f"CC-BY-SA-{match[1]}", BY_POST
    if post.licence.strip():
        return UNKNOWN, BY_POST
    version = "2.5" if post.date < "2011-04-08" else "3.0" if post.date < "2018-05-02" else "4.0"
    return f"CC-BY-SA-{version}", BY_DATE


def _number(text: str, name: str, signed: bool = False) -> int:
    if not re.fullmatch(r"-?[0-9]{1,18}", text) or (text.startswith("-") and not signed):
        raise ValueError(f"{name} is no number: {text[:40]!r}")
    return int(text)


def _post(row: dict[str, str], offset: int) -> Post:
    """Raises ValueError where a number is none."""
    return Post(
        _number(row.get("Id", ""), "Id"), _number(row.get("Score", "0"), "Score", signed=True), row["Body"],
        row.get("Title", ""), row.get("Tags", ""), row.get("OwnerDisplayName", ""), row.get("OwnerUserId", ""),
        row.get("CreationDate", ""), row.get("ContentLicense", ""), row.get("AcceptedAnswerId", ""), offset,
    )  # fmt: skip


def _find(pattern: str, where: str) -> list[FoundFile]:
    """The files with posts: in a folder those of that name, else what was asked for."""
    found = find_files(pattern, where)
    posts = [file for file in found if POSTS_FILE.fullmatch(file.location.rpartition("/")[2])]
    if len(found) == 1 and not posts:
        return found
    if not posts:
        fix = "give a Posts.xml, a site's .7z, or a folder that holds such files"
        raise SourceError("no Posts.xml and no .7z of a site is there", f"{where}: {pattern}", fix)
    return posts


def _digest(file: FoundFile, digest: Callable[[Path], str]) -> str:
    users = _users_beside(file.location)
    if users is None:
        return fingerprint_of(file, digest)
    return hashlib.sha256(f"{fingerprint_of(file, digest)}\n{fingerprint_of(users, digest)}\n".encode()).hexdigest()


def _users_beside(location: str) -> FoundFile | None:
    folder, slash, name = location.rpartition("/")
    if not name.startswith("Posts.xml"):
        return None
    try:
        return find_files(f"{folder}{slash}Users{name.removeprefix('Posts')}", "users")[0]
    except SourceError:  # there is none
        return None


def _site_of(location: str) -> str | None:
    if "://" not in location:
        location = os.path.abspath(location)
    *_, folder, name = ["", *location.split("/")]
    match = SITE.match(name) or SITE.match(folder)
    return match[1] if match else None
