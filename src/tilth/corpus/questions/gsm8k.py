"""GSM8K's lines (Cobbe et al. 2021, arXiv:2110.14168): a question in words, and an answer of steps that ends in `#### 72`.

The steps hold marks for a calculator, `<<48/2=24>>`, which say once more what stands around them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tilth.corpus.attempts import Refused
from tilth.corpus.questions.problem import Problem
from tilth.tokenize.question_form import ANSWER, FINAL

_CALCULATOR = re.compile(r"<<[^<>\n]*>>")
_FINAL = re.compile(rf"(?:^|\n){re.escape(FINAL.strip())}[ \t]*(\S[^\n]*?)\s*$")


def read_problem(record: Mapping[str, Any], *, keeps_calculator: bool = False) -> Problem | Refused:
    """The problem of a line, or why it is none.

    Reasons: missing_question, missing_answer, wrong_type, no_final_answer, and holds_marker for a question that holds the
    mark which answers follow: where its answer begins could not be told.
    """
    for name in ("question", "answer"):
        value = record.get(name)
        if value is None or value == "":
            return Refused(f"missing_{name}", f"no `{name}` among {', '.join(sorted(map(str, record)))[:200]}")
        if not isinstance(value, str):
            return Refused("wrong_type", f"`{name}` is a {type(value).__name__}, not a string")
    question, answer = record["question"].strip(), record["answer"]
    if ANSWER in f"\n{question}":
        return Refused("holds_marker", f"the question holds {ANSWER.strip()!r} at the start of a line")
    found = _FINAL.search(answer)
    if found is None:
        return Refused("no_final_answer", f"the answer does not end in a line of `{FINAL.strip()}`: {answer[-80:]!r}")
    steps = answer[: found.start()].strip()
    return Problem(question, steps if keeps_calculator else _CALCULATOR.sub("", steps), found[1])
