"""Mixtures: how many tokens of a subset come from each source, by repeating small ones and sampling large ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb

from tilth.errors import SubsetError, did_you_mean


@dataclass(frozen=True)
class Mixture:
    """Weights by source, in tokens; they need not add up to one, and 0 leaves a source out.

    A document is repeated at most `max_repeats` times. Without a budget of tokens the subset is as large as that allows.
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
    """One source of a mixture: what it had, how often it is taken, and what that gave."""

    source: str
    weight: float  # of all weights
    n_tokens_there: int
    repeats: float
    n_tokens: int


def take_mixture(connection: duckdb.DuckDBPyConnection, mixture: Mixture, max_tokens: int | None, seed: int) -> list[Share]:
    """Replace the table `chosen` (source, doc_id, n_tokens, ...) by what the mixture takes of it; `n_copies` becomes how often.

    Documents come in the order of a hash of (seed, doc_id), so a larger budget takes the same ones and more.
    Raises SubsetError for a source without a weight or without documents, and for one that would repeat too often.
    """
    there = {
        str(source): int(n)
        for source, n in connection.execute("select source, sum(n_tokens) from chosen group by source").fetchall()
    }
    _check_sources(mixture, there)
    wanted = {source: weight / mixture.total for source, weight in mixture.weights.items() if weight}
    largest = min(there[source] * mixture.max_repeats / weight for source, weight in wanted.items())
    n_tokens = largest if max_tokens is None else max_tokens
    repeats = {source: weight * n_tokens / there[source] for source, weight in wanted.items()}
    for source, times in repeats.items():
        if times > mixture.max_repeats * (1 + 1e-9):
            raise SubsetError(
                f"`{source}` would repeat {times:.2f} times, at most {mixture.max_repeats:g} are allowed",
                where=f"{there[source]:,} tokens there, {wanted[source] * n_tokens:,.0f} wanted",
                fix=f"Ask for at most {int(largest):,} tokens, or allow more repeats.",
            )
    values = ", ".join("(?, ?)" for _ in repeats)
    connection.execute(
        f"""create or replace temp table chosen as
        select * exclude (n_copies, n_before, times, n_there),
               (floor(times) + (n_before < (times - floor(times)) * n_there)::integer)::integer as n_copies
        from (select chosen.*, times, sum(n_tokens) over of_source as n_there,
                     coalesce(sum(n_tokens) over (of_source order by md5('{seed}:' || doc_id::varchar), doc_id
                              rows between unbounded preceding and 1 preceding), 0) as n_before
              from chosen join (values {values}) as taken(name, times) on source = name
              window of_source as (partition by source))
        where floor(times) + (n_before < (times - floor(times)) * n_there)::integer > 0""",
        [value for pair in repeats.items() for value in pair],
    )
    given = {
        str(source): int(n)
        for source, n in connection.execute("select source, sum(n_tokens * n_copies) from chosen group by source").fetchall()
    }
    return [Share(source, wanted[source], there[source], repeats[source], given.get(source, 0)) for source in sorted(wanted)]


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
