"""From a question to the ids that a model is asked with, and from its ids back to text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tilth.errors import UserError
from tilth.tokenize.bpe import Tokenizer
from tilth.tokenize.question_form import NEXT_QUESTION, prompt_of
from tilth.tokenize.text_ends import text_ends

PLACE = "{question}"


@dataclass(frozen=True)
class Shot:
    """An example before the question: what was asked, and the whole solution with its answer."""

    question: str
    solution: str


@dataclass(frozen=True)
class Prompting:
    """template holds `{question}` once (None: that of `prompt_of`); shots come before it, a blank line between them.

    Raises UserError for a template without its place.
    """

    template: str | None = None
    shots: tuple[Shot, ...] = ()

    def __post_init__(self) -> None:
        if self.template is not None and self.template.count(PLACE) != 1:
            raise UserError(
                f"the template of the prompt has {self.template.count(PLACE)} places for the question",
                where=self.template,
                fix=f"write {PLACE} where it goes, once",
            )

    def text(self, question: str) -> str:
        """The whole prompt of one question."""
        examples = [f"{self._asked(shot.question)} {shot.solution.strip()}\n\n" for shot in self.shots]
        return "".join([*examples, self._asked(question)])

    def _asked(self, question: str) -> str:
        if self.template is None:
            return prompt_of(question)
        return self.template.replace(PLACE, question.strip())


@dataclass(frozen=True)
class Coder:
    """The tokenizer of a model folder; first_ids begin a text, and a text ends before one of end_ids (`text_ends`)."""

    tokenizer: Tokenizer
    first_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    stops: tuple[str, ...] = (NEXT_QUESTION,)
    _said: dict[int, str] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def open(cls, folder: Path, stops: Sequence[str] = (NEXT_QUESTION,)) -> Coder:
        """That of a model folder. Raises ContractError where it has no tokenizer.json, or a damaged file beside it."""
        tokenizer = Tokenizer.open(folder)
        first_ids, end_ids, _ = text_ends(tokenizer, folder)
        return cls(tokenizer, first_ids, end_ids, tuple(filter(None, stops)))

    def encode(self, text: str) -> tuple[int, ...]:
        """The ids of a prompt, with those that begin a text."""
        return (*self.first_ids, *self.tokenizer.encode(text).tolist())

    def decode(self, ids: Sequence[int]) -> str:
        """What was said, up to the first stop string."""
        text = self.tokenizer.decode(ids)
        ends = [place for stop in self.stops if (place := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text

    def has_stopped(self, ids: Sequence[int]) -> bool:
        """Whether the newest of ids has completed a stop string: a token is a byte or more, so the last few tell."""
        if not any(self._may_end(stop, ids[-1]) for stop in self.stops):
            return False
        return any(stop in self.tokenizer.decode(ids[-len(stop.encode()) - 4 :]) for stop in self.stops)

    def _may_end(self, stop: str, token: int) -> bool:
        """Whether a token says the last character of a stop string, or a part of a character; blanks may go unsaid alone."""
        text = self._said.get(token)
        if text is None:
            text = self._said[token] = self.tokenizer.decode([token])
        return stop[-1] in text or "\ufffd" in text or stop[-1].isspace()
