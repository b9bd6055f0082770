"""Preferences: a prompt and two answers to it, of which one is better; a pair is a document that DPO can be trained on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tilth.corpus.attempts import Refused
from tilth.corpus.layouts import Place
from tilth.corpus.locations import FoundFile
from tilth.corpus.questions.lines import Fields, WrittenLines, WrittenReader, texts_of
from tilth.corpus.questions.problem import preference_of
from tilth.corpus.questions.samples import COLUMNS, SUFFIX, pairs_of, written_solution
from tilth.corpus.records import Document, Reject, Shard
from tilth.corpus.registry import source
from tilth.corpus.sources.json_lines import SUFFIXES
from tilth.corpus.sources.parquet_files import read_parquet
from tilth.tokenize.question_form import ANSWER, REJECTED


@source
@dataclass(frozen=True)
class Preferences(WrittenLines):
    """`path` is a file, folder, pattern or URL of JSON lines with `prompt`, `chosen` and `rejected`.

    A document is the prompt (`Question: 2 + 3`), `\\nAnswer:` and the chosen answer, `\\nRejected:` and the rejected one, as
    they are written: an answer mostly begins with a space. What `objective="preferences"` takes apart again must not occur
    in the fields. meta: all other fields. Of an evaluation's `samples.parquet`, right samples are chosen over wrong ones of
    the same question, in at most `pairs_per_question` pairs.
    """

    pairs_per_question: int = field(default=4, kw_only=True)

    version: ClassVar[int] = 2
    libraries: ClassVar[tuple[str, ...]] = ("pyarrow",)
    suffixes: ClassVar[tuple[str, ...]] = (*SUFFIXES, SUFFIX)
    kind: ClassVar[str] = "preference"

    def params(self) -> dict[str, Any]:
        """How many pairs a question gives."""
        return {"pairs_per_question": self.pairs_per_question}

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """A row for every line or pair, a reject for every line or sample that is none. Raises SourceError if unreadable."""
        (file,) = unit
        if not file.name.lower().endswith(SUFFIX):
            yield from super().rows(unit, shard)
            return
        solutions = WrittenReader(self.name, self.kind, None, written_solution)
        reader = self.reader(shard)
        for pair in pairs_of(read_parquet(file, solutions, COLUMNS, self.where), self.pairs_per_question):
            if isinstance(pair, Reject):
                yield pair
                continue
            places = [one.occurrences[0] for one in pair]
            record = "+".join(str(place.record_id) for place in places)
            prompt, texts = pair[0].text.partition(ANSWER)[0], [one.text.partition(ANSWER)[2] for one in pair]
            fields = {"prompt": prompt, "chosen": texts[0], "rejected": texts[1], "question": pair[0].meta["question"]}
            yield reader.row(fields, Place(f"{places[0].path}:{record}", places[0].path, record, None, None))

    def written(self, record: Fields) -> Fields | Refused:
        """The fields of a pair's document."""
        found = texts_of(record, ("prompt", "chosen", "rejected"), (ANSWER, REJECTED))
        if isinstance(found, Refused):
            return found
        prompt, chosen, rejected = found
        if chosen == rejected:
            return Refused("equal_answers", "the chosen answer is the rejected one")
        others = {name: value for name, value in record.items() if name not in ("prompt", "chosen", "rejected")}
        return {**others, "text": preference_of(prompt, chosen, rejected)}
