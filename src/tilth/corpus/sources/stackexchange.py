"""StackExchange data dumps (Posts.xml, plain, packed or in a .7z): a question with its answers is one row.

The text is RedPajama-V1's (`Q: ...`, then `A: ...` by score), but scores are compared as numbers; RedPajama compared them
as strings. Answers are brought to their questions by sorting on disk, so that a dump may be larger than memory.
"""

from __future__ import annotations

import json
import marshal
import os
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, NamedTuple

from tilth.corpus.attempts import MAX_SECONDS, Pending, finished
from tilth.corpus.external_sort import ExternalSort, Record
from tilth.corpus.extract.post_html import TOOL
from tilth.corpus.file_source import FileSource
from tilth.corpus.formats.compressed import UnpackLimits, unpack
from tilth.corpus.formats.seven_zip import ArchiveRefusedError, list_members, read_member
from tilth.corpus.formats.xml_stream import XmlDamage, XmlElement, XmlReader, XmlRecords, read_xml
from tilth.corpus.locations import FoundFile, find_files, open_raw
from tilth.corpus.provenance.spdx_expressions import UNKNOWN
from tilth.corpus.provenance.swhid import content_swhid
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
POSTS_TO_TEXT = "tilth.corpus.extract.post_html:posts_to_text"


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
class StackExchange(FileSource):
    """Questions with their answers, from the dumps of one site or of many.

    `path` is a Posts.xml (plain or as gz, bz2, xz, zst, lz4), a .7z of a site, a folder that holds such files
    anywhere, a glob pattern or a URL. `site` ("coffee.stackexchange.com") makes the addresses; by default the
    name of the file or of its folder says it. `min_score` only adds how many answers reach it to `meta`. Licences are
    what each post says, else what held at its date; `licence` is an SPDX expression declared for all instead.
    Names of authors are taken from Users.xml where that lies beside.
    """

    site: str | None = None
    min_score: int | None = None
    max_seconds: float = MAX_SECONDS

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("py7zr",)

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """Shards of whole sites, in the order of their paths. Raises SourceError if there is none, or no such licence."""
        return [
            replace(shard, params={**shard.params, "sites": [self.site_of(unit[0]) for unit in self.units(shard.files)]})
            for shard in super().plan(digest)
        ]

    def files(self) -> list[FoundFile]:
        """The files with posts (in a folder those of that name, else what was asked for), each with its users behind it."""
        found = find_files(self.path, self.where)
        posts = [file for file in found if POSTS_FILE.fullmatch(file.location.rpartition("/")[2])]
        if not posts and len(found) > 1:
            fix = "give a Posts.xml, a site's .7z, or a folder that holds such files"
            raise SourceError("no Posts.xml and no .7z of a site is there", f"{self.where}: {self.path}", fix)
        return [one for file in posts or found for one in (file, *_users_beside(file))]

    def units(self, files: Sequence[FoundFile]) -> list[list[FoundFile]]:
        """The posts of a site and its users."""
        units: list[list[FoundFile]] = []
        for file in files:
            if units and file.location == _users_of(units[-1][0].location):
                units[-1].append(file)
            else:
                units.append([file])
        return units

    def params(self) -> dict[str, Any]:
        """The limits; whose site it is depends on the file."""
        return {"min_score": self.min_score, "max_seconds": self.max_seconds}

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """A row for every question, a reject for every post that is in none. Raises SourceError if unreadable."""
        with ExternalSort(SORT_BYTES) as posts, closing(sqlite3.connect("")) as names:
            reading = _Reading(self, unit, shard.params["licence"], posts, names)
            yield from finished(reading.rows(), POSTS_TO_TEXT, self.max_seconds)

    def site_of(self, file: FoundFile) -> str | None:
        """The site of a file with posts, if the recipe or its path says it."""
        return self.site or _site_of(file.location)


class _Reading:
    """One site while it is read: first all posts are sorted by question, then each group becomes a row."""

    def __init__(
        self, source: StackExchange, unit: list[FoundFile], licence: str | None, posts: ExternalSort, names: sqlite3.Connection
    ) -> None:
        self.name, self.min_score, self.licence = source.name, source.min_score, licence
        self.site = source.site_of(unit[0])
        self.locations = [file.location for file in unit]
        self.archive = printable(unit[0].name)
        self.posts = posts
        self.names = names  # a private database that goes to disk when it grows
        self.names.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")

    def rows(self) -> Iterator[Document | Reject | Pending]:
        yield from self._read_7z() if self.locations[0].endswith(".7z") else self._read_xml()
        for question, records in groupby(self.posts, key=lambda record: record[0][0]):
            yield from self._group(question, records)

    def _read_xml(self) -> Iterator[Reject]:
        takers = ((POSTS, self._take_post), (USERS, self._take_user))
        for location, (wanted, take) in zip(self.locations, takers, strict=False):
            with open_raw(location) as file:
                for found in read_xml(unpack(file, limits=LIMITS), wanted):
                    if (reject := take(found)) is not None:
                        yield reject

    def _read_7z(self) -> Iterator[Reject]:
        with open_raw(self.locations[0]) as file:
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

    def _group(self, question_id: int, records: Iterator[Record]) -> Iterator[Pending | Reject]:
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
            bodies = [post.body for post in (question, *answers)]
            location = f"{self.archive}@{question.offset} post {question.id}"
            yield Pending(location, (bodies,), sum(map(len, bodies)), partial(self._row, location, question, answers))

    def _row(self, location: str, question: Post, answers: list[Post], bodies: list[str]) -> Document | Reject:
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
        if self.min_score is not None:
            meta["min_score"] = str(self.min_score)
            meta["n_answers_min_score"] = str(sum(post.score >= self.min_score for post in answers))
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
        if declared := self.licence:
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


def _users_of(location: str) -> str:
    """Where the users of a file of posts would lie; empty if they are in it."""
    folder, slash, name = location.rpartition("/")
    return f"{folder}{slash}Users{name.removeprefix('Posts')}" if name.startswith("Posts.xml") else ""


def _users_beside(posts: FoundFile) -> list[FoundFile]:
    if not (location := _users_of(posts.location)):
        return []
    try:
        (users,) = find_files(location, "users")
    except SourceError:  # there is none
        return []
    return [replace(users, name=_users_of(posts.name))]


def _site_of(location: str) -> str | None:
    if "://" not in location:
        location = os.path.abspath(location)
    *_, folder, name = ["", *location.split("/")]
    match = SITE.match(name) or SITE.match(folder)
    return match[1] if match else None
