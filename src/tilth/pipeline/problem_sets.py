"""The problems of an evaluation, of a file or generated, and how they are asked: with examples or without."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from tilth.artifacts.spec import canonical_json
from tilth.errors import SourceError, UserError, did_you_mean

if TYPE_CHECKING:
    from tilth.evaluate.problems import Problem
    from tilth.evaluate.prompting import Prompting

ARITHMETIC = "arithmetic"
N_ARITHMETIC = 200
_FIX = f"Give the path of a file of JSON lines, or `{ARITHMETIC}` or `{ARITHMETIC}:n=200,n_steps=3`."


@dataclass(frozen=True)
class ProblemSet:
    """Problems by a name that charts show; n_left_out had a right answer that cannot be parsed."""

    name: str
    problems: tuple[Problem, ...]
    n_left_out: int = 0

    @property
    def digest(self) -> str:
        """Of ids, questions and answers, in their order."""
        rows = [[one.id, one.question, one.answer] for one in self.problems]
        return hashlib.sha256(canonical_json(rows)).hexdigest()[:32]


def problem_set(wanted: str, limit: int | None = None) -> ProblemSet:
    """What `wanted` names, without the problems whose right answer cannot be parsed; at most the first `limit` of them.

    Raises SourceError where there is no such file or nothing is left, UserError for settings that arithmetic does not have.
    """
    from tilth.evaluate.problems import read_problems, without_reference

    path = Path(wanted)
    if wanted.partition(":")[0] == ARITHMETIC and not path.is_file():
        name, found = wanted, _arithmetic(wanted)
    else:
        if not path.is_file():
            raise SourceError("there is no file of problems", wanted, _FIX)
        name, found = path.stem, read_problems(path)
    unusable = {problem.id for problem in without_reference(found)}
    problems = tuple(problem for problem in found if problem.id not in unusable)[:limit]
    if not problems:
        raise SourceError(
            f"none of {len(found)} problems has an answer that can be parsed", wanted, "Answers are numbers or formulas."
        )
    return ProblemSet(name, problems, len(unusable))


def _arithmetic(wanted: str) -> list[Problem]:
    """Generated ones: the questions that training never gets."""
    from tilth.corpus.questions.arithmetic import Arithmetic
    from tilth.evaluate.problems import Problem

    known = [field.name for field in fields(Arithmetic)]
    settings: dict[str, int | str] = {"n": N_ARITHMETIC, "seed": 0, "split": "evaluation"}
    for word in filter(None, wanted.partition(":")[2].split(",")):
        key, equals, value = word.partition("=")
        if key not in known or not equals:
            raise UserError(f"`{word}` is no setting of arithmetic", "--problems", did_you_mean(key, known))
        settings[key] = int(value) if value.lstrip("-").isdigit() else value
    made = Arithmetic(**settings).problems()  # type: ignore[arg-type]
    return [Problem(str(number), one.question, one.answer) for number, one in enumerate(made, 1)]


def prompting(shots: str | None, template: str | None, problems: ProblemSet) -> Prompting:
    """How questions are asked: after the first K examples of `FILE:K`, and in a template, whose `\\n` are line breaks.

    Raises UserError for an example that is one of the problems: its answer would stand in the prompt.
    """
    from tilth.evaluate.prompting import Prompting, Shot

    form = None if template is None else template.replace("\\n", "\n")
    if shots is None:
        return Prompting(form)
    path, _, number = shots.rpartition(":")
    if not path or not number.isdigit() or int(number) < 1:
        raise UserError(f"`{shots}` is not FILE:K", "--shots", "Name a file of JSON lines and how many of its first to show.")
    examples = _examples(Path(path), int(number))
    asked = {one.question.strip() for one in problems.problems}
    for question, _ in examples:
        if question.strip() in asked:
            raise UserError(
                "an example is one of the problems: its answer would stand in the prompt", question[:80], "Take others."
            )
    return Prompting(form, tuple(Shot(*example) for example in examples))


def _examples(path: Path, number: int) -> Sequence[tuple[str, str]]:
    """Questions with their whole solutions, which `read_problems` cuts down to the answer."""
    from tilth.evaluate.problems import read_solutions

    found = read_solutions(path, number)
    if len(found) < number:
        raise SourceError(f"there are only {len(found)} examples", str(path), f"Ask for `{path}:{len(found)}`.")
    return found
