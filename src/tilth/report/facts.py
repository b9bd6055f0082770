"""One temporary table with a row a document: everything about it but its text, read from the catalog's files once."""

from __future__ import annotations

import re

from tilth.catalog.policies import POLICIES
from tilth.catalog.policy import Policy
from tilth.report.scope import Scope, is_numeric, quoted

_LEFT_OUT = ("text", "meta", "text_swhid", "raw_swhid", "encoding", "extraction")  # what no query over all documents asks
_PLACES = re.compile(r"(^|_)(start|end)s?$")  # as the families name the ends of spans
_PLAIN = ("n_tokens", "n_chars")  # sizes, which are drawn like signals


def facts_table(scope: Scope) -> str:
    """The name of the table; made once for a corpus.

    Measured columns are finite doubles or null; of a list it is the mean of its entries, or their number where they are
    no numbers. What `clause_columns` names holds whether a document satisfies that clause. Other columns are as they are.
    """
    name = f"report_facts_{scope.relation}"
    if not scope.has_temporary(name):
        judged = [f"({clause}\n)::boolean as {column}" for clause, column in clause_columns(scope).items()]
        columns = [_column(scope, column, kind) for column, kind in scope.wide_columns.items() if column not in _LEFT_OUT]
        scope.connection.execute(
            f"create temp table {quoted(name)} as select {', '.join([*judged, *filter(None, columns)])} from {scope.wide}"
        )
    return f"temp.{quoted(name)}"


def measured_columns(scope: Scope) -> list[str]:
    """Columns with a cut first, then sizes, then the signals (numbers and lists) in the order of their families.

    Where spans begin and end in a text is no measure of it: such lists are left out.
    """
    wanted = [cut.column for subset in scope.subsets for cut in subset.cuts]
    wanted += _PLAIN
    signals = signal_columns(scope).items()
    wanted += [name for name, kind in signals if is_numeric(kind) or (kind.endswith("[]") and not _PLACES.search(name))]
    return [name for name in dict.fromkeys(wanted) if name in scope.wide_columns]


def signal_columns(scope: Scope) -> dict[str, str]:
    """Every signal with its type; not the columns that say why one is undefined."""
    signals = scope.columns("signals", scope.relation)
    keys = ("doc_id", "shard", "row")
    return {name: kind for name, kind in signals.items() if name not in keys and not name.endswith("_undefined")}


def families(scope: Scope) -> dict[str, str]:
    """Signal -> the family it belongs to; a name that two families or the documents have carries its family before it."""
    seen = {name.lower() for name in scope.columns("documents", scope.relation)}
    found = {}
    for schema, view in sorted(scope.relations):
        if schema == scope.relation and view.startswith("signals_"):
            family = view.removeprefix("signals_")
            for name in scope.columns(view, schema):
                if name not in ("shard", "row"):
                    shown = f"{family}_{name}" if name.lower() in seen else name
                    seen.add(shown.lower())
                    found[shown] = family
    return found


def clause_columns(scope: Scope) -> dict[str, str]:
    """Clause -> the column, quoted, of whether it holds: of every policy that can be judged and every subset shown."""
    clauses = [clause.sql for policy in judged_policies(scope) for clause in policy.clauses]
    clauses += [clause for subset in scope.subsets for clause in subset.clauses]
    return {clause: quoted(f"holds:{number}") for number, clause in enumerate(dict.fromkeys(clauses))}


def judged_policies(scope: Scope) -> list[Policy]:
    """The named policies all of whose signals the corpus has, over the columns that it has.

    Those that need nothing but tokens or fields, which hardly a corpus is without, are left out: nothing was asked for them.
    """
    asked = (named for named in POLICIES.values() if not set(named.needs) <= {"tokens", "meta"})
    return [policy for named in asked if (policy := named.on(scope.wide_columns)) is not None]


def _column(scope: Scope, name: str, kind: str) -> str | None:
    column = quoted(name)
    if kind.endswith("[]"):
        entry = kind.removesuffix("[]")
        if entry == "BOOLEAN" or is_numeric(entry):
            return f"{_finite(f'list_avg({column}::double[])')} as {column}"
        return f"len({column})::double as {column}"
    if is_numeric(kind) and name in measured_columns(scope):
        return f"{_finite(f'{column}::double')} as {column}"
    return None if kind.startswith(("MAP", "STRUCT")) else column


def _finite(value: str) -> str:
    return f"case when isfinite({value}) then {value} end"
