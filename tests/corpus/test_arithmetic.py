"""Arithmetic problems: right by an evaluation of their own question, in one split alone, the same in every process."""

from __future__ import annotations

import ast
import itertools
import operator
import re
import subprocess
import sys
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.corpus.questions.arithmetic import EVALUATION_SHARE, Arithmetic, expression, problems, split_of
from tilth.corpus.questions.problem import document_of
from tilth.errors import RecipeError

OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def value_of(text: str) -> Fraction:
    """The value of an expression by Python's own grammar, in fractions: nothing of the code under test."""

    def visit(node: ast.expr) -> Fraction:
        if isinstance(node, ast.BinOp):
            return Fraction(OPERATIONS[type(node.op)](visit(node.left), visit(node.right)))
        assert isinstance(node, ast.Constant)
        return Fraction(int(str(node.value)))

    return visit(ast.parse(text, mode="eval").body)


@given(
    st.integers(0, 2**32),
    st.tuples(st.integers(1, 3), st.integers(3, 6)),
    st.integers(12, 2000),
    st.sets(st.sampled_from("+-*/"), min_size=1).map("".join),
    st.sampled_from(["train", "evaluation"]),
)
@settings(max_examples=60, deadline=None)
def test_they_are_right(seed: int, n_steps: tuple[int, int], largest: int, operators: str, split: str) -> None:
    made = Arithmetic(n=5, seed=seed, n_steps=n_steps, largest=largest, operators=operators, split=split)
    if not {"+", "-"} & set(operators):  # products and quotients alone soon meet their end
        return
    found = list(made.problems())
    assert len({problem.question for problem in found}) == 5
    for problem in found:
        assert value_of(problem.question) == int(problem.answer)
        lines = problem.solution.splitlines()
        assert n_steps[0] <= len(lines) <= n_steps[1]
        numbers = [int(number) for number in re.findall(r"\d+", problem.question)]
        for line, before in zip(lines, [str(numbers[0]), *(line.split(" = ")[1] for line in lines)], strict=False):
            left, right = line.split(" = ")
            assert value_of(left) == int(right)
            assert left.split()[0] == before  # a step goes on from the one before it
            assert set(left.split()[1]) <= set(operators)
            numbers.append(int(right))
        assert min(numbers) >= 0
        assert max(numbers) <= largest
        assert lines[-1].split(" = ")[1] == problem.answer
        assert [int(line.split()[2]) for line in lines] == numbers[1 : len(lines) + 1]  # in the order of the question


def test_the_text_of_a_problem() -> None:
    (problem,) = problems(1, seed=3, n_steps=3, operators="+-*")
    assert document_of(problem).startswith(f"Question: {problem.question}\nAnswer: {problem.solution}\n#### ")
    assert document_of(problem).endswith(f"\n#### {problem.answer}")


@pytest.mark.parametrize("operators", ["+-", "+-*/"])
def test_no_question_is_in_both_splits_whatever_the_seeds(operators: str) -> None:
    def questions(split: str, seeds: range) -> set[str]:
        made = (problems(1000, seed, n_steps=(1, 2), largest=30, operators=operators, split=split) for seed in seeds)
        return {problem.question for problem in itertools.chain.from_iterable(made)}

    train, held = questions("train", range(3)), questions("evaluation", range(10, 11))
    assert len(held) > 100
    assert not train & held
    # a control: the questions are so few that without the split most of them would be in both
    assert len(train & questions("train", range(10, 11))) > 300


def test_another_order_of_the_same_terms_is_in_the_same_split() -> None:
    n_held = 0
    for numbers in itertools.combinations(range(1, 25), 3):
        splits = {split_of([("+", number) for number in order]) for order in itertools.permutations(numbers)}
        assert len(splits) == 1
        n_held += splits == {"evaluation"}
    assert n_held / 2024 == pytest.approx(EVALUATION_SHARE, abs=0.03)


@pytest.mark.parametrize("later", [[], [("+", 5)], [("*", 2), ("-", 1)]])
def test_the_factors_of_a_product_are_in_the_same_split_in_any_order(later: list[tuple[str, int]]) -> None:
    held = 0
    for low, high in itertools.combinations(range(2, 30), 2):
        splits = {split_of([("+", first), ("*", second), *later]) for first, second in ((low, high), (high, low))}
        assert len(splits) == 1
        held += splits == {"evaluation"}
    assert held > 20


def test_they_are_the_same_in_every_process_and_of_more_the_first() -> None:
    code = "from tilth.corpus.questions.arithmetic import problems; print(list(problems(40, 7, operators='+-*/')))"
    told = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert told[0].strip() == told[1].strip() == str(list(problems(40, 7, operators="+-*/")))
    assert list(problems(40, 7)) == list(problems(90, 7))[:40]
    assert list(problems(40, 8)) != list(problems(40, 7))


def test_what_is_made_does_not_change_with_versions() -> None:
    made = [problem.question for problem in problems(4, 1, n_steps=(2, 3), largest=99, operators="+-*/")]
    assert made == ["(37 - 13) * 3", "(56 + 20) / 2 / 2", "62 + 27 + 9 - 16", "(33 + 28 - 13) / 4"]


def test_brackets_stand_where_precedence_asks_for_them() -> None:
    assert expression([("+", 8), ("+", 4), ("*", 3), ("-", 6), ("/", 5)]) == "((8 + 4) * 3 - 6) / 5"
    assert expression([("+", 8), ("/", 4), ("*", 3), ("-", 6)]) == "8 / 4 * 3 - 6"


def test_more_problems_than_there_are_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"no more than about \d+ such problems in the split `train`"):
        list(problems(1000, n_steps=1, largest=9))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"n": 0}, "`n` of Arithmetic is 0"),
        ({"n_steps": 0}, "`n_steps` of Arithmetic is 0"),
        ({"n_steps": (3, 2)}, r"`n_steps` of Arithmetic is \(3, 2\)"),
        ({"largest": 1}, "`largest`"),
        ({"operators": "+%"}, r"`operators` of Arithmetic is '\+%'"),
        ({"operators": ""}, "`operators`"),
        ({"operators": "++"}, "`operators`"),
        ({"split": "test"}, "no split `test`"),
    ],
)
def test_what_cannot_be_is_refused_by_name(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        Arithmetic(**wrong)
