"""A question, the steps to its answer and the answer; and the one text that training and sampling make of them."""

from __future__ import annotations

from typing import NamedTuple

ANSWER = "\nAnswer:"  # what an answer follows in a text, and what a prompt ends with
REJECTED = "\nRejected:"  # what the worse of two answers follows in a preference
FINAL = "#### "  # what the final answer follows, on a line of its own, as in GSM8K


class Problem(NamedTuple):
    """`solution` are the steps in lines, without the final answer; it may be empty."""

    question: str
    solution: str
    answer: str


def prompt_of(question: str) -> str:
    """What a model is given: `Question: 2 + 3`, and on the next line `Answer:`."""
    return f"Question: {question}{ANSWER}"


def document_of(problem: Problem) -> str:
    """The text of a problem: its prompt, the steps, and in the last line `#### ` and the answer."""
    steps = f"{problem.solution}\n" if problem.solution else ""
    return f"{prompt_of(problem.question)} {steps}{FINAL}{problem.answer}"


def preference_of(prompt: str, chosen: str, rejected: str) -> str:
    """The text of a preference: a prompt (`Question: 2 + 3`) and two answers to it, each behind its mark."""
    return f"{prompt}{ANSWER}{chosen}{REJECTED}{rejected}"
