"""Mixtures: how many tokens of a subset come from each source, by repeating small ones and sampling large ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import duckdb

from tilth.catalog.nearest import take_nearest
from tilth.errors import SubsetError, did_you_mean

TOLERANCE = 0.05  # of its share that a source may miss before `pick` warns


@dataclass(frozen=True)
class Mixture:
    """Weights by source, in tokens; they need not add up to one, and 0 leaves a source out.

    A source is repeated at most `max_repeats` times; one that runs out is refused. Without a budget of tokens the subset is
    as large as the scarcest source allows.
    """

    weights: Mapping[str, float]
    max_repeats: float = 1.0

    def __post_init__(self) -> None:
        if not self.weights or any(not 0 <= weight < float("inf") for weight in self.weights.values()) or not self.total:
            raise SubsetError("a mixture needs weights from 0 up, and one above 0", fix="For example web=0.8,code=0.2.")
        if not 0 < self.max_repeats < float("inf"):
            raise SubsetError(f"max_repeats is {self.max_repeats}", fix="Give a number above 0; 1 repeats nothing.")

    @property
    def total(self) -> float:
        """What the weights add up to."""
        return sum(self.weights.values())


@dataclass(frozen=True)
class Share:
    """One source of a mixture: what it had, how often it is taken, what that gave, and what training gets of it.

    `reached` is its share of the training tokens; where that is more than TOLERANCE of `weight` away from it, `why_off`
    says why.
    """

    source: str
    weight: float  # of all weights
    n_tokens_there: int
    repeats: float
    n_tokens_wanted: int
    n_tokens: int
    n_tokens_smallest: int  # of its documents
    n_tokens_largest: int
    n_tokens_train: int = 0
    reached: float = 0.0
    why_off: str = ""


def take_mixture(connection: duckdb.DuckDBPyConnection, mixture: Mixture, max_tokens: int | None, seed: int) -> list[Share]:
    """Replace the table `chosen` (source, doc_id, n_tokens, ...) by what the mixture takes of it; `n_copies` becomes how often.

    Documents are taken whole: those whose tokens come nearest to what is wanted of their source (tilth.catalog.nearest).
    Raises SubsetError for a source without a weight or without documents, and for one that would repeat too often.
    """
    found = connection.execute(
        "select source, sum(n_tokens), min(n_tokens), max(n_tokens) from chosen group by source"
    ).fetchall()
    there, smallest, largest = ({str(row[0]): int(row[i]) for row in found} for i in (1, 2, 3))
    _check_sources(mixture, there)
    weights = {source: weight / mixture.total for source, weight in mixture.weights.items() if weight}
    most = min(there[source] * mixture.max_repeats / weight for source, weight in weights.items())
    n_tokens = most if max_tokens is None else max_tokens
    wanted = {source: weight * n_tokens for source, weight in weights.items()}
    _check_repeats(mixture, there, wanted, most)
    repeats = {source: wanted[source] / there[source] for source in weights}
    take_nearest(
        connection, "source", {source: times % 1 * there[source] for source, times in repeats.items()}, seed, may_exceed=True
    )
    values = ", ".join("(?, ?)" for _ in repeats)
    connection.execute(
        f"""create or replace temp table chosen as
        select chosen.* replace ((whole + (taken.shard is not null)::integer)::integer as n_copies)
        from chosen join (values {values}) as times(name, whole) on source = name
        left join taken on chosen.shard = taken.shard and chosen.row = taken.row
        where whole > 0 or taken.shard is not null""",
        [value for source, times in repeats.items() for value in (source, int(times))],
    )
    given = dict(connection.execute("select source, sum(n_tokens * n_copies) from chosen group by source").fetchall())
    return [
        Share(
            source,
            weights[source],
            there[source],
            repeats[source],
            round(wanted[source]),
            int(given.get(source, 0)),
            smallest[source],
            largest[source],
        )
        for source in sorted(weights)
    ]


def judged(shares: Sequence[Share], in_training: Mapping[str, int]) -> list[Share]:
    """The shares with what training has of each, and why it is not what was asked for."""
    total = sum(in_training.values())
    return [
        replace(
            share,
            n_tokens_train=in_training.get(share.source, 0),
            reached=in_training.get(share.source, 0) / total if total else 0.0,
            why_off=_why_off(share, shares, in_training.get(share.source, 0), total),
        )
        for share in shares
    ]


def _why_off(share: Share, shares: Sequence[Share], n_train: int, total: int) -> str:
    if total and abs(n_train / total - share.weight) <= TOLERANCE * share.weight:
        return ""
    if abs(share.n_tokens - share.n_tokens_wanted) > TOLERANCE / 2 * share.n_tokens_wanted:
        return f"documents are taken whole, and its own have {share.n_tokens_smallest:,} to {share.n_tokens_largest:,} tokens"
    others = [one.source for one in shares if abs(one.n_tokens - one.n_tokens_wanted) > TOLERANCE / 2 * one.n_tokens_wanted]
    if others:
        return f"`{others[0]}` missed its own share"
    return f"validation, which repeats nothing, holds documents of {share.n_tokens - n_train:,} of its tokens"


def _check_repeats(mixture: Mixture, there: Mapping[str, int], wanted: Mapping[str, float], most: float) -> None:
    for source, n_tokens in wanted.items():
        times = n_tokens / there[source]
        if times > mixture.max_repeats * (1 + 1e-9):
            raise SubsetError(
                f"`{source}` would repeat {times:.2f} times, at most {mixture.max_repeats:g} are allowed",
                where=f"{there[source]:,} tokens there, {n_tokens:,.0f} wanted",
                fix=f"Ask for at most {int(most):,} tokens, or allow more repeats.",
            )


def _check_sources(mixture: Mixture, there: Mapping[str, int]) -> None:
    for source in sorted(there):
        if source not in mixture.weights:
            raise SubsetError(
                f"the mixture gives `{source}` no weight",
                where=f"sources of the selected documents: {', '.join(sorted(there))}",
                fix=f"Add {source}=0 to leave it out.",
            )
    for source, weight in mixture.weights.items():
        if weight and not there.get(source):
            raise SubsetError(f"no selected document is of source `{source}`", fix=did_you_mean(source, there))
