"""Solutions that a model sampled, each known to be right or wrong: what a verifier is trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from tilth.corpus.attempts import Refused
from tilth.corpus.questions.lines import Fields, WrittenLines, texts_of
from tilth.corpus.questions.problem import ANSWER, prompt_of
from tilth.corpus.registry import source


@source
@dataclass(frozen=True)
class Solutions(WrittenLines):
    """`path` is a file, folder, pattern or URL of JSON lines with `question`, `text` (the sample) and `is_correct`.

    A document is the prompt of the question with the sample behind it, as the model wrote it. Two subsets make the classes of
    `objective="classify"`: `pick --where "meta['is_correct'] = 'true'"` and the same with `'false'`. meta: question,
    is_correct, and all other fields.
    """

    version: ClassVar[int] = 1
    kind: ClassVar[str] = "solution"

    def written(self, record: Fields) -> Fields | Refused:
        """The fields of a sample's document; what was never judged is a reject, `not_judged`."""
        found = texts_of({"question": record.get("question")}, ("question",), (ANSWER,))
        if isinstance(found, Refused):
            return found
        text, is_correct = record.get("text"), record.get("is_correct")
        if not isinstance(text, str):
            return Refused("missing_text" if text is None else "wrong_type", f"`text` is {type(text).__name__}")
        if not isinstance(is_correct, bool):
            return Refused("not_judged", f"`is_correct` is {str(is_correct)[:40]}, not true or false")
        return {**record, "text": prompt_of(found[0]) + text}
