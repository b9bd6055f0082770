"""The relations that are about names and artifacts, not about one corpus: `corpora`, `subsets`, `runs`, `artifacts`, ..."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from tilth.artifacts import Artifact, Named, Store
from tilth.catalog.corpus_views import contract_types
from tilth.catalog.quoting import identifier, literal, no_rows, read_parquet
from tilth.contracts import DOCUMENT_LOSSES, LOSSES, SAMPLES, SUBSET, TOKEN_SPANS, TOKENS_INDEX

# Columns that come from a name's meta; a key that is not there is null. `meta` holds all of it as JSON.
_FROM_META = {
    "corpora": {"recipe": "VARCHAR"},
    "subsets": {
        "corpus": "VARCHAR",
        "corpus_digest": "VARCHAR",
        "where": "VARCHAR",
        "n_documents": "BIGINT",
        "n_tokens": "BIGINT",
        "n_bytes": "BIGINT",
        "n_documents_before": "BIGINT",
        "n_tokens_before": "BIGINT",
        "n_train": "BIGINT",
        "n_validation": "BIGINT",
    },
    "tokens": {"subset": "VARCHAR", "subset_digest": "VARCHAR"},
    "runs": {
        "subset": "VARCHAR",
        "tokens": "VARCHAR",
        "base": "VARCHAR",
        "objective": "VARCHAR",
        "seed": "BIGINT",
        "steps": "BIGINT",
        "seq_len": "BIGINT",
        "global_batch": "BIGINT",
        "layers": "VARCHAR",
        "n_parameters": "BIGINT",
        "start_loss": "DOUBLE",
        "end_loss": "DOUBLE",
        "start_validation_loss": "DOUBLE",
        "validation_loss": "DOUBLE",
        "tokens_per_second": "DOUBLE",
    },
    "deltas": {
        "run": "VARCHAR",
        "base": "VARCHAR",
        "size_bytes": "BIGINT",
        "full_size_bytes": "BIGINT",
        "loss_base": "DOUBLE",
        "loss_tuned": "DOUBLE",
        "loss_delta": "DOUBLE",
        "codec": "VARCHAR",
        "agreement": "DOUBLE",
        "task_base": "DOUBLE",
        "task_tuned": "DOUBLE",
        "task_delta": "DOUBLE",
        "bf16_bytes": "BIGINT",
        "matrix_bytes": "BIGINT",
        "table_bytes": "BIGINT",
        "other_bytes": "BIGINT",
        "sample": "VARCHAR",
    },
    "replays": {
        "trace": "VARCHAR",
        "model": "VARCHAR",
        "is_instant": "BOOLEAN",
        "n_requests": "BIGINT",
        "n_input_tokens": "BIGINT",
        "n_output_tokens": "BIGINT",
    },
    "evaluations": {
        "run": "VARCHAR",
        "problems": "VARCHAR",
        "n_problems": "BIGINT",
        "n": "BIGINT",
        "temperature": "DOUBLE",
        "max_tokens": "BIGINT",
        "seed": "BIGINT",
        "dtype": "VARCHAR",
        "device": "VARCHAR",
        "n_threads": "BIGINT",
        "verifier": "VARCHAR",
        "stops_when_decided": "BOOLEAN",
        "contamination": "VARCHAR",
        "batch": "BIGINT",
        "seconds": "DOUBLE",
        "tokens_per_second": "DOUBLE",
        "pass_at_1": "DOUBLE",
        "pass_at_n": "DOUBLE",
        "majority": "DOUBLE",
        "best_of_n": "DOUBLE",
    },
}
_CORPUS_COUNTS = {
    "n_documents": "read",
    "n_rejected": "read",
    "n_bytes": "read",
    "n_tokens": "signals.tokens",
}  # -> step that counts it
_CORPUS_ONLY = {"relation": "VARCHAR", "n_shards": "BIGINT", **dict.fromkeys(_CORPUS_COUNTS, "BIGINT")}
_KIND_OF = {"corpora": "corpus", "subsets": "subset", "tokens": "tokens", "runs": "run", "deltas": "delta", "replays": "replay"}
_KIND_OF |= {"evaluations": "evaluation"}
_ARTIFACTS = {
    "step": "VARCHAR",
    "shard": "VARCHAR",
    "key": "VARCHAR",
    "digest": "VARCHAR",
    "size_bytes": "BIGINT",
    "stats": "JSON",
}
_PARTS = {"kind": "VARCHAR", "name": "VARCHAR", "step": "VARCHAR", "shard": "VARCHAR", "key": "VARCHAR", "digest": "VARCHAR"}
_SECONDS = {"step": "VARCHAR", "shard": "VARCHAR", "key": "VARCHAR", "seconds": "DOUBLE", "at_unix": "DOUBLE"}
_SPANS = "spans.parquet"
_OF_FILES = ("subset_documents", "token_documents", "run_documents", "token_spans", "losses", "document_losses", "samples")
GLOBAL_RELATIONS = (*_FROM_META, *_OF_FILES, "artifacts", "parts", "step_seconds")

Rows = Sequence[Mapping[str, Any]]


def create_global_relations(
    connection: duckdb.DuckDBPyConnection,
    store: Store,
    names: Mapping[str, list[Named]],
    relations: Mapping[str, str],
    seconds_log: Path,
) -> None:
    """Create all GLOBAL_RELATIONS; `relations` maps a corpus to the name of its wide view."""
    named = [thing for group in names.values() for thing in group]
    made = {(part.step, part.key): store.artifact(part) for thing in named for part in thing.parts}
    for relation, columns in _FROM_META.items():
        extra = _CORPUS_ONLY if relation == "corpora" else {}
        rows = [_thing_row(thing, relations, made) for thing in names[_KIND_OF[relation]]]
        _create_table(connection, relation, {"name": "VARCHAR", "digest": "VARCHAR", **extra, **columns, "meta": "JSON"}, rows)
    rows = [{"kind": thing.kind, "name": thing.name, **vars(part)} for thing in named for part in thing.parts]
    _create_table(connection, "parts", _PARTS, rows)
    _create_table(connection, "artifacts", _ARTIFACTS, [_artifact_row(made[key]) for key in sorted(made)])
    _create_document_views(connection, store, names)
    times = (
        f"read_json({literal(str(seconds_log))}, format = 'newline_delimited', columns = {_struct(_SECONDS)})"
        if seconds_log.exists()
        else no_rows(_SECONDS)
    )
    connection.execute(f"create view step_seconds as select * from {times}")


def _create_document_views(connection: duckdb.DuckDBPyConnection, store: Store, names: Mapping[str, list[Named]]) -> None:
    picks = [({"subset": named.name}, _all_of(path)) for named, path in _files(store, names["subset"], "pick", "subset.parquet")]
    _create_union(connection, "subset_documents", ["subset"], picks, contract_types(connection, SUBSET))
    types = {"document": "BIGINT", **contract_types(connection, TOKENS_INDEX)}
    # A run's own tokens: its subset's name may stand for something else by now.
    for view, kind in (("token_documents", "tokens"), ("run_documents", "run")):
        sets = [
            ({kind: named.name, "split": split, "subset": subset}, _documents_of_tokens(path))
            for split in ("train", "validation")
            for named in names[kind]
            for subset, path in _token_indexes(store, named, split)
        ]
        _create_union(connection, view, [kind, "split", *(["subset"] if kind == "run" else [])], sets, types)
    spans = [
        ({"tokens": named.name, "split": split}, _all_of(path))
        for split in ("train", "validation")
        for named, path in _files(store, names["tokens"], f"tokens.{split}", _SPANS)
        if path.is_file()  # only a training form writes them
    ]
    _create_union(connection, "token_spans", ["tokens", "split"], spans, contract_types(connection, TOKEN_SPANS))
    losses = [({"run": named.name}, _all_of(path)) for named, path in _files(store, names["run"], "train", "losses.parquet")]
    _create_union(connection, "losses", ["run"], losses, contract_types(connection, LOSSES))
    _create_document_losses(connection, store, names["run"])
    samples = [
        ({"evaluation": named.name}, _all_of(path))
        for named, path in _files(store, names["evaluation"], "samples", "samples.parquet")
    ]
    _create_union(connection, "samples", ["evaluation"], samples, contract_types(connection, SAMPLES))


def _create_document_losses(connection: duckdb.DuckDBPyConnection, store: Store, runs: Iterable[Named]) -> None:
    """The table that a run wrote says which document of a token set it means: the set's index says which one that is."""
    place = {name: kind for name, kind in contract_types(connection, TOKENS_INDEX).items() if name in ("doc_id", "shard", "row")}
    columns, queries = ", ".join(map(identifier, place)), []
    for run, path in _files(store, runs, "train", "document_losses.parquet"):
        if path.is_file():  # only where it was asked for
            documents = [
                f"select {literal(subset)} as subset, file_row_number as document, {columns} "
                f"from {read_parquet([index], row_number=True)}"
                for subset, index in _token_indexes(store, run, "train")
            ] or [f"select * from {no_rows({'subset': 'VARCHAR', 'document': 'BIGINT', **place})}"]
            query = (
                f"select l.*, l.loss_sum / l.n_targets as loss, {columns} from {read_parquet([path])} as l "
                f"left join ({' union all '.join(documents)}) using (subset, document)"
            )
            queries.append(({"run": run.name}, query))
    types = {**contract_types(connection, DOCUMENT_LOSSES), "loss": "DOUBLE", **place}
    _create_union(connection, "document_losses", ["run"], queries, types)


