"""What a panel is made of: figures, charts, tables, notes and texts; each knows how to become HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tilth.report.markup import Child, Markup, join, json_script, tag
from tilth.report.numbers import number


class Block(Protocol):
    """Anything with an `html`."""

    def html(self) -> Markup:
        """The block as markup."""
        ...


@dataclass(frozen=True)
class Figure:
    """One number of the summary; `name` is what a program finds it by."""

    name: str
    label: str
    value: float | int | None
    shown: str | None = None  # how it is written, if not as a plain number
    note: str | None = None

    def html(self) -> Markup:
        shown = self.shown if self.shown is not None else number(self.value)
        return tag(
            "div", tag("dt", self.label), tag("dd", value_of(self.name, self.value, shown), _small(self.note)), class_="figure"
        )


@dataclass(frozen=True)
class Figures:
    """Numbers side by side."""

    figures: Sequence[Figure]

    def html(self) -> Markup:
        return tag("dl", *(figure.html() for figure in self.figures), class_="figures")


@dataclass(frozen=True)
class Cell:
    """A table's number: what is shown, and what a program reads."""

    value: float | int | None
    shown: str | None = None
    name: str | None = None

    def html(self) -> Markup:
        shown = self.shown if self.shown is not None else number(self.value)
        return value_of(self.name, self.value, shown)


@dataclass(frozen=True)
class Table:
    """Rows under a heading. Cells that are numbers are set to the right."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | Child]]
    caption: str | None = None
    folded: bool = False  # shown on request

    def html(self) -> Markup:
        numeric = [all(isinstance(row[index], Cell) for row in self.rows) for index in range(len(self.columns))]
        head = tag(
            "tr", *(tag("th", name, scope="col", class_=_right(right)) for name, right in zip(self.columns, numeric, strict=True))
        )
        body = [tag("tr", *(_cell(cell) for cell in row)) for row in self.rows]
        table = tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="scroll", tabindex="0")
        if self.folded:
            return tag("details", tag("summary", self.caption or "Table"), table)
        return join(tag("p", self.caption, class_="caption") if self.caption else None, table)


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite picture; `spec` is what Altair's `to_dict` gives. `name` is what a program finds it by."""

    name: str
    title: str
    spec: Mapping[str, Any]
    notes: Sequence[str] = ()
    legend: Sequence[tuple[str, str]] = ()  # label, CSS colour: of colours that are this chart's own

    def html(self) -> Markup:
        legend = Legend(self.legend).html() if self.legend else None
        notes = [tag("p", note) for note in self.notes]
        # Vega-Embed adds its own class to the box, so the box is found by its attribute.
        box = tag("div", class_="chart", data_chart=self.name, role="group", aria_label=self.title)
        below = tag("figcaption", *notes) if notes else None
        return tag("figure", tag("h4", self.title), legend, box, json_script(bare_spec(self.spec), data_spec=self.name), below)


@dataclass(frozen=True)
class Grid:
    """Blocks in as many columns as there is room for."""

    blocks: Sequence[Block]
    kind: str = "charts"  # or "small": no wider where there are few; "texts"; "pairs": two texts beside each other

    def html(self) -> Markup:
        return tag("div", *(block.html() for block in self.blocks), class_=f"grid {self.kind}")


@dataclass(frozen=True)
class Folded:
    """Blocks that are shown on request; charts among them are drawn then."""

    summary: str
    blocks: Sequence[Block]

    def html(self) -> Markup:
        return tag("details", tag("summary", self.summary), *(block.html() for block in self.blocks))


@dataclass(frozen=True)
class Legend:
    """Which colour means what, above the charts that share it."""

    entries: Sequence[tuple[str, str]]  # label, CSS colour

    def html(self) -> Markup:
        items = [tag("li", tag("span", class_="swatch", style=f"background:{colour}"), label) for label, colour in self.entries]
        return tag("ul", *items, class_="legend")


@dataclass(frozen=True)
class Note:
    """A sentence."""

    sentence: str

    def html(self) -> Markup:
        return tag("p", self.sentence, class_="note")


@dataclass(frozen=True)
class Heading:
    """A title within a panel, with a line of explanation."""

    title: str
    line: str | None = None

    def html(self) -> Markup:
        return join(tag("h3", self.title), tag("p", self.line, class_="note") if self.line else None)


@dataclass(frozen=True)
class Sql:
    """SQL as it was typed."""

    label: str
    statement: str

    def html(self) -> Markup:
        return tag("figure", tag("figcaption", self.label), tag("pre", tag("code", self.statement)), class_="sql")


@dataclass(frozen=True)
class Excerpt:
    """A piece of a document with what identifies it; the text is inert whatever it holds."""

    head: str
    facts: Sequence[str]
    body: str
    marks: Sequence[tuple[str, str]] = field(default=())  # badge, class

    def html(self) -> Markup:
        badges = [tag("span", label, class_=f"badge {kind}") for label, kind in self.marks]
        facts = [tag("li", fact) for fact in self.facts]
        return tag(
            "article",
            tag("header", tag("strong", self.head), *badges),
            tag("ul", *facts),
            tag("pre", self.body),
            class_="excerpt",
        )


@dataclass(frozen=True)
class Drawing:
    """A picture that a panel drew itself."""

    picture: Markup

    def html(self) -> Markup:
        return tag("div", self.picture, class_="scroll", tabindex="0")


def value_of(name: str | None, value: float | int | None, shown: str) -> Markup:
    """The number for people, with the exact one in attributes for programs."""
    exact = None if value is None else repr(float(value)) if isinstance(value, float) else str(value)
    return tag("data", shown, value=exact or "", data_name=name, data_value=exact)


def bare_spec(spec: Mapping[str, Any]) -> dict[str, Any]:
    """A spec without what all charts share: the theme is in the page once."""
    return {key: part for key, part in spec.items() if key not in ("$schema", "config")}


def _cell(cell: Cell | Child) -> Markup:
    return tag("td", cell.html(), class_="right") if isinstance(cell, Cell) else tag("td", cell)


def _right(numeric: bool) -> str | None:
    return "right" if numeric else None


def _small(note: str | None) -> Markup | None:
    return tag("small", note) if note else None
