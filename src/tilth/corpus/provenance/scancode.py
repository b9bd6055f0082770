"""ScanCode, where it is installed, for texts that nothing else recognises; slow, so each content is asked of once."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from tilth.corpus.provenance.licence_claims import Found
from tilth.corpus.provenance.spdx_expressions import UNKNOWN, normalise_expression
from tilth.corpus.provenance.swhid import content_swhid
from tilth.errors import SourceError

DISTRIBUTION = "scancode-toolkit"
LOCK_SECONDS = 60


@cache
def scancode_version() -> str:
    """Raises SourceError where ScanCode is not installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        raise SourceError(
            "ScanCode is not installed", where="licence_scan", fix="pip install 'tilth[scancode]', or leave `scancode` out"
        ) from None


@dataclass(frozen=True)
class ScanCode:
    """Asks ScanCode of a text, at most `seconds` for each; `cache` is a SQLite file that several processes may share.

    An answer is found by the SWHID of the text and ScanCode's version, so a licence that lies in a thousand repositories
    is looked at once.
    """

    cache: Path
    seconds: float = 120.0

    def __call__(self, text: str, swhid: str | None) -> list[Found]:
        """What ScanCode says of `text`; empty where it finds nothing. `swhid` names the file, of which `text` may be the top."""
        key = content_swhid(text.encode("utf-8", "surrogatepass"))
        version = scancode_version()
        with self._answers() as answers:
            known = answers.execute("select found from answers where swhid = ? and version = ?", (key, version)).fetchone()
        if known is not None:
            return [Found(*one) for one in json.loads(known[0])]
        found = detect(text, self.seconds)
        with self._answers() as answers:
            answers.execute("insert or replace into answers values (?, ?, ?)", (key, version, json.dumps(found)))
        return found

    @contextmanager
    def _answers(self) -> Iterator[sqlite3.Connection]:
        self.cache.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(self.cache, timeout=LOCK_SECONDS)) as connection, connection:
            connection.execute(
                "create table if not exists answers (swhid text, version text, found text, primary key (swhid, version))"
            )
            yield connection


def detect(text: str, seconds: float) -> list[Found]:
    """What ScanCode detects, in SPDX's names; what SPDX has no name for is LicenseRef-scancode-…, as ScanCode writes it.

    ScanCode's `deadline` is a time of day, not a number of seconds: 100 there (as The Stack v2 has it) expired in 1970, and
    every approximate matcher is skipped.
    """
    from licensedcode.detection import detect_licenses

    found = []
    for one in detect_licenses(query_string=text, deadline=time.time() + seconds):
        spdx = normalise_expression(one.license_expression_spdx or "") or UNKNOWN
        found.append(Found(spdx, *_evidence(one.matches)))
    return list(dict.fromkeys(found))


def _evidence(matches: Any) -> tuple[float, str, str, int, int]:
    score = min(match.score() for match in matches) / 100
    lines = [line for match in matches for line in (match.start_line, match.end_line)]
    return round(score, 4), "scancode", scancode_version(), min(lines), max(lines)
