"""Solutions that a model sampled, each known to be right or wrong: what a verifier is trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from tilth.corpus.attempts import Refused
from tilth.corpus.locations import FoundFile
from tilth.corpus.questions.lines import Fields, WrittenLines
from tilth.corpus.questions.samples import COLUMNS, SUFFIX, written_solution
from tilth.corpus.records import Document, Reject, Shard
from tilth.corpus.registry import source
from tilth.corpus.sources.json_lines import SUFFIXES
from tilth.corpus.sources.parquet_files import read_parquet


@source
@dataclass(frozen=True)
class Solutions(WrittenLines):
    """`path` is a file, folder, pattern or URL of an evaluation's `samples.parquet`, or of JSON lines.

    Both have `question`, `text` (what the model wrote) and `is_correct`. A document is the prompt of the question with the
    text behind it, as a verifier reads it. Two subsets make the classes of `objective="classify"`:
    `pick correct "meta['is_correct'] = 'true'"` and the same with `'false'`. meta: question, is_correct; of JSON lines all
    other fields. A sample that was not judged is a reject.
    """

    version: ClassVar[int] = 1
    libraries: ClassVar[tuple[str, ...]] = ("pyarrow",)
    suffixes: ClassVar[tuple[str, ...]] = (*SUFFIXES, SUFFIX)
    kind: ClassVar[str] = "solution"

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """A row for every sample. Raises SourceError if unreadable."""
        (file,) = unit
        if not file.name.lower().endswith(SUFFIX):
            yield from super().rows(unit, shard)
            return
        yield from read_parquet(file, self.reader(shard), COLUMNS, self.where)

    def written(self, record: Fields) -> Fields | Refused:
        """The fields of a sample's document."""
        return written_solution(record)
