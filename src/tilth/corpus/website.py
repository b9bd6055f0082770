"""A website as the input of a corpus: crawled once into a WARC file, which from then on is the source."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from tilth.corpus.crawl import crawl
from tilth.corpus.sources.warc import Warc


def allow_all(url: str) -> bool:
    """Every page of the site."""
    return True


@dataclass(frozen=True)
class Website:
    """At most `max_pages` pages, breadth first from `site`: a URL, or a context manager that gives one (a server to start)."""

    name: str
    site: str | Callable[[], AbstractContextManager[str]]
    allow: Callable[[str], bool] = allow_all
    max_pages: int = 1_000
    max_bytes: int | None = None
    delay_seconds: float = 1.0

    def fetch(self, inputs: Path, advance: Callable[[str], None]) -> Warc:
        """The WARC of an earlier fetch if there is one, else crawl now; an interrupted crawl leaves nothing behind."""
        archive = inputs / f"{self.name}.warc.gz"
        if not archive.exists():
            inputs.mkdir(parents=True, exist_ok=True)
            with nullcontext(self.site) if isinstance(self.site, str) else self.site() as start_url:
                crawl(
                    start_url,
                    archive,
                    max_pages=self.max_pages,
                    allow=self.allow,
                    delay_seconds=self.delay_seconds,
                    on_page=advance,
                )
        return Warc(self.name, str(archive), max_bytes=self.max_bytes)
