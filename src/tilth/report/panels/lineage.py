"""What was made from what: corpus, subset, tokens, run, delta, each with its key."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tilth.report.blocks import Block, Drawing
from tilth.report.markup import Markup, shorten, tag
from tilth.report.registry import panel
from tilth.report.scope import AbsentError, Scope

_WIDTH, _HEIGHT, _GAP_X, _GAP_Y = 168, 62, 46, 16
_KINDS = ("corpus", "subset", "tokens", "run", "delta")
_TABLES = {"corpus": "corpora", "subset": "subsets", "tokens": "tokens", "run": "runs", "delta": "deltas"}
# (kind of the child, its column, kind of the parent)
_EDGES = (("subset", "corpus", "corpus"), ("tokens", "subset", "subset"), ("run", "tokens", "tokens"),
          ("run", "base", "run"), ("delta", "run", "run"), ("delta", "base", "run"))  # fmt: skip
MAX_OF_A_KIND = 30


@dataclass(frozen=True)
class Thing:
    """A named thing in the picture."""

    kind: str
    name: str
    key: str
    x: int
    y: int


@panel("Lineage", order=90, per_corpus=False)
def draw(scope: Scope) -> Iterable[Block]:
    """Read from left to right: each box was made from those that point to it. A dashed
    line leads from a base to what began from it or needs it. The key is a hash of what the thing is made of."""
    things = _things(scope)
    if not things:
        raise AbsentError("Nothing has a name yet: `tilth build RECIPE` makes the first thing that does.")
    yield Drawing(_picture(things, list(_edges(scope, things))))


def _things(scope: Scope) -> dict[tuple[str, str], Thing]:
    found: dict[tuple[str, str], Thing] = {}
    column = 0
    for kind in _KINDS:
        if not {"name", "digest"} <= scope.columns(_TABLES[kind]).keys():
            continue
        rows = scope.rows(f"select name, digest from {_TABLES[kind]} order by {_order(scope, kind)} limit {MAX_OF_A_KIND}")
        x = column * (_WIDTH + _GAP_X)
        for place, row in enumerate(rows):
            found[kind, row["name"]] = Thing(kind, row["name"], row["digest"], x, place * (_HEIGHT + _GAP_Y))
        column += bool(rows)
    return found


def _order(scope: Scope, kind: str) -> str:
    """Fine-tunes after what they began from."""
    return "base is not null, name" if kind == "run" and "base" in scope.columns("runs") else "name"


def _edges(scope: Scope, things: dict[tuple[str, str], Thing]) -> Iterable[tuple[Thing, Thing, str]]:
    for kind, column, parent_kind in _EDGES:
        if column not in scope.columns(_TABLES[kind]):
            continue
        for row in scope.rows(f"select name, {column} as parent from {_TABLES[kind]} where {column} is not null order by name"):
            child, parent = things.get((kind, row["name"])), things.get((parent_kind, row["parent"]))
            if child and parent:
                yield parent, child, column


def _picture(things: dict[tuple[str, str], Thing], edges: list[tuple[Thing, Thing, str]]) -> Markup:
    width = max(thing.x for thing in things.values()) + _WIDTH + 2
    height = max(thing.y for thing in things.values()) + _HEIGHT + 2
    said = f"{len(things)} things and {len(edges)} links between them"
    drawn = [_edge(*edge) for edge in edges] + [_box(thing) for thing in things.values()]
    box = f"-1 -1 {width} {height}"
    return tag("svg", *drawn, class_="lineage", viewBox=box, width=width, height=height, role="img", aria_label=said)


def _box(thing: Thing) -> Markup:
    middle = thing.x + 12
    return tag(
        "g",
        tag("rect", class_="box", x=thing.x, y=thing.y, width=_WIDTH, height=_HEIGHT, rx=6),
        tag("text", thing.kind, class_="kind", x=middle, y=thing.y + 18),
        tag("text", shorten(thing.name, 20), class_="name", x=middle, y=thing.y + 36),
        tag("text", thing.key[:16], class_="key", x=middle, y=thing.y + 53),
        tag("title", f"{thing.kind}/{thing.name}@{thing.key}"),
        data_thing=f"{thing.kind}/{thing.name}",
        data_key=thing.key,
    )


def _edge(parent: Thing, child: Thing, role: str) -> Markup:
    y1, y2 = parent.y + _HEIGHT // 2, child.y + _HEIGHT // 2
    x1 = parent.x + _WIDTH
    if parent.kind == child.kind:
        # A run that began from another stands in the same column: around the right side.
        x2 = x1
        path = f"M{x1} {y1} C{x1 + 34} {y1} {x2 + 34} {y2} {x2} {y2}"
    else:
        x2 = child.x
        bend = (x2 - x1) // 2
        path = f"M{x1} {y1} C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
    link = f"{parent.kind}/{parent.name} {child.kind}/{child.name}"
    return tag("path", class_="edge base" if role == "base" else "edge", d=path, data_link=link, data_role=role)
