"""One line of GHArchive to an event of an issue or a pull request, in the formats since 2015 and before.

Since 2015 `actor` and `repo` are objects and the payload holds the issue or the pull request as it was then; before, `actor` is
a login, `repository` an object with an `owner`, and the payload of an issue's event has its number but no text
(gharchive.org; docs.github.com, "GitHub event types").
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from tilth.corpus.provenance.swhid import object_id

ISSUE, PULL, COMMENT, REVIEW, REVIEW_COMMENT = "issue", "pull", "comment", "review", "review_comment"
KINDS = {
    "IssuesEvent": ISSUE,
    "PullRequestEvent": PULL,
    "IssueCommentEvent": COMMENT,
    "PullRequestReviewEvent": REVIEW,
    "PullRequestReviewCommentEvent": REVIEW_COMMENT,
}
STATES = (ISSUE, PULL)  # kinds of events that say what became of a thread; the others are somebody's words
UNFIT = re.compile("[\0\ud800-\udfff]")  # what no text may hold: NUL, halves of surrogate pairs
REPOSITORY = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
NUMBER_IN_URL = re.compile(r"/(?:issues|pulls?)/([0-9]{1,18})(?![0-9])")
SHA = re.compile(r"[0-9a-f]{40}")
NEW_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
OLD_DATE = "%Y/%m/%d %H:%M:%S %z"  # of 2011 and 2012
MAX_NUMBER = (1 << 63) - 1


class Thread(NamedTuple):
    """The issue or pull request as an event's payload shows it; None where it does not say."""

    title: str | None
    body: str | None
    opener: str | None
    is_opened_by_bot: bool
    opened: str | None
    base: str | None  # commits of a pull request: 40 hexadecimal digits
    head: str | None
    is_merged: bool
    licence: str | None  # GitHub's word for the licence of the repository, an SPDX id


class Item(NamedTuple):
    """A comment, a review, or a comment on lines of a diff."""

    id: str
    text: str
    date: str
    state: str | None = None  # of a review
    review_id: str | None = None
    reply_to: str | None = None
    path: str | None = None
    line: str | None = None  # of the diff hunk
    hunk: str | None = None


class Event(NamedTuple):
    """Something that happened to a thread; texts are fit for a document, `is_mended` tells that U+FFFD stands for a character."""

    kind: str
    id: str
    action: str
    date: str  # UTC, ISO 8601
    seconds: int  # since 1970
    author: str  # of the words, or who did it; empty for a deleted account
    actor: str  # who did it
    is_bot: bool  # by GitHub's word for the author's account
    is_pull_request: bool
    repository: str  # owner/name
    repository_id: int
    number: int
    thread: Thread
    item: Item | None
    is_mended: bool
    line_id: bytes  # the 20 bytes of the line's SWHID


class Problem(NamedTuple):
    """Why a line is no event: a word for rejects/1."""

    reason: str
    detail: str


def read_event(line: bytes) -> Event | Problem | None:
    """The event of a line, None for one of another kind, or a problem.

    Problems are decode, invalid_json, too_deep, not_an_object, no_text (a comment before 2015) and bad_event (no number, say).
    """
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return Problem("decode", f"not UTF-8 at byte {error.start} of {len(line)}")
    except RecursionError:
        return Problem("too_deep", "nested deeper than Python's parser goes")
    except ValueError as error:
        return Problem("invalid_json", str(error)[:200])
    if not isinstance(record, dict):
        return Problem("not_an_object", f"a {type(record).__name__}")
    kind = KINDS.get(str(record.get("type")))
    if kind is None:
        return None
    try:
        return _Reading(record, kind).event(line)
    except _NoTextError as error:
        return Problem("no_text", str(error))
    except ValueError as error:
        return Problem("bad_event", str(error)[:200])


class _NoTextError(ValueError):
    """A comment of the old format."""


