"""One exception tree: every error that Tilth raises on purpose says what happened, where, and how to fix it.

TilthError                 a job failed                               exit code 1
├── ContractError          data does not have the promised shape
├── StoreError             the store could not be read or written (disk full, permissions)
├── BuildError             steps of a build failed; the finished ones are kept
├── TrainError             training cannot go on (loss not finite, a rank died)
└── UserError              something that was asked for cannot be   exit code 2
    ├── RecipeError        a recipe is missing, wrong, or has no such parameter
    ├── SourceError        an input is missing or is not what it should be
    ├── QueryError         SQL that DuckDB refuses
    ├── SubsetError        a subset that selects nothing, or the same document twice
    ├── NotFoundError      no artifact of that kind and name
    ├── StaleError         a resume with other inputs than the ones it began with
    ├── DeltaError         a delta that is damaged or made for another base
    └── BackendError       a kernel backend or cluster that cannot run here
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class TilthError(Exception):
    """Base of all deliberate errors.

    `what` is one sentence, `where` names the file, step or value, `fix` says what to type or change.
    """

    exit_code = 1

    def __init__(self, what: str, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(what, where, fix)
        self.what, self.where, self.fix = what, where, fix

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"   at: {self.where}")
        if self.fix:
            lines.append(f"  fix: {self.fix}")
        return "\n".join(lines)


class ContractError(TilthError):
    """Data does not have the shape that its contract promises."""


class StoreError(TilthError):
    """The store could not be read or written."""


class BuildError(TilthError):
    """One or more steps of a build failed; what had finished is kept."""


class TrainError(TilthError):
    """Training cannot go on."""


class UserError(TilthError):
    """What was asked for cannot be done as it was asked."""

    exit_code = 2


class RecipeError(UserError):
    """A recipe is missing, does not import, or has no such parameter."""


class SourceError(UserError):
    """An input is missing or is not what the source reads."""


class QueryError(UserError):
    """SQL that DuckDB refuses."""


class SubsetError(UserError):
    """A subset that selects nothing or that repeats a document."""


class NotFoundError(UserError):
    """No artifact of that kind and name."""


class StaleError(UserError):
    """A resume with inputs other than those it began with."""


class DeltaError(UserError):
    """A delta that is damaged or was made for another base."""


class BackendError(UserError, ValueError):
    """A kernel backend or a cluster that cannot run here."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `Did you mean X?` for the nearest of `known`, else the list of what is known."""
    names = sorted(set(known))
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    return f"Did you mean `{near[0]}`?" if near else f"Known: {', '.join(names) or 'none'}."
