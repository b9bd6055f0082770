"""Samples of an evaluation (contract samples/1): what a model answered, and whether it was right; as documents, and in pairs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from tilth.corpus.attempts import Refused
from tilth.corpus.questions.lines import Fields, texts_of
from tilth.corpus.records import Document, Reject
from tilth.tokenize.question_form import ANSWER, prompt_of

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
    return {**record, "text": prompt_of(found[0]) + text}


def pairs_of(solutions: Iterable[Document | Reject], most: int) -> Iterator[tuple[Document, Document] | Reject]:
    """A right and a wrong solution of one question, at most `most` pairs of it; the samples of a question follow each other.

    Equal texts count once, the first of the right ones goes with the first of the wrong ones. Rejects pass through, wherever
    they stand among the samples of a question.
    """
    question: str | None = None
    right: dict[str, Document] = {}
    wrong: dict[str, Document] = {}
    for row in solutions:
        if isinstance(row, Reject):
            yield row
            continue
        if row.meta["question"] != question:
            yield from islice(zip(right.values(), wrong.values(), strict=False), most)
            question, right, wrong = row.meta["question"], {}, {}
        (right if row.meta["is_correct"] == "true" else wrong).setdefault(row.text, row)
    yield from islice(zip(right.values(), wrong.values(), strict=False), most)
