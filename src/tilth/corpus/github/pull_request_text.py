"""The text of a pull request in StarCoder2's form, from its thread and the changes that a clone shows."""

from __future__ import annotations

from dataclasses import dataclass

from tilth.corpus.github.changes import Changes, Hunk, shifted, written
from tilth.corpus.github.comment_text import truncated, without_html_comments, without_mail
from tilth.corpus.github.events import COMMENT, PULL, REVIEW, REVIEW_COMMENT, Event
from tilth.corpus.github.marked_text import MarkedText
from tilth.corpus.github.names import Names
from tilth.corpus.github.thread import ThreadHistory
from tilth.tokenize import thread_markers as marks
from tilth.tokenize.code_form import REPO_NAME

TRUNCATED, OMITTED = "[TRUNCATED]", "[OMITTED]"
MAX_HUNK_CHARS = 10_000


@dataclass(frozen=True)
class WordLimits:
    """How much of people's words is shown."""

    max_title_chars: int = 500
    max_lines: int = 80
    max_chars: int = 1_000  # of a description, a comment, a review
    min_comment_chars: int = 20  # of comments alone; reviews may be short


class PullRequestText:
    """Writes one pull request; `written` is the text, the rest is counted for the published filter."""

    def __init__(self, thread: ThreadHistory, changes: Changes, limits: WordLimits) -> None:
        self.thread, self.changes, self.limits = thread, changes, limits
        self.names, self.written = Names(), MarkedText()
        kept = thread.words()
        self.n_bot_events = len(thread.events) - len(kept)
        turns = [(event, self._words(event.item.text) if event.item else "") for event in kept]
        self.turns = [(event, text) for event, text in turns if self._is_shown(event, text)]
        self.n_human_events = sum(event.item is not None for event, _ in self.turns)
        if not thread.is_opened_by_bot:
            self.names.of(thread.opener or "")
        self.names.number([event.author for event, _ in self.turns])
        self.names.number(thread.people)
        self.title = self.names.replaced(thread.title or "")[: limits.max_title_chars]
        self.description = "" if thread.is_opened_by_bot else self._words(thread.body or "")
        self._head: str | None = None
        self._write()

    def _words(self, text: str) -> str:
        plain = without_html_comments(without_mail(text)).strip()
        return truncated(plain, self.limits.max_lines, TRUNCATED)[: self.limits.max_chars]

    def _is_shown(self, event: Event, text: str) -> bool:
        if event.item is None:
            return event.kind == PULL and event.action in ("closed", "merged", "reopened")
        return event.kind == REVIEW or len(text) >= (self.limits.min_comment_chars if event.kind == COMMENT else 1)

    def _write(self) -> None:
        self._write_opening()
        for event, text in self.turns:
            self._write_new_head(event)
            if event.item is None:
                self._write_state(event)
            elif event.kind == COMMENT:
                self._mark(marks.PR_COMMENT, self._said(event, text))
                self._mark(marks.PR_EVENT_ID, event.item.id)
            elif event.kind == REVIEW:
                self._mark(marks.PR_REVIEW, self._said(event, text))
                self._mark(marks.PR_EVENT_ID, event.item.id)
                self._mark(marks.PR_REVIEW_STATE, self.names.replaced(event.item.state or ""))
            elif event.kind == REVIEW_COMMENT:
                self._write_review_comment(event, text)

    def _mark(self, marker: str, words: str | None) -> None:
        """A marker with its words; nothing where there are none to tell."""
        if words is not None:
            self.written.mark(marker, words)

    def _said(self, event: Event, text: str) -> str:
        name = self.names.of(event.author)
        return f"{name}: {self.names.replaced(text)}" if text else name

    def _write_opening(self) -> None:
        """Title, description and repository, then the base files and what the first head changes in them."""
        self.written.mark(marks.PR, f"Title: {self.title}\n")
        if not self.thread.is_opened_by_bot:
            self.written.add(f"{self.names.of(self.thread.opener or '')}: {self.names.replaced(self.description)}")
        self.written.mark(marks.PR_STATUS, "opened")
        self.written.mark(REPO_NAME, next(reversed(self.thread.names)))
        if self.changes.base:
            self.written.mark(marks.PR_BASE)
            for file in self.changes.base.values():
                self.written.mark(marks.PR_FILE, file.path)
                self.written.mark(marks.PR_BASE_CODE, file.text)
            self._write_diff(next(iter(self.changes.hunks)))

    def _write_diff(self, head: str) -> None:
        self._head = head
        files: dict[str, list[Hunk]] = self.changes.hunks.get(head, {})
        if any(files.values()):
            self.written.mark(marks.PR_DIFF)
        for path, hunks in files.items():
            if hunks:
                self.written.mark(marks.PR_FILE, path)
            for hunk in hunks:
                self.written.mark(marks.PR_DIFF_HUNK, written(hunk, self.changes.base[path].n_skipped))

    def _write_new_head(self, event: Event) -> None:
        """What the conversation so far has led to, before it goes on."""
        head = event.thread.head
        if head in self.changes.hunks and head != self._head:
            self._write_diff(head)

    def _write_state(self, event: Event) -> None:
        """A reopened pull request is shown without its description, which was published once more, as if by who reopened it."""
        self.written.mark(marks.PR, self.names.of(event.author))
        self.written.mark(marks.PR_STATUS, "reopened" if event.action == "reopened" else "closed")
        if event.action != "reopened":
            self.written.mark(marks.PR_IS_MERGED, str(event.thread.is_merged or event.action == "merged"))

    def _write_review_comment(self, event: Event, text: str) -> None:
        item = event.item
        assert item is not None
        self.written.mark(marks.PR_REVIEW_COMMENT)
        self._mark(marks.PR_EVENT_ID, item.id)
        self._mark(marks.PR_IN_REPLY_TO_REVIEW_ID, item.review_id)
        self._mark(marks.PR_IN_REPLY_TO_COMMENT_ID, item.reply_to)
        self._mark(marks.PR_FILE, item.path)
        self._mark(marks.PR_DIFF_HUNK_COMMENT_LINE, item.line)
        if item.hunk is not None:
            base = self.changes.base.get(item.path or "")
            hunk = shifted(item.hunk, base.n_skipped) if base else item.hunk
            self.written.mark(marks.PR_DIFF_HUNK, hunk if len(hunk) <= MAX_HUNK_CHARS else OMITTED)
        self.written.mark(marks.PR_COMMENT, self._said(event, text))
