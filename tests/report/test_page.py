"""The page as a file: needs no network, numbers from SQL, hostile texts inert, a sentence where nothing is yet."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tilth.artifacts import Store
from tilth.errors import NotFoundError, UserError
from tilth.report import write_report
from tilth.report.registry import panels

EXPECTED_PANELS = [
    "glance", "flow", "clauses", "rejects", "edits", "signals", "policies", "thresholds", "mixture", "correlations",
    "duplicates", "examples", "languages", "runs", "deltas", "replay", "reasoning", "lineage", "seconds",
]  # fmt: skip


class Page(HTMLParser):
    """What a browser would find: tags with attributes, scripts, numbers by name, text by panel."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.values: dict[str, float] = {}
        self.text: dict[str, str] = {}
        self._panel, self._script = "", False
        self.feed(source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self._script = tag == "script"
        if tag == "script":
            self.scripts.append((attributes, ""))
        if tag == "section":
            self._panel = attributes["data-panel"] or ""
        if tag == "data" and attributes.get("data-name") and attributes.get("data-value"):
            self.values[str(attributes["data-name"])] = float(str(attributes["data-value"]))

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        if self._script:
            attributes, body = self.scripts[-1]
            self.scripts[-1] = (attributes, body + data)
        else:
            self.text[self._panel] = self.text.get(self._panel, "") + data

    def specs(self) -> dict[str, Any]:
        return {str(attributes["data-spec"]): json.loads(body) for attributes, body in self.scripts if "data-spec" in attributes}


@pytest.fixture(scope="module")
def parsed(page: Path) -> Page:
    return Page(page.read_text("utf-8"))


def test_panels_are_found_by_walking_the_package() -> None:
    found = panels()
    assert [panel.name for panel in found] == EXPECTED_PANELS
    assert all(panel.lead and panel.title for panel in found)


def test_the_page_needs_nothing_but_itself(page: Path, parsed: Page) -> None:
    assert page.stat().st_size < 1_300_000
    loading = [
        (tag, name) for tag, attributes in parsed.tags for name in ("src", "srcset", "action", "data") if name in attributes
    ]
    assert loading == []
    assert [tag for tag, _ in parsed.tags if tag in ("link", "iframe", "img", "object", "embed", "base", "form")] == []
    links = [attributes["href"] for _, attributes in parsed.tags if "href" in attributes]
    assert links == [f"#{name}" for name in EXPECTED_PANELS]


def test_the_policy_allows_our_script_alone(parsed: Page) -> None:
    runnable = [body for attributes, body in parsed.scripts if attributes.get("type") != "application/json"]
    assert len(runnable) == 1, "the chart library is there once, for all charts"
    digest = base64.b64encode(hashlib.sha256(runnable[0].encode()).digest()).decode()
    (policy,) = [
        attributes["content"] for _, attributes in parsed.tags if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert f"script-src 'sha256-{digest}'" in policy
    assert "unsafe-eval" not in policy
    assert "http" not in policy


def test_subsets_without_room_are_named_and_those_that_were_trained_on_have_it(sample: Any, tmp_path: Path) -> None:
    store = sample.make_store(tmp_path / ".tilth")
    picked = store.get_named("subset", "code")  # the smallest, and trained on
    larger = {**picked.meta, "n_documents": 10**6}
    for number in range(4):
        store.save_named("subset", f"wide-{number}", picked.parts, larger)
    page = write_report(store, tmp_path / "report.html").read_text()
    assert "This page shows 4 subsets, not: wide-2, wide-3." in page
    assert all(f"Picked: {name}" in page for name in ("clean", "code", "wide-0", "wide-1"))


def test_summary_numbers_are_those_of_sql(parsed: Page, connection: Any) -> None:
    def one(sql: str) -> float:
        return float(connection.execute(sql).fetchone()[0])

    assert parsed.values["documents"] == one("select count(*) from demo.documents") == 600
    assert parsed.values["tokens"] == one("select sum(n_tokens) from demo.signals")
    assert parsed.values["rejects"] == one("select count(*) from demo.rejects") > 0
    assert parsed.values["duplicates"] == one("select count(distinct doc_id) from demo.duplicates where not is_keeper") > 0
    for name in ("clean", "code"):
        assert parsed.values[f"picked-{name}"] == one(f"select count(*) from subset_documents where subset = '{name}'") > 0


def test_the_flow_of_each_source_adds_up(parsed: Page, connection: Any) -> None:
    rows = connection.execute("select source, count(*), count(*) filter (not is_keeper) from demo group by source").fetchall()
    assert len(rows) == 3
    for source, n_documents, n_duplicates in rows:
        flow = {
            stage: parsed.values[f"flow/{stage}/{source}"]
            for stage in ("read", "rejected", "exact duplicate", "near duplicate", "unique")
        }
        assert flow["read"] == n_documents + flow["rejected"]
        assert flow["exact duplicate"] + flow["near duplicate"] == n_duplicates
        assert flow["read"] == flow["rejected"] + flow["exact duplicate"] + flow["near duplicate"] + flow["unique"]
    picked = connection.execute("select count(*) from subset_documents where subset = 'clean'").fetchone()[0]
    assert parsed.values["flow/picked: clean/all"] == picked


def test_the_cost_of_a_clause_is_that_of_sql(parsed: Page, connection: Any) -> None:
    dropped = {name: value for name, value in parsed.values.items() if name.startswith("dropped/clean/")}
    assert len(dropped) == 4
    for name, value in dropped.items():
        clause = name.removeprefix("dropped/clean/")
        assert value == connection.execute(f"select count(*) from demo where ({clause}) is not true").fetchone()[0]


def test_losses_and_deltas_are_those_of_sql(parsed: Page, connection: Any, sample: ModuleType) -> None:
    last = dict(connection.execute("select run, arg_max(loss, step) from losses group by run").fetchall())
    assert {name: parsed.values[f"last-loss/{name}"] for name in ("base", "tuned")} == last
    for name, value in sample.TUNED_LOSSES.items():
        assert parsed.values[f"{name}/tuned"] == value
    assert "4,322" in parsed.text["runs"], "tokens/s"
    assert "rank1" in parsed.text["deltas"]
    assert "93.1%" in parsed.text["deltas"]


def test_lineage_links_every_thing_to_what_it_was_made_from(parsed: Page, connection: Any) -> None:
    keys = {str(attributes["data-thing"]): attributes["data-key"] for _, attributes in parsed.tags if "data-thing" in attributes}
    expected = {}
    for kind, table in (("corpus", "corpora"), ("subset", "subsets"), ("tokens", "tokens"), ("run", "runs"), ("delta", "deltas")):
        expected |= {
            f"{kind}/{name}": digest for name, digest in connection.execute(f"select name, digest from {table}").fetchall()
        }
    assert keys == expected
    links = {str(attributes["data-link"]) for _, attributes in parsed.tags if "data-link" in attributes}
    assert links == {
        "corpus/demo subset/clean", "corpus/demo subset/code", "subset/clean tokens/clean", "subset/code tokens/code",
        "tokens/clean run/base", "tokens/code run/tuned", "run/base run/tuned", "run/tuned delta/tuned", "run/base delta/tuned",
    }  # fmt: skip


def test_hostile_texts_are_shown_and_do_nothing(page: Path, parsed: Page) -> None:
    assert "<script>window.pwned = 1</script>" in parsed.text["examples"] + parsed.text["duplicates"]
    assert "<script>window.pwned = 1</script>" in parsed.text["deltas"]
    assert "git <b>" in parsed.text["flow"]
    source = page.read_text("utf-8").split("<main>")[1].split("</main>")[0]
    assert "<script>window" not in source
    assert not re.search(r"<img|<b>|<i>detail", source)
    assert not re.search("[\x00\x1b\u202e]", source)
    for attributes, body in parsed.scripts:
        if attributes.get("type") == "application/json":
            assert "<" not in body
            json.loads(body)


@pytest.mark.parametrize(
    ("stage", "sentences"),
    [
        (
            "read",
            {"signals": "", "duplicates": "No duplicates", "examples": "No subset", "runs": "No model", "deltas": "No fine-tune"},
        ),
        ("signals", {"examples": "No subset", "clauses": "No subset", "runs": "No model"}),
        ("subset", {"runs": "No model has been trained yet", "deltas": "No fine-tune has been deployed", "replay": "No trace"}),
    ],
)
def test_a_panel_without_its_tables_says_so(sample: ModuleType, tmp_path: Path, stage: str, sentences: dict[str, str]) -> None:
    store = sample.make_store(tmp_path / ".tilth", n_documents=80, upto=stage)
    parsed = Page(write_report(store, tmp_path / "report.html").read_text("utf-8"))
    assert parsed.values["documents"] == 80
    for panel, sentence in sentences.items():
        assert sentence in parsed.text[panel]


def test_an_empty_store_gives_a_page_that_says_so(tmp_path: Path) -> None:
    parsed = Page(write_report(Store(tmp_path / ".tilth"), tmp_path / "report.html").read_text("utf-8"))
    assert {panel.name for panel in panels()} <= parsed.text.keys()
    for name in ("glance", "flow", "signals", "examples"):
        assert "No corpus has been built yet" in parsed.text[name]
    assert parsed.specs() == {}


def test_an_unknown_corpus_is_refused_with_the_nearest_name(full_store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="demo"):
        write_report(full_store, tmp_path / "report.html", corpus="dem")
    assert not (tmp_path / "report.html").exists()


def test_a_missing_library_is_named_with_its_remedy(full_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tilth.report.bundle import chart_script

    chart_script.cache_clear()
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(UserError, match="vl-convert") as raised:
        write_report(full_store, tmp_path / "report.html")
    assert "tilth[report]" in str(raised.value)
    assert not (tmp_path / "report.html").exists()


def test_two_corpora_have_a_part_each(sample: ModuleType, tmp_path: Path) -> None:
    store = sample.make_store(tmp_path / ".tilth", n_documents=60, upto="signals")
    demo = store.get_named("corpus", "demo")
    store.save_named("corpus", "my-other", demo.parts, demo.meta)
    both = Page(write_report(store, tmp_path / "both.html").read_text("utf-8"))
    assert "Corpus demo" in both.text["flow"]
    assert "Corpus my-other" in both.text["flow"]
    one = Page(write_report(store, tmp_path / "one.html", corpus="my-other").read_text("utf-8"))
    assert "Corpus" not in one.text["glance"]
    assert one.values["documents"] == 60
