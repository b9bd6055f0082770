"""write_report: asks every panel and binds what they return into one file that needs nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from typing import Any

import tilth
from tilth.artifacts import Store
from tilth.artifacts.atomic import write_atomically
from tilth.report.blocks import Block, Heading, Note
from tilth.report.markup import Child, Markup, join, json_script, tag
from tilth.report.registry import Panel, panels
from tilth.report.scope import AbsentError, Scope
from tilth.report.views import add_views

TITLE = "Tilth report"


def write_report(store: Store, out: Path, corpus: str | None = None) -> Path:
    """Write the page about one corpus (or all of them) and everything made from it; returns `out`.

    Raises NotFoundError if there is no such corpus, StoreError if the catalog or the page cannot be read or
    written, and UserError if the report's libraries are not installed.
    """
    from tilth.catalog.connect import connect, stopping

    if corpus is not None:
        store.get_named("corpus", corpus)
    with connect(store, corpora=None if corpus is None else [corpus]) as connection, stopping(connection):
        add_views(connection, store)
        page = render(connection, corpus)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, page.encode())
    return out


def render(connection: Any, corpus: str | None = None) -> str:
    """The page as HTML, from a connection with the catalog's views."""
    scopes = _scopes(connection, corpus)
    sections = [_section(panel, scopes) for panel in panels()]
    return page(_title(scopes), _about(connection), sections, _contents())


def page(title: str, about: Child, sections: Iterable[Markup], contents: Markup | None = None) -> str:
    """One HTML file that needs nothing else: a title, a sentence under it, and sections whose charts draw themselves."""
    from tilth.report.bundle import chart_script
    from tilth.report.theme import chart_config

    script = chart_script()
    style = files("tilth.report").joinpath("page.css").read_text("utf-8")
    head = tag(
        "head",
        Markup('<meta charset="utf-8"/>'),
        Markup(f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}"/>'),
        Markup('<meta name="viewport" content="width=device-width, initial-scale=1"/>'),
        Markup('<meta name="color-scheme" content="light dark"/>'),
        tag("title", title),
        tag("style", Markup(style)),
    )
    body = tag(
        "body",
        tag("header", tag("h1", title), tag("p", about, class_="note"), class_="top"),
        contents,
        tag(
            "noscript",
            tag("p", "Charts are drawn by a script inside this page, and scripts are off. All tables and texts are here."),
        ),
        tag("main", *sections),
        json_script(chart_config(), data_theme=""),
        tag("script", Markup(script)),
    )
    return "<!doctype html>\n" + tag("html", head, body, lang="en") + "\n"


def _scopes(connection: Any, corpus: str | None) -> list[Scope]:
    probe = Scope(connection, None)
    if not probe.columns("corpora"):
        return [probe]
    relation = "relation" if "relation" in probe.columns("corpora") else "name as relation"
    found = probe.rows(f"select name, {relation} from corpora where $1::varchar is null or name = $1 order by name", corpus)
    return [Scope(connection, row["name"], row["relation"]) for row in found] or [probe]


def _section(panel: Panel, scopes: list[Scope]) -> Markup:
    parts: list[Markup] = []
    for scope in scopes if panel.per_corpus else scopes[:1]:
        blocks = _blocks(panel, scope)
        if panel.per_corpus and len(scopes) > 1:
            blocks = [Heading(f"Corpus {scope.corpus}"), *blocks]
        parts += [block.html() for block in blocks]
    lead = tag("p", panel.lead, class_="lead") if panel.lead else None
    return tag("section", tag("h2", panel.title), lead, *parts, id=panel.name, data_panel=panel.name)


def _blocks(panel: Panel, scope: Scope) -> list[Block]:
    try:
        return list(panel.draw(scope))
    except AbsentError as absent:
        return [Note(str(absent))]


def _contents() -> Markup:
    links: Iterable[Markup] = (tag("li", tag("a", panel.title, href=f"#{panel.name}")) for panel in panels())
    return tag("nav", tag("ol", *links), aria_label="Contents")


def _title(scopes: list[Scope]) -> str:
    names = [scope.corpus for scope in scopes if scope.corpus]
    return f"{TITLE}: {', '.join(names)}" if names else TITLE


def _about(connection: Any) -> Markup:
    scope = Scope(connection, None)
    sentence = f"Tilth {tilth.__version__}. Every number on this page comes from SQL on the catalog."
    if scope.columns("step_seconds"):
        when = scope.row(
            "select strftime(to_timestamp(max(at_unix)) at time zone 'UTC', '%-d %B %Y, %H:%M UTC') as t from step_seconds"
        )["t"]
        sentence += f" The last step ended on {when}." if when else ""
    return join(sentence)


def _policy(script: str) -> str:
    # Scripts run by their hash alone, so that none which a document might smuggle in could ever run.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = ("default-src 'none'", f"script-src 'sha256-{digest}'", "style-src 'unsafe-inline'", "img-src data:")
    return "; ".join((*rules, "base-uri 'none'", "form-action 'none'"))
