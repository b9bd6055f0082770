"""The events of one thread together: what it is now, who said what in which order, and where that was read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tilth.corpus.github.bots import is_bot_name
from tilth.corpus.github.events import COMMENT, STATES, Event
from tilth.corpus.provenance.swhid import Entry, directory_swhid

MAX_CHARS = 64 << 20  # of the words of one thread


@dataclass
class ThreadHistory:
    """A thread, from events that come in the order of time.

    Of title and description the newest are kept, of each comment the newest text at the place of its creation; a comment
    that was deleted is gone. The same event counts once.
    """

    repository_id: int
    number: int
    names: dict[str, str] = field(default_factory=dict)  # of the repository, the newest last -> the date of its first event
    title: str | None = None
    body: str | None = None
    opener: str | None = None
    opened: str | None = None
    licence: str | None = None
    is_merged: bool = False
    is_mended: bool = False
    events: list[Event] = field(default_factory=list)  # states and words, without edits and deletions
    logins: dict[str, None] = field(default_factory=dict)  # of all who took part
    bots: set[str] = field(default_factory=set)  # those of them that GitHub calls so, in lower case
    lines: dict[str, bytes] = field(default_factory=dict)  # id of an event -> id of its line
    n_duplicates: int = 0
    n_too_many: int = 0

    def is_bot(self, login: str | None) -> bool:
        """Whether an account is a bot, by GitHub's word or by its name."""
        return login is not None and (login.lower() in self.bots or is_bot_name(login))

    @property
    def is_opened_by_bot(self) -> bool:
        """Whether the title and the description are a bot's."""
        return self.is_bot(self.opener)

    @property
    def people(self) -> list[str]:
        """The logins that are not bots'."""
        return [login for login in self.logins if not self.is_bot(login)]

    def words(self) -> list[Event]:
        """What happened, without the words of bots, and without the comment that had called a bot for its answer."""
        kept: list[Event] = []
        before: Event | None = None
        for event in self.events:
            if event.item is None or not self.is_bot(event.author):
                kept.append(event)
            elif kept and kept[-1] is before and _calls_bot(before, event.author):
                kept.pop()
            before = event
        return kept

    @property
    def origin(self) -> str:
        """The address of the repository, by its newest name."""
        return f"https://github.com/{next(reversed(self.names))}"

    @property
    def raw_swhid(self) -> str:
        """`swh:1:dir:` of a folder with the JSON line of each event (without its line feed) as a file named by the event's id."""
        return directory_swhid(Entry("100644", name.encode(), line) for name, line in self.lines.items())


def read_thread(events: Iterable[Event], repository_id: int, number: int) -> ThreadHistory:
    """One thread from its events, ordered by time."""
    thread = ThreadHistory(repository_id, number)
    words: dict[tuple[str, str], Event] = {}
    deleted: set[tuple[str, str]] = set()
    states: list[Event] = []
    n_chars = 0
    for event in events:
        if event.id in thread.lines:
            thread.n_duplicates += 1
            continue
        n_chars += sum(len(text) for text in (event.thread.title, event.thread.body) if text) if event.kind in STATES else 0
        n_chars += len(event.item.text) + len(event.item.hunk or "") if event.item else 0
        if n_chars > MAX_CHARS:
            thread.n_too_many += 1
            continue
        _take(thread, event)
        if event.item is None:
            states.append(event)
            continue
        key = (event.kind, event.item.id)
        if event.action == "deleted":
            deleted.add(key)
        words[key] = event
    spoken = [event for key, event in words.items() if key not in deleted]
    thread.events = sorted([*states, *spoken], key=_order)
    return thread


def _take(thread: ThreadHistory, event: Event) -> None:
    """What an event says of the thread as a whole; the newest event comes last."""
    shown = event.thread
    thread.lines[event.id] = event.line_id
    thread.names = {name: date for name, date in thread.names.items() if name != event.repository} | {
        event.repository: thread.names.get(event.repository, event.date)
    }
    thread.title = thread.title if shown.title is None else shown.title
    thread.body = thread.body if shown.title is None else shown.body  # a description may be taken away, a title cannot
    thread.is_merged |= shown.is_merged
    thread.is_mended |= event.is_mended
    thread.licence = shown.licence or thread.licence
    is_opening = event.kind in STATES and event.action == "opened"
    thread.opener = thread.opener or shown.opener or (event.author if is_opening else None)
    thread.opened = thread.opened or shown.opened or (event.date if is_opening else None)
    thread.bots |= {event.author.lower()} if event.is_bot else set()
    thread.bots |= {(shown.opener or "").lower()} if shown.is_opened_by_bot else set()
    thread.logins |= dict.fromkeys(login for login in (event.author, event.actor, shown.opener) if login)


def _order(event: Event) -> tuple[str, int, int]:
    """By the time of creation; what was said in the second in which a state changed comes before the change, as in a review."""
    moment = event.item.date if event.item else event.date
    return moment, event.kind in STATES and event.action != "opened", int(event.item.id) if event.item else 0


def _calls_bot(event: Event, bot: str) -> bool:
    """Whether it is a comment to the bot that answers it: one with its name, or a command that begins with `/`."""
    text = event.item.text if event.item and event.kind == COMMENT else ""
    return text.startswith("/") or (bool(bot) and bot.lower() in text.lower())
