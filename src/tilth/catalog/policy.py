"""What a named filter is: clauses over columns of a corpus, and where its thresholds stand."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Clause:
    """A condition on `columns`, which the family of signals `family` holds, and in a word what it asks for.

    `others` ask for the same of other columns, for corpora that were made otherwise. Where a corpus has the columns of
    several, the first that is not null decides of each document.
    """

    sql: str
    word: str
    family: str
    columns: tuple[str, ...]
    others: tuple[Clause, ...] = ()
    how: str = ""  # how a recipe gets `columns`, where `family` is no name for `Corpus(signals=...)`

    def on(self, columns: Collection[str]) -> Clause | None:
        """This clause over those of `columns` (lower case) that a corpus has; None where it lacks them."""
        there = [one for one in (self, *self.others) if all(column in columns for column in one.columns)]
        if len(there) > 1:
            both = tuple(column for one in there for column in one.columns)
            return replace(self, sql=f"coalesce({', '.join(one.sql for one in there)})", columns=both, others=())
        return replace(there[0], others=()) if there else None

    @property
    def advice(self) -> str:
        """What to add to a recipe."""
        return " or ".join(one.how or f"`{one.family}` to the signals" for one in (self, *self.others))


@dataclass(frozen=True)
class Policy:
    """A published filter. `source` says where its thresholds stand; `beyond` what it does besides that SQL cannot."""

    name: str
    source: str
    clauses: tuple[Clause, ...]
    beyond: str = ""

    @property
    def sql(self) -> str:
        """All clauses, joined by AND."""
        return " and ".join(clause.sql for clause in self.clauses)

    def on(self, columns: Collection[str]) -> Policy | None:
        """This policy over the columns of a corpus; None where the corpus lacks signals for it."""
        have = {column.lower() for column in columns}
        clauses = [clause.on(have) for clause in self.clauses]
        there = tuple(clause for clause in clauses if clause is not None)
        return replace(self, clauses=there) if len(there) == len(clauses) else None

    @property
    def needs(self) -> tuple[str, ...]:
        """The families of signals that a corpus must have."""
        return tuple(dict.fromkeys(clause.family for clause in self.clauses))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the clauses name."""
        return tuple(dict.fromkeys(column for clause in self.clauses for column in clause.columns))


def conditions(family: str, *conditions: tuple[str, str, str]) -> tuple[Clause, ...]:
    """Clauses over one column each: (column, comparison, word)."""
    return tuple(Clause(f"{column} {comparison}", word, family, (column,)) for column, comparison, word in conditions)
