"""The page in Chromium: numbers on the screen against SQL, a silent console, no request, hostile texts inert, narrow and dark."""

from __future__ import annotations

import re
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.browser

FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


class Opened:
    """A page that was opened, with everything that it said and asked for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.tab = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options}).new_page()
        self.said: list[str] = []
        self.requests: list[str] = []
        self.tab.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.tab.on("pageerror", lambda error: self.said.append(f"error: {error}"))
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.goto(path.as_uri())
        self.tab.wait_for_selector("html[data-ready]", timeout=60_000)

    def labels(self, chart: str) -> list[str]:
        """What a screen reader hears for the bars and dots of a chart."""
        found = self.tab.locator(f"[data-chart='{chart}'] svg [aria-label]:not([aria-roledescription='axis'])").evaluate_all(
            "nodes => nodes.filter(n => n.tagName === 'path' || n.tagName === 'line').map(n => n.getAttribute('aria-label'))"
        )
        return [str(label) for label in found]


@pytest.fixture(scope="module")
def opened(browser: Any, page: Path) -> Opened:
    return Opened(browser, page)


def test_nothing_is_said_and_nothing_is_asked_for(opened: Opened, page: Path) -> None:
    assert opened.said == []
    assert opened.requests == [page.as_uri()]
    assert opened.tab.evaluate("window.pwned") is None
    assert opened.tab.locator("section script:not([type='application/json'])").count() == 0


def test_every_chart_was_drawn(opened: Opened) -> None:
    charts = opened.tab.locator("[data-chart]")
    assert charts.count() == int(opened.tab.evaluate("document.documentElement.dataset.ready")) > 15
    for index in range(charts.count()):
        box = charts.nth(index).locator("svg").bounding_box()
        assert box is not None
        assert box["width"] > 200
        assert box["height"] > 30


def test_bars_of_the_flow_are_those_of_sql(opened: Opened, connection: Any) -> None:
    labels = opened.labels("flow-documents")
    rows = connection.execute(
        """select 'readable, ' || source || ': ' || format('{:,}', count(*)) || ' documents' from demo group by source
           union all select 'unique, ' || source || ': ' || format('{:,}', count(*)) || ' documents' from demo
           where is_keeper group by source
           union all select 'picked: clean, ' || d.source || ': ' || format('{:,}', count(*)) || ' documents'
           from demo as d join subset_documents as p using (shard, row) where subset = 'clean' group by d.source"""
    ).fetchall()
    assert {row[0] for row in rows} <= set(labels)
    assert len(labels) == len(set(labels)) == 3 * 5 + 1


def test_bars_of_a_histogram_hold_all_documents(opened: Opened, connection: Any) -> None:
    bars = [label for label in opened.labels("signal-quality_score") if " documents from " in label]
    counted = sum(int(re.search(r": ([\d,]+) documents", label).group(1).replace(",", "")) for label in bars)  # type: ignore[union-attr]
    ends = connection.execute("select unnest(quantile_cont(quality_score::double, [0.01, 0.99])) from demo").fetchall()
    low, high = (row[0] for row in ends)
    n = connection.execute("select count(*) from demo where quality_score between ? and ?", [low, high]).fetchone()[0]
    assert counted == n
    assert [label for label in opened.labels("signal-quality_score") if label.startswith("cut")] == [
        "cut: quality_score >= -0.25"
    ]


def test_licences_and_seconds_have_a_bar_each(opened: Opened, connection: Any) -> None:
    n = connection.execute("select count(*) from (select distinct licence, source from demo)").fetchone()[0]
    assert len(opened.labels("kinds-licence")) == n
    assert len(opened.labels("seconds")) == connection.execute("select count(distinct step) from step_seconds").fetchone()[0]


def test_numbers_on_the_screen_are_those_of_sql(opened: Opened, connection: Any) -> None:
    shown = opened.tab.locator("#glance data[data-name='tokens']")
    n_tokens = connection.execute("select sum(n_tokens) from demo").fetchone()[0]
    assert shown.inner_text() == f"{n_tokens:,}"
    assert shown.get_attribute("data-value") == str(n_tokens)


def test_hostile_text_is_read_as_text(opened: Opened) -> None:
    assert opened.tab.locator("#deltas pre").last.inner_text().count("<script>window.pwned = 1</script>") == 1
    assert opened.tab.locator("section img").count() == 0


@pytest.mark.parametrize(("width", "scheme"), [(400, "light"), (400, "dark"), (1200, "dark")])
def test_narrow_and_dark_pages_are_whole(browser: Any, page: Path, tmp_path: Path, width: int, scheme: str) -> None:
    opened = Opened(browser, page, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert opened.said == []
    assert opened.tab.evaluate("document.documentElement.scrollWidth") <= width
    overflowing = opened.tab.locator("[data-chart] svg").evaluate_all(
        "nodes => nodes.filter(n => n.getBoundingClientRect().right > innerWidth + 1).map(n => n.parentElement.outerHTML)"
    )
    assert overflowing == []
    shot = opened.tab.locator("#flow").screenshot(path=tmp_path / "flow.png")
    pixels = _colours(shot)
    assert len(pixels) > 30, "the picture is not blank"
    background = max(pixels, key=lambda colour: pixels[colour])
    assert (sum(background) < 150) == (scheme == "dark")
    # The axis labels have the colour of soft text in the scheme, so they can be read on its background.
    ink = opened.tab.locator("[data-chart='flow-documents'] .role-axis-label text").first.evaluate(
        "n => getComputedStyle(n).fill"
    )
    assert (sum(map(int, re.findall(r"\d+", ink)[:3])) > 400) == (scheme == "dark")


@pytest.fixture(scope="module")
def web(browser: Any, web_page: Path) -> Opened:
    return Opened(browser, web_page)


def test_folded_charts_are_drawn_when_they_are_opened(web: Opened, web_page: Path) -> None:
    folded = web.tab.locator("details [data-chart]")
    assert folded.count() > 30
    assert web.tab.locator("details [data-chart] svg").count() == 0
    assert web.tab.locator("[data-chart]").count() == folded.count() + int(
        web.tab.evaluate("document.documentElement.dataset.ready")
    )
    web.tab.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    web.tab.wait_for_function("document.querySelectorAll('details [data-chart][data-drawn]').length === " + str(folded.count()))
    widths = folded.evaluate_all("nodes => nodes.map(n => n.querySelector('svg').getBoundingClientRect().width)")
    assert min(widths) > 200
    assert web.said == []
    assert web.requests == [web_page.as_uri()]
    assert web.tab.evaluate("window.pwned") is None
    assert web.tab.locator("section i, section b").count() == 0


def test_bars_of_a_signal_without_a_cut_are_those_of_sql(web: Opened, web_connection: Any) -> None:
    labels = web.labels("signal-score_7")
    counted: dict[str, int] = {}
    for label in labels:
        source, n = re.fullmatch(r"(.+): ([\d,]+) documents from \S+ to \S+", label).groups()  # type: ignore[union-attr]
        counted[source] = counted.get(source, 0) + int(n.replace(",", ""))
    rows = web_connection.execute(
        """select source, count(*) from demo, (select quantile_cont(score_7, [0.01, 0.99]) as q from demo)
           where score_7 between q[1] and q[2] group by source"""
    ).fetchall()
    assert counted == dict(rows)


def test_new_panels_say_what_sql_says(web: Opened, web_connection: Any) -> None:
    from tilth.catalog.policies import POLICIES

    sql = POLICIES["redpajama-v2"].sql
    rows = web_connection.execute(f"select source, count(*) filter ({sql}), count(*) from demo group by source").fetchall()
    assert set(web.labels("policies")) == {f"redpajama-v2, {s}: {n:,} of {whole:,} documents" for s, n, whole in rows}
    rows = web_connection.execute(
        """select e.reason, d.source, sum("end" - start)::bigint, count(*)
           from demo.edits as e join demo.documents as d using (shard, row) group by all"""
    ).fetchall()
    assert set(web.labels("edits")) == {f"{r}, {s}: {n:,} characters in {m:,} spans" for r, s, n, m in rows}
    assert len(web.labels("correlations")) == 30 * 29
    spoken = {"cut: score_3 <= 0.9", "documents that are kept", "tokens that are kept"}
    assert set(web.labels("threshold-cut-score_3 <= 0.9")) == spoken
    n_picked = web_connection.execute("select count(*) from subset_documents where subset = 'cut'").fetchone()[0]
    note = web.tab.locator("figure:has([data-chart='threshold-cut-score_3 <= 0.9']) figcaption").inner_text()
    assert note.startswith(f"At 0.9: {n_picked:,} documents (")


@pytest.mark.parametrize(("width", "scheme"), [(420, "dark"), (420, "light")])
def test_panels_of_web_corpora_fit_a_narrow_page(browser: Any, web_page: Path, width: int, scheme: str) -> None:
    opened = Opened(browser, web_page, viewport={"width": width, "height": 800}, color_scheme=scheme)
    assert opened.said == []
    assert opened.tab.evaluate("document.documentElement.scrollWidth") <= width
    overflowing = opened.tab.locator("[data-chart] svg").evaluate_all(
        "nodes => nodes.filter(n => n.getBoundingClientRect().right > innerWidth + 1).map(n => n.parentElement.outerHTML)"
    )
    assert overflowing == []


def _colours(png: bytes) -> dict[tuple[int, int, int], int]:
    """How often each colour occurs in an 8-bit RGB(A) PNG, one row in four (PNG specification, filter types 0-4)."""
    width, height, depth, kind = struct.unpack(">IIBB", png[16:26])
    assert depth == 8
    n_channels = {2: 3, 6: 4}[kind]
    body, at = b"", 8
    while at < len(png):
        length, name = struct.unpack(">I4s", png[at : at + 8])
        body += png[at + 8 : at + 8 + length] if name == b"IDAT" else b""
        at += 12 + length
    raw, stride = zlib.decompress(body), width * n_channels
    above, counts = bytearray(stride), {}
    for y in range(height):
        filter_type, line = raw[y * (stride + 1)], bytearray(raw[y * (stride + 1) + 1 : (y + 1) * (stride + 1)])
        _undo(filter_type, line, above, n_channels)
        above = line
        if y % 4 == 0:
            for x in range(0, stride, n_channels):
                colour = (line[x], line[x + 1], line[x + 2])
                counts[colour] = counts.get(colour, 0) + 1
    return counts


def _undo(filter_type: int, line: bytearray, above: bytearray, n: int) -> None:
    for x in range(len(line)):
        left, up, corner = (line[x - n] if x >= n else 0), above[x], (above[x - n] if x >= n else 0)
        if filter_type == 1:
            guess = left
        elif filter_type == 2:
            guess = up
        elif filter_type == 3:
            guess = (left + up) // 2
        elif filter_type == 4:
            p = left + up - corner
            guess = min((left, up, corner), key=lambda value: abs(p - value))
        else:
            return
        line[x] = (line[x] + guess) & 255
