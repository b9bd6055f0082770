"""Issues of GitHub from GHArchive: a thread is a document, in the form of StarCoder and StarCoder2.

    <issue_start>Title: TITLE\\nusername_0: DESCRIPTION<issue_comment>username_1: COMMENT ... <issue_closed>

Sources: Li et al. (arXiv:2305.06161, appendix A), Lozhkov et al. (arXiv:2402.19173, sections 2.2 and 5.3), bigcode-dataset
(preprocessing/filtering_issues.py). What they drop by length and number of users is for SQL: `@starcoder2-issues`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tilth.corpus.github.comment_text import LEAST_LINES, truncated, without_mail
from tilth.corpus.github.event_files import GitHubThreads
from tilth.corpus.github.events import COMMENT, ISSUE, Event
from tilth.corpus.github.marked_text import MarkedText
from tilth.corpus.github.names import Names
from tilth.corpus.github.thread import ThreadHistory
from tilth.corpus.locations import FoundFile
from tilth.corpus.optout.subjects import LOGINS
from tilth.corpus.records import Document, Reject, Shard, screen
from tilth.corpus.registry import source
from tilth.errors import SourceError
from tilth.tokenize import thread_markers
from tilth.tokenize.thread_markers import ISSUE_CLOSED, ISSUE_COMMENT, ISSUE_MARKERS, ISSUE_START, PLACES

TRUNCATED = "[Truncated]"


@source
@dataclass(frozen=True)
class GitHubIssues(GitHubThreads):
    """Threads of GitHub's issues from GHArchive, each with its comments; pull requests are left to GitHubPullRequests.

    `path` is a file of the archive (`2015-01-01-15.json.gz`), a folder, a pattern or a URL. Words of bots are left out, mail
    programs' words as well; comments of more than `max_lines` lines lose their middle (80 as in the published code; both
    papers say 100). Accounts become `username_0`, `username_1`; their logins are kept in `meta['logins']`, so that `tilth
    forget --user` finds them. An issue whose opening is in none of the files has its title and description from the newest
    event that shows them.
    """

    max_lines: int = field(default=80, kw_only=True)

    version: ClassVar[int] = 1
    special_tokens: ClassVar[tuple[str, ...]] = ISSUE_MARKERS
    kind: ClassVar[str] = thread_markers.ISSUE
    folder: ClassVar[str] = "issues"
    types: ClassVar[tuple[str, ...]] = ("IssuesEvent", "IssueCommentEvent")

    def params(self) -> dict[str, Any]:
        """Raises SourceError for fewer lines than are kept of an end."""
        if self.max_lines < LEAST_LINES:
            raise SourceError(f"`max_lines` must be at least {LEAST_LINES}", self.where, "the last 20 lines are kept in any case")
        return {"max_lines": self.max_lines}

    def wants(self, event: Event) -> bool:
        """Events of issues that are no pull requests."""
        return event.kind in (ISSUE, COMMENT) and not event.is_pull_request

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """A row for every issue."""
        for thread in self.threads(unit, shard):
            yield self._row(thread, shard.params["licence"]) if isinstance(thread, ThreadHistory) else thread

    def _row(self, thread: ThreadHistory, licence: str | None) -> Document | Reject:
        """The thread as one text; a reject without a title, or where only bots spoke."""
        location = self.location(thread)
        if thread.title is None:
            return Reject(location, "no_text", f"{len(thread.lines)} events that do not show the issue, as before 2015")
        words = _Words(thread, self.max_lines)
        if not words.users:
            return Reject(location, "only_bots", f"{len(thread.lines)} events, none of people")
        if unfit := screen(words.written.text):
            return Reject(location, *unfit)
        return self.document(thread, words.written.text, words.meta(), [self.claim(thread, licence)])


class _Words:
    """The text of one issue, and what is counted of it: events and users as the published filter counts them."""

    def __init__(self, thread: ThreadHistory, max_lines: int) -> None:
        self.thread, self.max_lines = thread, max_lines
        self.names, self.written = Names(), MarkedText()
        self.n_text_chars = self.n_events = 0
        self.users: set[str] = set()
        self.is_closed = False
        kept = thread.words()
        self.n_bot_events = len(thread.events) - len(kept)
        turns = [(event, self._text(event.item.text) if event.item else "") for event in kept]
        turns = [(event, text) for event, text in turns if text or event.item is None]
        if not thread.is_opened_by_bot:
            self.names.of(thread.opener or "")
        self.names.number([event.author for event, _ in turns if event.item])
        self.names.number(thread.people)  # those who only closed it, and those whose words are gone
        self.title = self.names.replaced(thread.title or "")
        self._write_opening()
        for event, text in turns:
            self._write(event, text)

    def _text(self, text: str | None) -> str:
        return truncated(without_mail(text or ""), self.max_lines, TRUNCATED)

    def _write_opening(self) -> None:
        """Title and description; what a bot describes is left out, but without its title nothing would be understood."""
        self.written.mark(ISSUE_START, f"Title: {self.title}")
        if not self.thread.is_opened_by_bot:
            body, opener = self._text(self.thread.body), self.thread.opener or ""
            self.written.add(f"\n{self.names.of(opener)}: {self.names.replaced(body)}")
            self._count(opener, body)

    def _write(self, event: Event, text: str) -> None:
        if event.item:
            self.written.mark(ISSUE_COMMENT, f"{self.names.of(event.author)}: {self.names.replaced(text)}")
            self._count(event.author, text)
        elif event.action in ("closed", "reopened"):
            if event.action == "closed" and not self.is_closed:
                self.written.mark(ISSUE_CLOSED)
            self.is_closed = event.action == "closed"
            if not self.thread.is_bot(event.author):
                self._count(event.author, "")

    def _count(self, user: str, text: str) -> None:
        self.users.add(user.lower())
        self.n_events += 1
        self.n_text_chars += len(text)

    def meta(self) -> dict[str, str]:
        """The counts that the published filter asks for, and what opt-out and training need."""
        thread = self.thread
        return {
            "title": self.title, "number": str(thread.number), "n_users": str(len(self.users)), "n_events": str(self.n_events),
            "n_text_chars": str(self.n_text_chars), "n_bot_events": str(self.n_bot_events),
            "is_closed": str(self.is_closed).lower(), "is_bot_opened": str(thread.is_opened_by_bot).lower(),
            LOGINS: json.dumps(sorted(thread.logins)), "event_ids": " ".join(thread.lines), PLACES: self.written.places,
        }  # fmt: skip
