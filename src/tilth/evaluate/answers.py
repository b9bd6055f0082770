"""The answer in a text, and one spelling for all answers that are equal."""

from __future__ import annotations


def extract(text: str) -> str | None:
    """What the last `#### x` (to the end of its line) or `\\boxed{x}` says, whichever comes later; None where neither is."""
    raise NotImplementedError


def canonical(answer: str) -> str | None:
    """One spelling for all answers that are equal ("0.50", "1/2", "50%", "\\frac12" -> "1/2"); None = cannot be parsed."""
    raise NotImplementedError


def is_correct(answer: str | None, reference: str) -> bool:
    """Whether a canonical answer equals the reference, in any spelling; where one of them could not be parsed, it does not."""
    return answer is not None and answer == canonical(reference)
