"""Documents as the page shows them: a shortened text with what identifies it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tilth.report.blocks import Excerpt
from tilth.report.facts import facts_table
from tilth.report.markup import shorten
from tilth.report.scope import Row, Scope

MAX_TEXT_CHARS = 20_000  # read from SQL at most, to compare the texts of a cluster
SHOWN_CHARS = 420

Key = tuple[str, int]


def fetch(scope: Scope, keys: Iterable[Key]) -> dict[Key, Row]:
    """These documents with what identifies them and the beginning of their text, by (shard, row)."""
    wanted = sorted(set(keys))
    if not wanted:
        return {}
    columns = [name for name in ("url", "path", "origin", "language", "licence", "n_tokens") if name in scope.wide_columns]
    marks = ", ".join("(?, ?)" for _ in wanted)
    rows = scope.rows(
        f"""select d.shard, d.row, d.source, d.text_swhid, left(d.text, {MAX_TEXT_CHARS}) as text, d.n_chars
                   {"".join(f", facts.{name}" for name in columns)}
            from (values {marks}) as wanted(shard, row)
            join {scope.side("documents")} as d on d.shard = wanted.shard and d.row = wanted.row
            join {facts_table(scope)} as facts on facts.shard = wanted.shard and facts.row = wanted.row""",
        *(part for key in wanted for part in key),
    )
    return {(row["shard"], row["row"]): row for row in rows}


def excerpt(document: Row, facts: Sequence[str] = (), marks: Sequence[tuple[str, str]] = (), start: int = 0) -> Excerpt:
    """A document from character `start` on, with where it comes from."""
    place = document.get("url") or " ".join(filter(None, (document.get("origin"), document.get("path")))) or ""
    name = (document.get("path") or place or document["text_swhid"]).rstrip("/").rsplit("/", 1)[-1]
    known = [
        f"{document['source']} · {document['shard']}:{document['row']} · {document['n_chars']:,} characters",
        shorten(place, 110),
        *facts,
    ]
    begin = max(0, start - 60)
    body = shorten(document["text"][begin : begin + SHOWN_CHARS + 200], SHOWN_CHARS)
    return Excerpt(shorten(name, 60), [fact for fact in known if fact], ("…" if begin else "") + body, marks)


def first_difference(one: str, other: str) -> int:
    """The first character in which two texts differ; 0 where they do not."""
    if one == other:
        return 0
    for index, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return index
    return min(len(one), len(other))