class _Reading:
    """The fields of one record. Everything in it may be missing or of another type."""

    def __init__(self, record: Mapping[str, Any], kind: str) -> None:
        self.record, self.kind = record, kind
        self.payload = _object(record.get("payload"))
        own = "issue" if kind in (ISSUE, COMMENT) else "pull_request"
        self.shown = _object(self.payload.get(own))
        self.is_mended = False

    def event(self, line: bytes) -> Event:
        said = _object(self.payload.get("review" if self.kind == REVIEW else "comment"))
        if self.kind not in STATES and not said:
            raise _NoTextError("the event of a comment without its text, as before 2015")
        repository = _object(self.record.get("repo")) or _object(self.record.get("repository"))
        actor, date = self._actor(), _date(self.record.get("created_at"))
        user = _object(said.get("user")) if said else {}
        author = _login(user) or actor
        thread = self._thread()
        item = self._item(said, date) if self.kind not in STATES else None
        line_id = object_id("cnt", line)
        seconds = max(0, int(datetime.fromisoformat(date).timestamp()))
        return Event(
            kind=self.kind, id=_identity(self.record.get("id")) or line_id.hex(),
            action=str(self.payload.get("action") or "").lower(), date=date, seconds=seconds,
            author=author, actor=actor, is_bot=_is_bot(user),
            is_pull_request=self.kind not in (ISSUE, COMMENT) or any(_object(self.shown.get("pull_request")).values()),
            repository=_repository_name(repository), repository_id=_number(repository.get("id"), "the repository's id"),
            number=self._thread_number(said), thread=thread, item=item, is_mended=self.is_mended, line_id=line_id,
        )  # fmt: skip

    def _actor(self) -> str:
        actor = self.record.get("actor")
        named = [_object(actor).get("login"), actor, _object(self.record.get("actor_attributes")).get("login")]
        return next((name for name in named if isinstance(name, str)), "")

    def _thread_number(self, said: Mapping[str, Any]) -> int:
        given = self.shown.get("number", self.payload.get("number"))
        if given is None:
            urls = (self.shown.get("url"), said.get("pull_request_url"), said.get("html_url"), self.record.get("url"))
            found = (NUMBER_IN_URL.search(url) for url in urls if isinstance(url, str))
            given = next((match[1] for match in found if match), None)
        return _number(given, "the number of the issue or pull request")

    def _thread(self) -> Thread:
        shown, user = self.shown, _object(self.shown.get("user"))
        base, head = _object(shown.get("base")), _object(shown.get("head"))
        licence = _object(_object(base.get("repo")).get("license")).get("spdx_id")
        opened = shown.get("created_at")
        return Thread(
            title=self._text(shown.get("title")),
            body=self._text(shown.get("body")),
            opener=_login(user),
            is_opened_by_bot=_is_bot(user),
            opened=_date(opened) if opened else None,
            base=_sha(base.get("sha")),
            head=_sha(head.get("sha")),
            is_merged=shown.get("merged") is True or bool(shown.get("merged_at")),
            licence=licence if isinstance(licence, str) else None,
        )

    def _item(self, said: Mapping[str, Any], date: str) -> Item:
        created = said.get("created_at") or said.get("submitted_at")
        line = said.get("original_position")
        return Item(
            id=str(_number(said.get("id"), "the id of the comment or review")),
            text=self._text(said.get("body")) or "",
            date=_date(created) if created else date,
            state=str(said["state"]).lower() if isinstance(said.get("state"), str) else None,
            review_id=_identity(said.get("pull_request_review_id")),
            reply_to=_identity(said.get("in_reply_to_id")),
            path=self._text(said.get("path")),
            line=str(line) if isinstance(line, int) else None,
            hunk=self._text(said.get("diff_hunk")),
        )

    def _text(self, value: Any) -> str | None:
        if not isinstance(value, str):
            return None
        fit = UNFIT.sub("\ufffd", value)
        self.is_mended |= fit != value
        return fit


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _login(user: Mapping[str, Any]) -> str | None:
    login = user.get("login")
    return login if isinstance(login, str) else None


def _is_bot(user: Mapping[str, Any]) -> bool:
    return user.get("type") == "Bot"


def _identity(value: Any) -> str | None:
    """An id as digits; None where there is none."""
    return str(value) if re.fullmatch(r"[0-9]{1,19}", str(value)) else None


def _number(value: Any, what: str) -> int:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_NUMBER:
        raise ValueError(f"{what} is {'not there' if value is None else 'no number'}")
    return value


def _sha(value: Any) -> str | None:
    return value if isinstance(value, str) and SHA.fullmatch(value) else None


def _repository_name(repository: Mapping[str, Any]) -> str:
    name, owner = repository.get("name"), repository.get("owner")
    if isinstance(name, str) and "/" not in name and isinstance(owner, str):
        name = f"{owner}/{name}"
    if not isinstance(name, str) or not REPOSITORY.fullmatch(name):
        raise ValueError("the repository has no name")
    return name


def _date(value: Any) -> str:
    """A date in UTC as `2016-01-02T03:04:05Z`; nearly all are written so already."""
    text = str(value)
    try:
        moment = datetime.strptime(text, OLD_DATE) if text[4:5] == "/" else datetime.fromisoformat(text)
        if NEW_DATE.fullmatch(text):
            return text
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        raise ValueError("a date is no date") from None
