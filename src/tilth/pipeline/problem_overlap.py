"""Which problems of an evaluation a run was trained on: looked for in its documents, and in those of the runs it began from."""

from __future__ import annotations

import json
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tilth.artifacts import Named, Spec, Store
from tilth.artifacts.spec import UNICODE, library_versions
from tilth.errors import NotFoundError, SourceError
from tilth.pipeline.problem_sets import ProblemSet
from tilth.pipeline.run_sources import RunSource, sources_of
from tilth.tokenize.question_form import ANSWER, QUESTION

if TYPE_CHECKING:
    from tilth.dedup.contamination.ngram_index import BenchmarkIndex

VERSION = 1
MIN_COVERAGE = 0.5
"""A document holds a question from this share of its n-grams on: a phrase that many questions share is none."""
WHOLE_TEXT = "whole text"
_FILE, _BATCH_ROWS = "overlaps.json", 1_000


@dataclass(frozen=True)
class Overlap:
    """A problem that a document of a run holds; method as in contamination/1, or WHOLE_TEXT."""

    run: str
    subset: str
    problem: str
    shard: str
    row: int
    method: str
    coverage: float

    @property
    def in_words(self) -> str:
        """The problem and the document."""
        return f"problem {self.problem} in document {self.shard}:{self.row} of subset `{self.subset}` (run `{self.run}`)"


@dataclass(frozen=True)
class Searched:
    """What was found, and the runs of which nothing is known: imported ones, and those whose data or whose name are gone."""

    overlaps: tuple[Overlap, ...]
    unknown: tuple[str, ...]


def search_runs(store: Store, runs: Iterable[str], problems: ProblemSet) -> Searched:
    """Look for the problems in what `runs`, and all runs that they began from or were distilled from, were trained on.

    A question counts as held where a document has half of its n-grams of 13 words (`dedup.contamination`), or the whole of it
    as its text, as the question before `Answer:`, or as a line: without regard to case, blanks and the last punctuation, but
    with all signs of a formula. So short questions are found, which the n-grams leave out. Validation documents do not count.
    """
    found: list[Overlap] = []
    lineage, unknown = _with_ancestors(store, runs)
    for run in lineage:
        named = store.find_named("run", run)
        if named is None or "subset" not in named.meta:
            unknown.append(run)
            continue
        for source in sources_of(named):
            try:
                found += [Overlap(run, source.subset, **one) for one in _search(store, source, problems)]
            except NotFoundError:
                unknown.append(run)
    return Searched(tuple(found), tuple(dict.fromkeys(unknown)))


def _with_ancestors(store: Store, runs: Iterable[str]) -> tuple[list[str], list[str]]:
    """The runs with those that they began from; and, in words, those of them whose name stands for another run by now."""
    waiting, known, gone = list(runs), list[str](), list[str]()
    while waiting:
        run = waiting.pop(0)
        if run in known:
            continue
        known.append(run)
        named = store.find_named("run", run)
        meta: Mapping[str, Any] = named.meta if named else {}
        digests: Mapping[str, str] = meta.get("origins", {})
        for origin in dict.fromkeys(str(meta[key]) for key in ("base", "initial") if meta.get(key)):
            now = store.find_named("run", origin)
            if now is not None and now.one("train").digest != digests.get(origin, now.one("train").digest):
                gone.append(f"{origin} as it was for {run}")
            else:
                waiting.append(origin)
    return known, gone


def _search(store: Store, source: RunSource, problems: ProblemSet) -> list[dict[str, Any]]:
    """What the training documents of one source hold; looked up where they were searched before."""
    picked = store.artifact(source.named.one("pick"))
    inputs = {"subset": picked.digest, "problems": problems.digest}
    spec = Spec("evaluate.overlap", VERSION, {"min_coverage": MIN_COVERAGE}, inputs, library_versions((UNICODE,)))

    def write(folder: Path) -> dict[str, int]:
        found = list(_overlaps(_training_documents(store, source.named), problems))
        (folder / _FILE).write_text(json.dumps(found, indent=1))
        return {"n_overlaps": len(found)}

    found: list[dict[str, Any]] = json.loads((store.make(spec, write).path / _FILE).read_text())
    return found


def _training_documents(store: Store, named: Named) -> Iterator[pa.RecordBatch]:
    from tilth.catalog.trace import subset_documents

    documents = ((one.shard, one.row, one.text) for one in subset_documents(store, named) if one.split == "train")
    while rows := list(islice(documents, _BATCH_ROWS)):
        shards, numbers, texts = zip(*rows, strict=True)
        columns = [pa.array(shards, pa.string()), pa.array(numbers, pa.int32()), pa.array(texts, pa.large_string())]
        yield pa.RecordBatch.from_arrays(columns, ["shard", "row", "text"])


def _overlaps(batches: Iterable[pa.RecordBatch], problems: ProblemSet) -> Iterator[dict[str, Any]]:
    from tilth.dedup.contamination.overlaps import find_contamination

    index, whole = _index(problems), defaultdict[str, list[str]](list)
    for one in problems.problems:
        whole[whole_text(one.question)].append(one.id)
    whole.pop("", None)
    longest = 4 * max(len(one.question) for one in problems.problems) + 100  # of a text with more blanks or accents
    for batch in batches:
        seen: set[tuple[str, str, int]] = set()
        for shard, row, text in zip(*(batch.column(name).to_pylist() for name in ("shard", "row", "text")), strict=True):
            for item in sorted({item for key in _whole_texts(text, longest) if key in whole for item in whole[key]}):
                seen.add((item, shard, row))
                yield {"problem": item, "shard": shard, "row": row, "method": WHOLE_TEXT, "coverage": 1.0}
        for table in find_contamination([batch], index) if index else ():
            for hit in table.to_pylist():
                place = (hit["item"], hit["shard"], hit["row"])
                if hit["coverage"] >= MIN_COVERAGE and place not in seen:
                    seen.add(place)
                    told = {key: hit[key] for key in ("shard", "row", "method")}
                    yield {"problem": hit["item"], **told, "coverage": round(float(hit["coverage"]), 4)}


def _index(problems: ProblemSet) -> BenchmarkIndex | None:
    """The n-grams of the questions; None where all of them are too short, or say too little."""
    from tilth.dedup.contamination.items import ItemText
    from tilth.dedup.contamination.ngram_index import BenchmarkIndex, build_index
    from tilth.dedup.contamination.parameters import OverlapParameters

    items = {problems.name: [ItemText(one.id, "question", one.question) for one in problems.problems]}
    try:
        return BenchmarkIndex(build_index(items, OverlapParameters(), {problems.name: problems.digest}))
    except SourceError:
        return None


def whole_text(text: str) -> str:
    """A text in one case, without blanks and last punctuation; `12 - 3` and `12 * 3` stay two, unlike in the words of n-grams."""
    folded = "".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.removeprefix(QUESTION.casefold()).removesuffix(ANSWER.strip().casefold()).rstrip(".?!:;, ")


def _whole_texts(text: str, longest: int) -> Iterator[str]:
    """What of a document may be a question and nothing else."""
    parts = [text, text.partition(ANSWER)[0], *text.split("\n")]
    return (whole_text(part) for part in dict.fromkeys(parts) if part and len(part) <= longest)


def as_rows(overlaps: Iterable[Overlap], most: int) -> list[dict[str, Any]]:
    """The first of them, for a name's meta."""
    return [asdict(overlap) for overlap in islice(overlaps, most)]