def _token_indexes(store: Store, named: Named, split: str) -> list[tuple[str, Path]]:
    """The index of a split of each subset whose tokens `named`, a token set or a run, holds on to."""
    parts = named.of(f"tokens.{split}")
    mixed = named.meta.get("sources") or {named.meta.get("subset", named.name): {"parts": [part.key for part in parts]}}
    return [
        (subset, store.artifact(part).path / "index.parquet")
        for subset, own in sorted(mixed.items())
        for part in parts
        if part.key in own["parts"]
    ]


def _all_of(path: Path) -> str:
    return f"select * from {read_parquet([path])}"


def _documents_of_tokens(index: Path) -> str:
    """SQL of every document in a token set and the place of its tokens; `document` numbers what the separators part.

    The index of a training form has only the first file of a repository: there the spans of tokens tell them all.
    """
    parted = f"select file_row_number as document, * exclude (file_row_number) from {read_parquet([index], row_number=True)}"
    spans = index.with_name(_SPANS)
    if not spans.is_file():
        return parted
    return (
        'select parted.document, s.doc_id, s.shard, s."row", min(s.token_start) as "offset", '
        "max(s.token_end) - min(s.token_start) as length "
        f'from {read_parquet([spans])} as s asof join ({parted}) as parted on s.token_start >= parted."offset" '
        'where s.doc_id is not null group by parted.document, s.doc_id, s.shard, s."row"'
    )


