"""The steps of decontamination: an index of the benchmarks, made once, and what of it each shard of documents holds."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq

from tilth.artifacts import Named, Store
from tilth.artifacts.spec import UNICODE
from tilth.contracts import CONTAMINATION
from tilth.errors import SourceError
from tilth.pipeline.graph import Node, Step
from tilth.pipeline.parquet import Writer, read_columns, stream
from tilth.pipeline.steps import Inputs, Params, texts_of

if TYPE_CHECKING:
    from tilth.pipeline.recipe import Decontaminate

_INDEX, _SEARCHED = "index.parquet", "searched.json"


@dataclass(frozen=True)
class Found:
    """Of one benchmark: its items, those that could be found, what was left out, and what was found in how many documents."""

    benchmark: str
    n_items: int
    n_searched: int
    n_short: int  # texts with too few words
    n_left_out: int  # n-grams that say too little
    n_found: int  # items
    n_documents: int

    @property
    def in_words(self) -> str:
        """What was found, or that nothing was."""
        if not self.n_found:
            return f"no document holds anything of the {self.n_searched:,} items of `{self.benchmark}` that were looked for"
        return f"{self.n_documents:,} documents hold parts of {self.n_found:,} of {self.n_items:,} items of `{self.benchmark}`"


def index_benchmarks(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """The texts of the benchmarks as units. `work`: path and digest by name."""
    from tilth.dedup.contamination.items import read_items
    from tilth.dedup.contamination.ngram_index import BenchmarkIndex, build_index
    from tilth.dedup.contamination.parameters import OverlapParameters

    items = {name: read_items(path, params["fields"].get(name, ())) for name, (path, _) in work.items()}
    digests = {name: digest for name, (_, digest) in work.items()}
    table = build_index(items, OverlapParameters(**params["overlap"]), digests)
    pq.write_table(table, folder / _INDEX, compression="zstd")
    searched = {name: counts._asdict() for name, counts in BenchmarkIndex(table).searched.items()}
    (folder / _SEARCHED).write_text(json.dumps(searched, indent=1, sort_keys=True))
    return {"n_benchmarks": len(items), "n_items": sum(counts["n_items"] for counts in searched.values())}


def find_in_shard(inputs: Inputs, folder: Path, params: Params, work: Any) -> dict[str, Any]:
    """What the documents of one shard hold of the benchmarks."""
    from tilth.dedup.contamination.ngram_index import BenchmarkIndex
    from tilth.dedup.contamination.overlaps import find_contamination

    (documents,) = texts_of(inputs)
    (indexed,) = (artifact for artifact in inputs.values() if artifact.spec.step == INDEX.name)
    index = BenchmarkIndex(read_columns(indexed, _INDEX))
    places = set()
    with Writer(folder / "contamination.parquet", CONTAMINATION) as writer:
        for found in find_contamination(stream(documents, "documents.parquet", ["shard", "row", "text"]), index):
            if found.num_rows:
                writer.write(found)
                places.update(found.column("row").to_pylist())
    return {"n_spans": writer.n_rows, "n_documents": len(places)}


def contamination_nodes(
    wanted: Decontaminate, reads: Sequence[str], nodes: Mapping[str, Node], digest: Callable[[Path], str]
) -> Iterator[Node]:  # fmt: skip
    """The index, and a node for each shard. Raises SourceError for a benchmark that is not there."""
    work = {}
    for name, path in sorted(wanted.benchmarks.items()):
        place = Path(path).expanduser()
        if not place.is_file():
            raise SourceError(f"the benchmark `{name}` is not there", str(place), "Give the path of its file.")
        work[name] = (str(place), digest(place))
    params = {
        "overlap": dataclasses.asdict(wanted.parameters),
        "fields": {name: list(fields) for name, fields in sorted(wanted.fields.items())},
    }
    external = {f"benchmark {name}": found for name, (_, found) in work.items()}
    index = Node(INDEX, params=params, external=external, work=work)
    yield index
    for read in reads:
        yield Node(CONTAMINATION_STEP, nodes[read].shard, needs=(read, index.id))


def count_contamination(store: Store, named: Named) -> list[Found]:
    """What a corpus holds of each benchmark that it was searched for; nothing where it was not."""
    from tilth.catalog.sql import run_sql

    indexed = named.of(INDEX.name)
    if not indexed:
        return []
    searched = json.loads((store.artifact(indexed[0]).path / _SEARCHED).read_text())
    (corpus,) = run_sql(store, f"select relation from corpora where name = '{named.name}'").to_pylist()
    query = (
        'select benchmark, count(distinct item) as n_found, count(distinct (shard, "row")) as n_documents '
        f'from "{corpus["relation"]}".contamination group by benchmark'
    )
    counts = {row.pop("benchmark"): row for row in run_sql(store, query).to_pylist()}
    nothing = {"n_found": 0, "n_documents": 0}
    return [Found(name, **searched[name], **counts.get(name, nothing)) for name in sorted(searched)]


INDEX = Step("contamination.index", 2, (UNICODE,), index_benchmarks)
CONTAMINATION_STEP = Step("contamination", 1, (UNICODE,), find_in_shard)
