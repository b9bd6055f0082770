"""Samples of an evaluation (contract samples/1): what a model answered, and whether it was right; as documents, and in pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from tilth.corpus.attempts import Refused
from tilth.corpus.questions.lines import Fields, texts_of
from tilth.corpus.questions.problem import ANSWER, prompt_of
from tilth.corpus.records import Document, Reject

COLUMNS = ("question", "is_correct")  # that are read besides the text
SUFFIX = ".parquet"


def written_solution(record: Fields) -> Fields | Refused:
    """The fields of a sample's document: the prompt of its question with what the model wrote behind it.

    A sample that was never judged, for it was cancelled or failed, is refused as `not_judged`.
    """
    found = texts_of({"question": record.get("question")}, ("question",), (ANSWER,))
    if isinstance(found, Refused):
        return found
    text, is_correct = record.get("text"), record.get("is_correct")
    if not isinstance(text, str):
        return Refused("missing_text" if text is None else "wrong_type", f"`text` is {type(text).__name__}")
    if not isinstance(is_correct, bool):
        return Refused("not_judged", f"`is_correct` is {str(is_correct)[:40]}, not true or false")
    return {**record, "text": prompt_of(found[0].strip()) + text}


def pairs_of(solutions: Iterable[Document | Reject], most: int) -> Iterator[tuple[Document, Document] | Reject]:
    """A right and a wrong solution of one question, at most `most` pairs of it; the samples of a question follow each other.

    Equal texts count once, the first of the right ones goes with the first of the wrong ones. Rejects pass through.
    """
    for _, group in groupby(solutions, key=lambda row: row.meta["question"] if isinstance(row, Document) else None):
        sides: dict[str, dict[str, Document]] = {"true": {}, "false": {}}
        for row in group:
            if isinstance(row, Reject):
                yield row
            else:
                sides[row.meta["is_correct"]].setdefault(row.text, row)
        yield from list(zip(sides["true"].values(), sides["false"].values(), strict=False))[:most]
