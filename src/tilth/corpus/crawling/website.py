"""A website as the input of a corpus: crawled once into a WARC file, which from then on is the source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tilth.artifacts.atomic import locked
from tilth.corpus.crawling.crawl import crawl
from tilth.corpus.extract.html import DEFAULT_MODE
from tilth.corpus.sources.warc import Warc


def allow_all(url: str) -> bool:
    """Every page of the site."""
    return True


@dataclass(frozen=True)
class Website:
    """At most `max_pages` pages, breadth first from `site`: a URL, or a context manager that gives one (a server to start).

    `licence` is an SPDX expression that you declare for all pages; `extract` is how they become text, as `Warc` has it.
    """

    name: str
    site: str | Callable[[], AbstractContextManager[str]]
    allow: Callable[[str], bool] = allow_all
    max_pages: int = 1_000
    max_bytes: int | None = None
    delay_seconds: float = 1.0
    licence: str | None = None
    extract: str = DEFAULT_MODE

    def fetch(self, inputs: Path, advance: Callable[[str], None]) -> Warc:
        """The WARC of an earlier fetch if there is one, else crawl now; an interrupted crawl leaves nothing that counts.

        Two builds that want the same crawl wait for each other: what one of them reads must not be replaced by the other's.
        """
        archive = inputs / f"{self.name}-{self._key()}.warc.gz"
        if not archive.exists():
            lock = inputs / f".{archive.name}.lock"
            with locked(lock):
                if not archive.exists():
                    self._crawl(archive, advance)
                lock.unlink(missing_ok=True)  # whoever still waits finds the archive
        return Warc(self.name, str(archive), max_bytes=self.max_bytes, licence=self.licence, extract=self.extract)

    def _crawl(self, archive: Path, advance: Callable[[str], None]) -> None:
        for left_by_a_kill in archive.parent.glob(f".{archive.name}.*.partial"):
            left_by_a_kill.unlink()
        with nullcontext(self.site) if isinstance(self.site, str) else self.site() as start_url:
            crawl(
                start_url,
                archive,
                max_pages=self.max_pages,
                allow=self.allow,
                delay_seconds=self.delay_seconds,
                on_page=advance,
            )

    def _key(self) -> str:
        """Another site, limit or rule is another crawl, kept in a file of its own."""
        asked = [_label(self.site), _label(self.allow), self.max_pages]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:8]


def _label(value: object) -> str:
    """What names a URL, a function or a partial of one from run to run."""
    if isinstance(value, partial):
        return f"{_label(value.func)}{value.args}{sorted(value.keywords.items())}"
    return value if isinstance(value, str) else f"{value.__module__}.{getattr(value, '__qualname__', repr(value))}"
