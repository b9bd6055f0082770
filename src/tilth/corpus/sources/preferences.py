"""Preferences: a prompt and two answers to it, of which one is better; a pair is a document that DPO can be trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilth.corpus.attempts import Refused
from tilth.corpus.questions.lines import Fields, WrittenLines, texts_of
from tilth.corpus.questions.problem import ANSWER, REJECTED, preference_of
from tilth.corpus.registry import source


@source
@dataclass(frozen=True)
class Preferences(WrittenLines):
    """`path` is a file, folder, pattern or URL of JSON lines with `prompt`, `chosen` and `rejected`.

    A document is the prompt (`Question: 2 + 3`), `\\nAnswer:` and the chosen answer, `\\nRejected:` and the rejected one, as
    they are written: an answer mostly begins with a space. What `objective="preferences"` takes apart again must not occur
    in the fields. meta: all other fields.
    """

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "preference"

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
