"""Questions with answers: files in GSM8K's form, or arithmetic that is made here; a problem is a document."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tilth.corpus.attempts import Refused
from tilth.corpus.layouts import Place
from tilth.corpus.provenance.spdx_expressions import declared_licence
from tilth.corpus.questions.arithmetic import Arithmetic
from tilth.corpus.questions.gsm8k import read_problem
from tilth.corpus.questions.lines import Fields, WrittenLines, WrittenReader
from tilth.corpus.questions.problem import Problem, document_of
from tilth.corpus.records import Document, Reject, Shard, fingerprint
from tilth.corpus.registry import source


@source
@dataclass(frozen=True)
class Questions(WrittenLines):
    """`path` is a file, folder, pattern or URL of JSON lines with `question` and `answer`, or an `Arithmetic(...)`.

    A document is `Question: 2 + 3`, `Answer: 2 + 3 = 5` and `#### 5` in lines of their own, so `answers_after="\\nAnswer:"`
    finds where the answer begins. An `answer` is steps that end in a line `#### 5`; its calculator's marks (`<<2+3=5>>`)
    are left out, unless `keeps_calculator`. meta: question, answer (what follows `####`), and all other fields.
    """

    path: str | Arithmetic  # type: ignore[assignment]
    keeps_calculator: bool = dataclasses.field(default=False, kw_only=True)

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "question"

    def plan(self, digest: Callable[[Path], str] = fingerprint) -> list[Shard]:
        """As of files; arithmetic is one shard. Raises SourceError."""
        if isinstance(self.path, str):
            return super().plan(digest)
        # the key says what is made, not where: another name of the source is another shard all the same
        settings = dataclasses.asdict(self.path)
        digest_of_settings = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        licence = declared_licence(self.licence, where=self.where)
        params = {"arithmetic": settings, "max_bytes": self.max_bytes, "licence": licence}
        return [Shard(f"{self.name}/00000", self.name, digest_of_settings, params, "")]

    def read(self, shard: Shard) -> Iterator[Document | Reject]:
        """A document for each problem, a reject for each line that is none."""
        if isinstance(self.path, str):
            yield from super().read(shard)
            return
        reader = WrittenReader(self.name, self.kind, shard.params["licence"], dict)
        for number, problem in enumerate(self.path.problems()):
            yield reader.row(_fields(problem, {}), Place(str(number), "arithmetic", str(number), None, None))

    def params(self) -> dict[str, Any]:
        """Whether the calculator's marks stay."""
        return {"keeps_calculator": self.keeps_calculator}

    def written(self, record: Fields) -> Fields | Refused:
        """The fields of a problem's document."""
        found = read_problem(record, keeps_calculator=self.keeps_calculator)
        return _fields(found, record) if isinstance(found, Problem) else found


def _fields(problem: Problem, others: Fields) -> Fields:
    return {**others, "text": document_of(problem), "question": problem.question, "answer": problem.answer}