def _files(store: Store, things: Iterable[Named], step: str, file: str) -> list[tuple[Named, Path]]:
    return [(named, store.artifact(part).path / file) for named in things for part in named.of(step)]


def _create_union(
    connection: duckdb.DuckDBPyConnection,
    view: str,
    labels: list[str],
    queries: list[tuple[dict[str, str], str]],
    types: dict[str, str],
) -> None:
    # One branch a file and a constant label: `where subset = 'clean'` then opens that subset's file alone.
    branches = [
        f"select {', '.join(f'{literal(label[name])} as {identifier(name)}' for name in labels)}, * from ({query})"
        for label, query in queries
    ] or [f"select * from {no_rows({**dict.fromkeys(labels, 'VARCHAR'), **types})}"]
    connection.execute(f"create view {identifier(view)} as {' union all by name '.join(branches)}")


def _thing_row(named: Named, relations: Mapping[str, str], made: Mapping[tuple[str, str], Artifact]) -> dict[str, Any]:
    fixed: dict[str, Any] = {"name": named.name, "digest": named.digest, "meta": json.dumps(named.meta, sort_keys=True)}
    if named.kind == "corpus":
        fixed |= {"relation": relations[named.name], "n_shards": len(named.of("read"))}
        for count, step in _CORPUS_COUNTS.items():
            found = [made[part.step, part.key].stats.get(count) for part in named.of(step)]
            fixed[count] = sum(found) if found and None not in found else None
    return {**named.meta, **fixed}


def _artifact_row(artifact: Artifact) -> dict[str, Any]:
    return {
        "step": artifact.spec.step,
        "shard": artifact.spec.shard,
        "key": artifact.key,
        "digest": artifact.digest,
        "size_bytes": artifact.size_bytes,
        "stats": json.dumps(artifact.stats, sort_keys=True),
    }


def _create_table(connection: duckdb.DuckDBPyConnection, name: str, columns: Mapping[str, str], rows: Rows) -> None:
    incoming = pa.table({column: pa.array([_plain(row.get(column)) for row in rows], pa.string()) for column in columns})
    connection.register("incoming_rows", incoming)
    typed = ", ".join(f"{identifier(column)}::{kind} as {identifier(column)}" for column, kind in columns.items())
    connection.execute(f"create table {identifier(name)} as select {typed} from incoming_rows")
    connection.unregister("incoming_rows")


def _plain(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, sort_keys=True)


def _struct(columns: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{literal(name)}: {literal(kind)}" for name, kind in columns.items()) + "}"
