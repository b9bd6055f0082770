"""Whether a document, an occurrence of it or a reject answers to a request, all by digests: no name is kept to compare with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from tilth.corpus.optout.requests import path_subjects, repository_names, split_place, subject_digest, user_of

EMAIL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._%+'-]*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+")
_USER_FIELDS = ("user", "author", "login", "username", "owner", "actor")  # of a document's meta
LOGINS = "logins"  # of meta: a JSON list of the accounts that took part in a document
FORGES = ("github.com", "gitlab.com", "bitbucket.org", "codeberg.org", "gitee.com", "git.sr.ht")  # URLs begin with an account
Row = Mapping[str, Any]


@dataclass
class Wanted:
    """Digests of what was asked, by kind, and the key that makes them."""

    key: bytes
    by_kind: dict[str, set[str]]
    _of_origin: dict[str, bool] = field(default_factory=dict)

    @property
    def needs_text(self) -> bool:
        """Whether texts have to be looked through."""
        return "email" in self.by_kind

    def email(self, addresses: Iterable[str]) -> bool:
        """Whether one of the addresses was asked for."""
        return self._asked("email", (address.lower() for address in addresses))

    def document(self, row: Row) -> bool:
        """Whether a row of documents/1 answers by itself: by its content, or by addresses and accounts in text and meta."""
        meta = dict(row["meta"])
        by_content = self._asked("swhid", (row["raw_swhid"], row["text_swhid"]))
        by_user = self._asked("user", (name.lower().removeprefix("@") for name in _accounts(meta)))
        by_url = any(self.page(url) for url in (row["url"], meta.get("repository")) if url)
        return by_content or by_user or by_url or (self.needs_text and self.email(_addresses(row["text"], meta)))

    def occurrence(self, row: Row) -> bool:
        """Whether a row of occurrences/1 answers: by its repository, the account, the path, or an object it names."""
        return self.place(row["origin"], row["path"]) or self.revision(row)

    def revision(self, row: Row) -> bool:
        """Whether the commit, the directory or the snapshot of an occurrence was asked for."""
        commit = (row["revision"] or "").removeprefix("swh:1:rev:")
        objects = (row[name] for name in ("revision", "directory", "snapshot") if row[name])
        return self._asked("commit", [commit] if commit else ()) or self._asked("swhid", objects)

    def place(self, origin: str, path: str) -> bool:
        """Whether the file at `path` of the repository `origin` was asked for, by itself or with all of it."""
        return self.repository(origin) or self._asked("path", path_subjects(origin, path))

    def repository(self, origin: str) -> bool:
        """Whether all of the repository `origin` was asked for, or all of its owner."""
        if origin not in self._of_origin:
            user = user_of(origin)
            in_all = self._asked("repo", repository_names(origin))
            self._of_origin[origin] = in_all or self._asked("user", [user] if user else [])
        return self._of_origin[origin]

    def page(self, url: str) -> bool:
        """Whether a page is of a repository that was asked for, or of an account where that is what its URL begins with."""
        host, *folders = repository_names(url)[0].split("/")
        is_below = len(folders) > 1 and self._asked("repo", [f"{host}/{folders[0]}/{folders[1]}"])
        return is_below or (host in FORGES and self._asked("user", folders[:1]))

    def reject(self, location: str) -> bool:
        """Whether a place that could not be read was asked for."""
        place = split_place(location)
        return place is not None and self.place(*place)

    def _asked(self, kind: str, subjects: Iterable[str]) -> bool:
        digests = self.by_kind.get(kind)
        return digests is not None and any(subject_digest(self.key, kind, subject) in digests for subject in subjects)


def _accounts(meta: Mapping[str, str]) -> Iterator[str]:
    """The accounts that a document's fields name; a list of another form, of another source, names none."""
    yield from (meta[name] for name in _USER_FIELDS if name in meta)
    with suppress(ValueError):
        found = json.loads(meta.get(LOGINS, "[]"))
        yield from (login for login in found if isinstance(login, str)) if isinstance(found, list) else ()


def _addresses(text: str, meta: Mapping[str, str]) -> Iterator[str]:
    for value in (text, *meta.values()):
        if "@" in value:
            yield from dict.fromkeys(EMAIL.findall(value))
