"""The training form of questions: what marks a question, its answer and the final answer in a text.

    Question: 2 + 3
    Answer: 2 + 3 = 5
    #### 5

A prompt ends behind `Answer:` without a blank: the first token of an answer brings its own.
"""

from __future__ import annotations

QUESTION = "Question:"
NEXT_QUESTION = f"\n{QUESTION}"  # what a model that is not stopped goes on with
ANSWER = "\nAnswer:"  # what an answer follows in a text, and what a prompt ends with
REJECTED = "\nRejected:"  # what the worse of two answers follows in a preference
FINAL = "#### "  # what the final answer follows, on a line of its own, as in GSM8K


def prompt_of(question: str) -> str:
    """What a model is given: `Question: 2 + 3`, and on the next line `Answer:`."""
    return f"{QUESTION} {question.strip()}{ANSWER}"
