"""Arithmetic without words: `(12 + 35) * 3 - 7`, its steps of one operation each, and an answer that anybody can check.

A step has one line, `12 + 35 = 47`, and needs nothing but the line before it and the next number of the question, so that a
small model can learn to take it. Whole numbers alone occur, none below 0.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tilth.corpus.questions.problem import Problem
from tilth.errors import RecipeError, did_you_mean

OPERATORS = "+-*/"
SPLITS = ("train", "evaluation")
EVALUATION_SHARE = 0.125  # of all questions that there are
MAX_FACTOR = 9  # of a product or a quotient
_MAX_REPEATS = 10_000  # draws in a row without a new question, after which it is said that there are no more
_PATIENCE = 100  # draws of numbers for one question


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """`n` different problems of `n_steps` operations (a number, or the least and the most) on numbers up to `largest`.

    Neither an operand nor a result on the way is above `largest`. Products and quotients are by 2 to 9, quotients are whole.
    Whatever the seed, a question is in one `split` alone, with all questions that have the same terms in another order.
    Raises RecipeError for what cannot be, `problems` for more problems than there are.
    """

    n: int = 10_000
    seed: int = 0
    n_steps: int | tuple[int, int] = (2, 4)
    largest: int = 99
    operators: str = "+-"
    split: str = "train"

    def __post_init__(self) -> None:
        low, high = self.steps
        for name, value, least in (("n", self.n, 1), ("n_steps", low, 1), ("largest", self.largest, 2), ("seed", self.seed, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise RecipeError(f"`{name}` of Arithmetic is {value!r}", fix=f"Give a whole number from {least} on.")
        if high < low:
            raise RecipeError(f"`n_steps` of Arithmetic is {self.n_steps}", fix="Give a number, or the least and the most.")
        unknown = sorted(set(self.operators) - set(OPERATORS))
        if unknown or not self.operators or len(set(self.operators)) < len(self.operators):
            raise RecipeError(f"`operators` of Arithmetic is {self.operators!r}", fix=f"Give some of `{OPERATORS}`, each once.")
        if self.split not in SPLITS:
            raise RecipeError(f"Arithmetic has no split `{self.split}`", fix=did_you_mean(self.split, SPLITS))

    @property
    def steps(self) -> tuple[int, int]:
        """The least and the most operations of a question."""
        return self.n_steps if isinstance(self.n_steps, tuple) else (self.n_steps, self.n_steps)

    def problems(self) -> Iterator[Problem]:
        """All of them, always the same in the same order; of a larger `n` they are the first."""
        return islice(self._endless(), self.n)

    def _endless(self) -> Iterator[Problem]:
        seen: set[bytes] = set()
        # of this generator Python promises that `random()` gives the same numbers in every version
        draw = random.Random(f"arithmetic {self.seed}").random
        while True:
            for _ in range(_MAX_REPEATS):
                terms = self._terms(draw)
                key = _key(expression(terms)) if terms else b""
                if terms and key not in seen and split_of(terms) == self.split:
                    break
            else:
                what = f"there are no more than about {len(seen):,} such problems in the split `{self.split}`"
                raise RecipeError(what, f"Arithmetic(n={self.n})", "Ask for fewer, or allow more steps or larger numbers.")
            seen.add(key)
            yield problem_of(terms)

    def _terms(self, draw: Callable[[], float]) -> list[tuple[str, int]]:
        """One question: `+` and its first number, then an operation a step. Empty where no operator fits."""
        low, high = self.steps
        value = 1 + int(draw() * self.largest)
        terms = [("+", value)]
        for _ in range(low + int(draw() * (high - low + 1))):
            ranges = {operator: found for operator in self.operators if (found := self._operands(operator, value))}
            if not ranges:
                return []
            operator = list(ranges)[int(draw() * len(ranges))]
            number = ranges[operator][int(draw() * len(ranges[operator]))]
            terms.append((operator, number))
            value = apply(value, operator, number)
        return terms

    def _operands(self, operator: str, value: int) -> range | list[int]:
        """The numbers that may follow `value` and the operator."""
        if operator == "+":
            return range(1, self.largest - value + 1)
        if operator == "-":
            return range(1, value + 1)
        if operator == "*":
            return range(2, min(MAX_FACTOR, self.largest // value) + 1) if value else []
        return [number for number in range(2, min(MAX_FACTOR, value) + 1) if value % number == 0]


def problems(n: int, seed: int = 0, **settings: Any) -> Iterator[Problem]:
    """The problems of `Arithmetic` with these settings."""
    return Arithmetic(n=n, seed=seed, **settings).problems()


def apply(value: int, operator: str, number: int) -> int:
    """One operation; a quotient is whole where `Arithmetic` asks for it."""
    if operator == "+":
        return value + number
    if operator == "-":
        return value - number
    return value * number if operator == "*" else value // number


def problem_of(terms: list[tuple[str, int]]) -> Problem:
    """The problem of terms, of which the first is `+` and a number: its operations are taken from left to right."""
    value, lines = terms[0][1], []
    for operator, number in terms[1:]:
        result = apply(value, operator, number)
        lines.append(f"{value} {operator} {number} = {result}")
        value = result
    return Problem(expression(terms), "\n".join(lines), str(value))


def expression(terms: list[tuple[str, int]]) -> str:
    """The terms as an expression with the usual precedence, in brackets where it would not go from left to right."""
    text, is_sum = str(terms[0][1]), False
    for operator, number in terms[1:]:
        if operator in "*/" and is_sum:
            text = f"({text})"
        is_sum = operator in "+-"
        text = f"{text} {operator} {number}"
    return text


def split_of(terms: list[tuple[str, int]]) -> str:
    """The split of a question: a hash of its terms without their order, so that `2 + 3` and `3 + 2` are in the same.

    So are `2 * 3` and `3 * 2`: the first number is a factor where a product follows it.
    """
    first = ("*" if len(terms) > 1 and terms[1][0] == "*" else "+", terms[0][1])
    key = _key(" ".join(sorted(f"{operator}{number}" for operator, number in [first, *terms[1:]])))
    return SPLITS[int.from_bytes(key, "big") < EVALUATION_SHARE * 2**64]


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:8]
