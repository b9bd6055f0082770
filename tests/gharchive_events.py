"""Events of GHArchive for tests, in the format since 2015 and the one before, and files of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tilth.corpus.records import Document, Reject

REPOSITORY = ("octo/plough", 7)
Event = dict[str, Any]


def event(
    at: int,
    kind: str,
    actor: str | None,
    payload: object,
    second: int | None = None,
    repository: tuple[str, int] = REPOSITORY,
) -> Event:
    name, identity = repository
    return {
        "id": str(2_489_650_000 + at), "type": kind, "actor": {"id": 9, "login": actor, "url": "https://api.github.com/"},
        "repo": {"id": identity, "name": name, "url": f"https://api.github.com/repos/{name}"}, "payload": payload, "public": True,
        "created_at": moment(at if second is None else second),
    }  # fmt: skip


def moment(second: int) -> str:
    return (datetime(2016, 1, 2, 3, tzinfo=UTC) + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%SZ")


def person(login: str | None, kind: str = "User") -> dict[str, object]:
    return {"login": login, "id": 9, "type": kind}


def issue(body: object = "It breaks.", opener: str = "ann", number: int = 3, **more: object) -> dict[str, object]:
    return {
        "url": f"https://api.github.com/repos/octo/plough/issues/{number}", "id": 900 + number, "number": number,
        "title": "The plough breaks", "user": person(opener), "body": body, "created_at": moment(0), "state": "open", **more,
    }  # fmt: skip


def opened(at: int, body: object = "It breaks.", opener: str = "ann", **more: Any) -> Event:
    return event(at, "IssuesEvent", opener, {"action": "opened", "issue": issue(body, opener, **more)})


def closed(at: int, actor: str = "ann", action: str = "closed", **more: Any) -> Event:
    return event(at, "IssuesEvent", actor, {"action": action, "issue": issue(**more)})


def comment(at: int, actor: str, text: object, item: int | None = None, action: str = "created", **more: Any) -> Event:
    said = {"id": item or at, "body": text, "user": person(actor), "created_at": moment(item or at)}
    return event(at, "IssueCommentEvent", actor, {"action": action, "issue": issue(**more), "comment": said})


def old_issue_event(action: str, number: int, created_at: str = "2013-05-06T07:08:09-07:00", actor: str = "ann") -> Event:
    """As the timeline API gave it: no id, no text."""
    return {
        "created_at": created_at, "payload": {"action": action, "issue": 14_000_000 + number, "number": number}, "public": True,
        "type": "IssuesEvent", "url": f"https://github.com/octo/plough/issues/{number}", "actor": actor,
        "actor_attributes": {"login": actor, "type": "User", "email": "ann@example.org"},
        "repository": {"id": 7, "name": "plough", "url": "https://github.com/octo/plough", "owner": "octo", "language": "C"},
    }  # fmt: skip


def lines(events: Iterable[Event | bytes]) -> list[bytes]:
    made = (one if isinstance(one, bytes) else json.dumps(one, separators=(",", ":")).encode() for one in events)
    return [line + b"\n" for line in made]


def write(folder: Path, *events: Event | bytes, name: str = "2016-01-02-3.json.gz") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(gzip.compress(b"".join(lines(events)), mtime=0))
    return path


def rows_of(source: Any) -> tuple[list[Document], list[Reject]]:
    found = [row for shard in source.plan() for row in source.read(shard)]
    return [row for row in found if isinstance(row, Document)], [row for row in found if isinstance(row, Reject)]
