"""What can be asked to be forgotten, in one spelling, so that two ways of writing the same thing are the same."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tilth.corpus.provenance.swhid import parse_swhid
from tilth.errors import UserError, did_you_mean

KINDS = ("user", "repo", "commit", "path", "swhid", "email")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_EMAIL = re.compile(r"[^\s@]+@[^\s@]+\.[^\s@]+")
_LEADING_URL = re.compile(
    r"\w+://[^/]*/[^:]*|pkg:[^:]*|(?:[^/:@]+@)?[^/:@]+\.[^/:@]+:[^:]*/[^:]*"
)  # what comes before the colon that begins a path
_SCHEME = re.compile(r"^\w+://(?:[^/@]*@)?(?:www\.)?")
_SCP = re.compile(r"^(?:[^/:@]+@)?([^/:@]+\.[^/:@]+):(?!/)")


@dataclass(frozen=True)
class Request:
    """One thing to be forgotten; `subject` is in the spelling of this file."""

    kind: str  # of KINDS
    subject: str

    @staticmethod
    def parse(kind: str, text: str) -> Request:
        """A request as it was typed. Raises UserError for what is none of its kind."""
        if kind not in KINDS:
            raise UserError(f"nothing can be forgotten by `{kind}`", text, did_you_mean(kind, KINDS))
        subject = _SPELLINGS[kind](text.strip())
        if subject is None:
            raise UserError(f"`{text}` is no {kind}", f"--{kind}", _FORMS[kind])
        return Request(kind, subject)

    def digest(self, key: bytes) -> str:
        """What stands for this request where it is kept: HMAC-SHA256 of kind and subject, hexadecimal."""
        return subject_digest(key, self.kind, self.subject)


def subject_digest(key: bytes, kind: str, subject: str) -> str:
    """HMAC-SHA256 of kind and subject: without the key nobody can try out names on it."""
    return hmac.new(key, f"{kind}:{subject}".encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def read_requests(path: Path) -> list[Request]:
    """Requests from a file: `kind subject` a line, `#` begins a comment. Raises UserError, naming the line."""
    if not path.is_file():
        raise UserError("there is no such file of requests", str(path), "A line of it is `user octocat`.")
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        words = line.split(None, 1)
        if not words or line.lstrip().startswith("#"):
            continue
        if len(words) < 2:
            raise UserError(f"`{line.strip()}` is not `kind subject`", f"{path}:{number}", f"Kinds: {', '.join(KINDS)}.")
        found.append(Request.parse(words[0].lower().lstrip("-"), words[1]))
    return found


def repository_names(origin: str) -> list[str]:
    """How a repository may be named, in lower case: `github.com/user/name` and `user/name`; a package also without version."""
    origin = origin.strip()
    plain = _SCP.sub(r"\1/", origin) if "://" not in origin else _SCHEME.sub("", origin)
    plain = plain.rstrip("/").removesuffix(".git").lower()
    host, slash, rest = plain.partition("/")
    named = [plain, rest] if slash and "." in host and "/" in rest else [plain]
    if plain.startswith("pkg:"):
        package, _, version = plain.rpartition("@")
        return [plain, package] if version and package else [plain]
    return [*named, plain.partition("==")[0]] if "==" in plain else named


def user_of(origin: str) -> str | None:
    """Whose a repository is: the first folder of its URL, in lower case; None for what has no URL."""
    parts = repository_names(origin)[0].split("/")
    return parts[1] if len(parts) > 2 and "." in parts[0] else None


def split_place(place: str) -> tuple[str, str] | None:
    """`REPO:PATH` in two; colons of a URL are not the one that parts them."""
    leading = _LEADING_URL.match(place)
    if leading is not None and place[leading.end() : leading.end() + 1] == ":":
        repository, path = leading[0], place[leading.end() + 1 :]
    else:
        repository, _, path = place.partition(":")
    return (repository, path) if repository and path else None


def path_subjects(origin: str, path: str) -> Iterable[str]:
    """The subjects of `path` requests that one file answers to: the repository in any case, the path exactly."""
    return (f"{name}:{path}" for name in repository_names(origin))


def _path(text: str) -> str | None:
    place = split_place(text)
    return next(iter(path_subjects(*place))) if place else None


def _swhid(text: str) -> str | None:
    core = text.partition(";")[0].lower()
    try:
        kind, _ = parse_swhid(core)
    except ValueError:
        return None
    return None if kind == "rel" else core  # no occurrence names a release


_SPELLINGS = {
    "user": lambda text: text.lower().removeprefix("@") or None,
    "repo": lambda text: repository_names(text)[0] or None,
    "commit": lambda text: text.lower() if _COMMIT.fullmatch(text.lower()) else None,
    "path": _path,
    "swhid": _swhid,
    "email": lambda text: text.lower() if _EMAIL.fullmatch(text) else None,
}
_FORMS = {
    "user": "The name of an account, as in its URL.",
    "repo": "The URL of a repository, or its `user/name`.",
    "commit": "All 40 hexadecimal digits of a commit.",
    "path": "REPO:PATH, for example `user/name:src/main.py`.",
    "swhid": "swh:1:cnt|dir|rev|snp: and 40 hexadecimal digits.",
    "email": "One address: name@example.org.",
}
