"""A question, the steps to its answer and the answer; and the text that training makes of them (`tokenize/question_form.py`)."""

from __future__ import annotations

from typing import NamedTuple

from tilth.tokenize.question_form import ANSWER, FINAL, REJECTED, prompt_of


class Problem(NamedTuple):
    """`solution` are the steps in lines, without the final answer; it may be empty."""

    question: str
    solution: str
    answer: str


def document_of(problem: Problem) -> str:
    """The text of a problem: its prompt, the steps, and in the last line `#### ` and the answer."""
    steps = f"{problem.solution}\n" if problem.solution else ""
    return f"{prompt_of(problem.question)} {steps}{FINAL}{problem.answer}"


def preference_of(prompt: str, chosen: str, rejected: str) -> str:
    """The text of a preference: a prompt (`Question: 2 + 3`) and two answers to it, each behind its mark."""
    return f"{prompt}{ANSWER}{chosen}{REJECTED}{rejected}"
