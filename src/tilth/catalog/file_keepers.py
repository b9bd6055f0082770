"""Chooses the keepers of duplicates in a user's own files: one of each cluster, by a rule over the fields of its members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from tilth.catalog.complaints import complain
from tilth.catalog.connect import open_in_memory
from tilth.catalog.keeper_rule import Functions, KeeperRule, add_functions, check_binds
from tilth.catalog.quoting import literal, read_parquet
from tilth.catalog.ranking import in_order, key_values
from tilth.catalog.row_groups import write_as
from tilth.errors import QueryError, TilthError

PLACE = "tilth_place"  # of a member: its row in the table of duplicates
_LEAST_OBJECT_BYTES = 16 << 20


@dataclass(frozen=True)
class Members:
    """The fields of some documents that a rule asks for, in files: JSON lines, and tables. Each row has its PLACE besides.

    `columns` are the names of all fields that the user's files have, `longest_line` is in bytes.
    """

    lines: Path
    tables: Sequence[Path]
    columns: Sequence[str]
    longest_line: int


def check_file_rule(rule: KeeperRule, members: Members, functions: Functions) -> None:
    """Raise QueryError unless the rule means something for `members`, with the names of the fields that there are."""
    with open_in_memory(members.lines.parent) as connection:
        _create_documents(connection, members, functions)
        try:
            check_binds(connection, rule, members.columns)
        except TilthError as error:
            raise _with_columns(error, members) from error


def write_file_keepers(duplicates: Path, members: Members, rule: KeeperRule, functions: Functions, output: Path) -> None:
    """Write the table `duplicates` again with `is_keeper` as `rule` has it: the first by its keys, then by the table's order.

    Every row of it is among `members`. What exceeds the memory is spilled beside these. Raises QueryError for a rule that
    fails on a document.
    """
    with open_in_memory(members.lines.parent) as connection:
        try:
            _create_documents(connection, members, functions)
            judged = key_values(connection, "documents", (PLACE,), rule.keys)
            marks = f"(select *, file_row_number as {PLACE} from {read_parquet([duplicates], row_number=True)})"
            first = f"row_number() over (partition by cluster_id order by {in_order(rule.keys, PLACE)}) = 1"
            query = f"select * replace ({first} as is_keeper) from {marks} join {judged} using ({PLACE}) order by {PLACE}"
            write_as(connection, query, output, pq.read_schema(duplicates))
        except duckdb.Error as error:
            raise _with_columns(complain(error, known=members.columns), members) from error


def _create_documents(connection: duckdb.DuckDBPyConnection, members: Members, functions: Functions) -> None:
    add_functions(connection, functions)
    relations = []
    if members.longest_line:
        size = max(_LEAST_OBJECT_BYTES, 2 * members.longest_line)
        # All lines are looked at for the types, and objects are structs however many names they have.
        options = f"format='newline_delimited', sample_size=-1, map_inference_threshold=-1, maximum_object_size={size}"
        relations.append(f"select * from read_json({literal(str(members.lines))}, {options})")
    if members.tables:
        relations.append(f"select * from {read_parquet(members.tables)}")
    connection.execute(f"create view documents as {' union all by name '.join(relations)}")


def _with_columns(error: TilthError, members: Members) -> QueryError:
    near = f"{error.fix} " if (error.fix or "").startswith("Did you mean") else ""
    shown = ", ".join(members.columns[:50])
    return QueryError(error.what, error.where, f"{near}The files have the columns {shown}.")
