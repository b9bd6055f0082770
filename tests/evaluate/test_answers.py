"""Answers: what is found in a text, and which spellings are equal."""

from __future__ import annotations

import json
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.evaluate.answers import canonical, extract, is_correct

# Spellings as GSM8K, MATH and models' outputs have them; those of one row are equal.
EQUAL: dict[str, list[str]] = {
    "18": ["18", "18.", " 18 ", "18.0", "18.00", "+18", "$18", "\\$18", "$18$", "**18**", "*18*", "`18`", "\\boxed{18}", "$\\boxed{18}$",
           "18 eggs", "18 dollars", "18 dollars per day.", "x = 18", "x=18", "$x = 18$", "The answer is 18.", "Answer: 18", "\\(18\\)",
           "\\[18\\]", "18\\text{ cm}", "18 \\mathrm{~cm}", "18cm", "18 cm^2", "18 cm²", "18\\text{ square units}", "{18}", "(18)", "18°",
           "18^\\circ", "18^{\\circ}", "18 degrees", "１８", "36/2", "9*2", "9 \\cdot 2", "9\\times2", "9 × 2 = 18", "\\frac{36}{2}", "18;",
           "USD 18", "US$18", "€18", "18€", "18 miles per hour", "18 mph", "18 m/s", "18 km/h", "18th", "f(x) = 18", "\\displaystyle 18",
           "\\text{18}", "__18__", "***18***", "18 \\text{ units}^2", "18 ft.", "$18/hour", "18/hr", "18 \\\\", "\\frac{36}{2} = 18", "$\\frac{36}{2}=18$"],
    "-5": ["-5", "−5", "–5", "- 5", "-5.0", "-$5", "$-5", "(-5)", "-\\frac{10}{2}", "\\frac{-10}{2}", "-(5)", "x = -5", "-5^\\circ", "\\text{-5}"],
    "1000": ["1000", "1,000", "1,000.00", "$1,000", "1 000", "1\u202f000", "1\u00a0000", "1{,}000", "1\\,000", "1,\\!000", "1e3", "1E3", "1.0e+3",
             "10^3", "10**3", "10^{3}", "10³", "1 \\times 10^3", "1 × 10³", "1 thousand", "(1,000)", "1,000 people", "1.000e3"],
    "2001/2": ["$1,000.50", "1,000.5", "1000.50", "2001/2", "1000 1/2", "\\$1{,}000.50", "1000\\frac12", "1,000 1/2"],
    "1234567": ["1,234,567", "1234567", "$1,234,567.00", "1.234567e6", "1.234567 million"],
    "5000000": ["5 million", "5,000,000", "$5 million", "5 \\times 10^6", "5e6", "5 million dollars"],
    "1/2": ["1/2", "0.5", "0.50", ".5", "50%", "50\\%", "50 %", "50 percent", "\\frac12", "\\frac{1}{2}", "\\dfrac{1}{2}", "\\tfrac12", "½", "2/4",
            "5e-1", "\\frac{1}2", "\\frac 1 2", "\\frac1{2}", "2^{-1}", "2^-1", "1 / 2", "1÷2", "1⁄2", "(1/2)", "\\left(\\frac{1}{2}\\right)", "\\cfrac12"],
    "3/4": ["\\dfrac{3}{4}", "3/4", "0.75", "75%", "¾", "\\frac34", "1 - 1/4", "75\\text{ percent}"],
    "-3/4": ["-\\frac{3}{4}", "\\frac{-3}{4}", "-3/4", "-0.75", "\\frac{3}{-4}", "−¾", "-\\dfrac34"],
    "3/2": ["1 1/2", "1\\frac{1}{2}", "1\\frac12", "1½", "1 ½", "3/2", "1.5", "150%", "1 \\frac{1}{2}", "1 1/2 cups"],
    "-3/2": ["-1 1/2", "-1\\frac12", "-1.5", "-1½", "-\\frac{3}{2}"],
    "sqrt(2)": ["\\sqrt{2}", "\\sqrt2", "√2", "sqrt(2)", "2^{1/2}", "\\frac{2}{\\sqrt{2}}", "2^{0.5}", "\\sqrt[2]{2}", "sqrt2"],
    "2*sqrt(3)": ["2\\sqrt{3}", "2\\sqrt3", "2√3", "\\sqrt{12}", "√12", "2*sqrt(3)", "2 \\cdot \\sqrt{3}", "\\frac{6}{\\sqrt{3}}", "x = 2\\sqrt{3}"],
    "sqrt(3)/2": ["\\frac{\\sqrt{3}}{2}", "\\frac{\\sqrt3}2", "√3/2", "sqrt(3)/2", "\\sqrt{\\frac{3}{4}}", "\\frac{1}{2}\\sqrt{3}", "\\sqrt{3/4}"],
    "1 + sqrt(2)": ["1+\\sqrt{2}", "\\sqrt{2} + 1", "1+√2", "\\frac{1}{\\sqrt{2}-1}", "\\left(1+\\sqrt{2}\\right)"],
    "-2": ["\\sqrt[3]{-8}", "-2", "-\\sqrt{4}"],
    "pi/2": ["\\frac{\\pi}{2}", "π/2", "pi/2", "\\frac12\\pi", "0.5\\pi", "\\pi/2"],
    "2*pi": ["2\\pi", "2π", "2 pi", "2*pi", "\\pi \\cdot 2"],
    "oo": ["\\infty", "∞", "infinity", "+\\infty"],
    "3 + 4*I": ["3+4i", "4i + 3", "3 + 4 i"],
    "x**2 + 2*x + 1": ["x^2+2x+1", "(x+1)^2", "x^{2} + 2x + 1", "1+2x+x²", "y = x^2+2x+1", "(x+1)(x+1)", "f(x) = (x+1)^2"],
    "1/y + 1/x": ["\\frac{1}{x} + \\frac{1}{y}", "\\frac{x+y}{xy}", "(x+y)/(x*y)", "\\frac{(x+y)(x+1)}{xy(x+1)}", "\\frac{x^2-y^2}{xy(x-y)}"],
    "x/(x + 1)": ["\\frac{x}{x+1}", "x/(x+1)", "1 - \\frac{1}{x+1}", "\\frac{2x}{2x+2}", "\\frac{x^2-x}{x^2-1}"],
    "2*x": ["2x", "2 x", "2*x", "x + x", "2\\cdot x"],
    "(1, 2)": ["(1,2)", "(1, 2)", "\\left(1, 2\\right)", "(1.0, 4/2)", "( 1 , 2 )", "(x,y) = (1,2)"],
    "(3, pi/2)": ["\\left( 3, \\frac{\\pi}{2} \\right)", "(3, π/2)", "(3,\\pi/2)"],
    "[0, 1)": ["[0, 1)", "[0,1)", "\\left[0,1\\right)", "x \\in [0, 1)", "[0, 2/2)"],
    "(-oo, 3]": ["(-\\infty, 3]", "(-∞, 3]", "\\left(-\\infty,3\\right]"],
    "(-oo, 1) U (2, oo)": ["(-\\infty,1)\\cup(2,\\infty)", "(-∞, 1) ∪ (2, ∞)", "(2, \\infty) \\cup (-\\infty, 1)", "(-\\infty,1) U (2,\\infty)"],
    "{-2, 1}": ["1, -2", "-2, 1", "1,-2", "1 or -2", "x = 1 or x = -2", "1 \\text{ and } -2", "1; -2", "\\{1, -2\\}", "\\{-2,1\\}", "x=1,x=-2"],
    "{-2, 2}": ["\\pm 2", "±2", "x = \\pm 2", "2, -2", "+/-2"],
    "{1 + sqrt(2), 1 - sqrt(2)}": ["1 \\pm \\sqrt{2}", "1+\\sqrt{2}, 1-\\sqrt{2}", "1±√2", "1-√2 or 1+√2"],
    "monday": ["Monday", "monday.", "\\text{Monday}", "**Monday**", "\\text{monday}", "MONDAY", "\"Monday\""],
    "{(1, 2), (3, 4)}": ["(1,2), (3,4)", "(3, 4) and (1, 2)", "(3,4),(1,2)", "\\{(1,2),(3,4)\\}"],
    "no solution": ["no solution", "No Solution", "\\text{no solution}"],
    "A": ["A", "(A)", "A)", "A.", "\\text{A}", "\\text{(A)}", "**A**", "\\textbf{(A)}", "\\boxed{A}"],
    "3:2": ["3:2", "3 : 2"],
    "3:30 pm": ["3:30 pm", "3:30 PM", "3:30 p.m.", "3:30\\text{ p.m.}"],
    "1011_2": ["1011_2", "1011_{2}"],
}  # fmt: skip
# Each is another answer than the one beside it.
DIFFERENT = [
    ("0.33", "1/3"), ("1,2", "12"), ("(1,2)", "(2,1)"), ("[0,1]", "(0,1)"), ("5", "-5"), ("50%", "50"), ("x", "y"), ("1000", "1,00"),
    ("5 hours", "5:00"), ("A", "B"), ("2^3", "6"), ("\\frac12", "\\frac21"), ("1 1/2", "1/2"), ("10^2", "10"), ("2x", "x^2"), ("0", "O"),
    ("\\sqrt{2}", "1.41421356"), ("\\pi", "3.14159"), ("3/4", "3:4"), ("1011_2", "1011"), ("yes", "no"), ("-1 1/2", "-1/2"),
    ("{1,2}", "(1,2)"), ("2/m", "2"), ("2x", "2"), ("(-1,0)", "(-1,000)"),
]  # fmt: skip
UNPARSED = [
    "", " ", ".", "$", "\\boxed{}", "???", "...", "0.333...", "1/0", "\\frac{1}{0}", "0/0", "\\infty - \\infty", "x = 1, y = 2", "2 hours 3 minutes",
    "3 hours and 20 minutes", "5!", "((((", "1 +", "* 3", "2 3", "\\frac{1}{", "x > 5", "2x + 3y = 5", "\\sin x", "2^3^2", "#", "{", "}", ")(",
    "5 \\pm 1 \\pm 2", "1.2.3", "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "(1, )", "March 5", "18 (eggs)", "5 + apples", "the 5", "0^0", "0^{-1}",
]  # fmt: skip
HOSTILE = {
    "a tower": "9**9**9**9",
    "a tower in TeX": "9^{9^{9^{9}}}",
    "one large power": "9^{99999999}",
    "a large negative power": "9^{-99999999}",
    "a power of a power": "((((9^9)^9)^9)^9)^9",
    "an import": "__import__('os')",
    "a call": "__import__('os').system('true')",
    "an attribute": "().__class__.__bases__[0].__subclasses__()",
    "a lambda": "(lambda: 1)()",
    "an exec": "exec('1')",
    "an f-string": "{f'{1}'}",
    "100 kB of parentheses": "(" * 100_000,
    "100 kB, balanced": "(" * 50_000 + "1" + ")" * 50_000,
    "200 parentheses": "(" * 100 + "1" + ")" * 100,
    "deep fractions": "\\frac{1}{" * 25 + "2" + "}" * 25,
    "deep roots": "\\sqrt" * 45 + "{2}",
    "a long sum": "+".join(["1"] * 120),
    "a long product of sums": "(a+b)(c+d)(f+g)(h+k)(l+m)(n+o)(p+q)(r+s)(t+u)(v+w)(x+y)(z+1)",
    "a power of a sum": "(a+b+c+d+f+g+h)^12",
    "a power of a power of a sum": "((x+1)^12)^12",
    "a fraction of powers": "\\frac{(x+y+z)^5}{(x-y-z)^5} + \\frac{1}{x^7+y^6+z^5}",
    "fractions of many roots": "\\frac{1}{\\sqrt{2}+\\sqrt{3}+\\sqrt{5}+\\sqrt{7}+\\sqrt{11}+\\sqrt{13}+\\sqrt{17}}",
    "sums of many roots": "+".join(f"\\sqrt{{{n}}}" for n in range(2, 22)),
    "a root of a large number": f"\\sqrt{{{10**58 + 7}}}",
    "a root of a large semiprime": "\\sqrt{100000000000000000039*3}",
    "a product of roots": "".join(f"\\sqrt{{{n}}}" for n in (10**17 + 3, 10**17 + 13, 10**17 + 19)),
    "a factorial": "9999999!",
    "factorials": "9!!!!!!!!",
    "a long number": "9" * 200,
    "a longer number": "9" * 100_000,
    "a large exponent": "1e999999999",
    "a small one": "1e-999999999",
    "a small one with a fraction": "0.1e-999999999",
    "NUL": "5\0",
    "an escape": "\x1b[31m5",
    "a lone surrogate": "5\ud800",
    "a direction mark": "\u202e5",
    "100 kB of backslashes": "\\" * 100_000,
    "many boxes": "\\boxed{" * 30 + "1" + "}" * 30,
    "many units": "1" + "a/" * 120 + "!",
    "many dots": "." * 120 + "a" * 100 + "!",
    "many blanks": "1" + " " * 200 + "x" + " " * 40 + "!",
    "many stars": "*" * 250,
    "many minuses": "-" * 250 + "5",
    "many commas": "1," * 127,
    "many thousands": "1,000" * 50,
    "many words": "word " * 50 + "!",
    "many slashes": "1/" * 120 + "1",
    "a power with a letter": "2^{x^{y^{z^{w}}}}",
    "a percent of percents": "%" * 250,
    "powers of roots": "(\\sqrt{2}+\\sqrt{3}+\\sqrt{5}+\\sqrt{7})^{12}",
    "nested roots": "\\sqrt{2+\\sqrt{2+\\sqrt{2+\\sqrt{2+\\sqrt{2}}}}}",
    "one over nested roots": "\\frac{1}{\\sqrt{2+\\sqrt{2+\\sqrt{2+\\sqrt{2}}}}}",
    # these took sympy seconds to minutes before roots and fractions were bounded
    "pi and roots below": "\\frac{1}{(i-3)+\\frac{1}{\\pi+\\sqrt{7}}}",
    "fractions below": "\\frac{1}{\\frac{1}{\\sqrt{2-97}+(2-\\pi)}+\\frac{1}{\\frac{2}{i}+(i)^{1/3}}}",
    "powers of roots of fractions": "(\\sqrt{(\\frac{2}{\\sqrt{7}}-(2)^{12})-\\frac{1}{\\frac{1}{\\pi+2}+(3-\\pi)}})^{5}",
    "a power of fractions below": "((\\frac{1}{y+\\pi})^{12}+(\\sqrt{5}*\\pi)^{1/3})^{-2}",
    "tuples within tuples": "(" * 80 + "1" + ",2)" * 58,
    "tuples within tuples, whole": "(" * 60 + "1" + ",2)" * 60,
    "complex roots": "(1+i)^{12}+(2+3i)^{1/12}+(-7)^{5/12}",
}


@pytest.mark.parametrize("wanted", EQUAL)
def test_equal_answers_have_one_spelling(wanted: str) -> None:
    found = {spelling: canonical(spelling) for spelling in EQUAL[wanted]}
    assert {spelling: answer for spelling, answer in found.items() if answer != wanted} == {}


def test_the_table_is_long_enough() -> None:
    assert sum(map(len, EQUAL.values())) > 200
    assert len({canonical(row[0]) for row in EQUAL.values()}) == len(EQUAL)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_different_answers_stay_different(one: str, other: str) -> None:
    assert canonical(one) is not None
    assert canonical(one) != canonical(other)


@pytest.mark.parametrize("text", UNPARSED)
def test_what_is_no_answer_is_none(text: str) -> None:
    assert canonical(text) is None


@pytest.mark.parametrize("wanted", [wanted for wanted in EQUAL if not wanted.endswith("_2")])
def test_a_canonical_answer_stays_itself(wanted: str) -> None:
    assert canonical(wanted.replace("{", "\\{").replace("}", "\\}")) == wanted


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answers_take_no_time_and_run_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sympy

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model's text was evaluated")

    canonical("x + \\frac{1}{x} + \\frac{1}{1+\\sqrt{2}}")
    for module, function in (
        (sympy, "sympify"),
        (sympy.parsing.sympy_parser, "eval_expr"),
        (sympy.parsing.sympy_parser, "parse_expr"),
    ):
        monkeypatch.setattr(module, function, refuse)
    # processor time: others may use the machine
    start = time.process_time()
    answer = canonical(HOSTILE[name])
    assert time.process_time() - start < 0.05
    assert answer is None or len(answer) < 400


@pytest.mark.parametrize(
    "name", ["a tower", "an import", "a call", "an attribute", "100 kB of parentheses", "NUL", "a factorial", "an escape"]
)
def test_these_are_no_answers(name: str) -> None:
    assert canonical(HOSTILE[name]) is None


numbers = st.fractions(min_value=-(10**9), max_value=10**9, max_denominator=10**4)


@given(numbers)
def test_fractions_are_equal_in_every_spelling(number: Fraction) -> None:
    p, q = number.numerator, number.denominator
    sign, whole, rest = "-" if p < 0 else "", abs(p) // q, abs(p) % q
    spellings = [f"{p}/{q}", f"\\frac{{{p}}}{{{q}}}", f"{sign}\\dfrac{{{abs(p)}}}{{{q}}}", f"x = {p}/{q}", f"({7 * p})/{7 * q}"]
    spellings += [
        f"\\boxed{{{sign}{whole}\\frac{{{rest}}}{{{q}}}}}",
        f"{sign}{whole} {rest}/{q}",
        f"\u2212{abs(p)}/{q}" if p < 0 else f"+{p}/{q}",
    ]
    spellings += [f"{100 * p}/{q}%"]
    assert {canonical(spelling) for spelling in spellings} == {str(number)}


@given(st.integers(min_value=-(10**14), max_value=10**14), st.integers(min_value=0, max_value=4))
def test_decimals_are_equal_in_every_spelling(digits: int, n_places: int) -> None:
    number = Fraction(digits, 10**n_places)
    plain = f"{'-' if digits < 0 else ''}{abs(digits) // 10**n_places}" + (
        f".{abs(digits) % 10**n_places:0{n_places}d}" if n_places else ""
    )
    grouped = f"{abs(digits) // 10**n_places:,}" + (plain[plain.index(".") :] if n_places else "")
    sign = "-" if digits < 0 else ""
    spellings = [
        plain,
        f"{sign}${grouped}",
        f"${sign}{grouped}",
        f"**{plain}**",
        f"{plain} dollars",
        f"{plain}0" if n_places else f"{plain}.0",
        f"{plain}e0",
    ]
    spellings += [
        f"\\boxed{{{sign}{grouped.replace(',', '{,}')}}}",
        f"{digits}e-{n_places}",
        f"{digits} \\times 10^{{-{n_places}}}",
        f"{plain}.",
    ]
    assert {canonical(spelling) for spelling in spellings} == {str(number)}


@given(st.integers(2, 400), st.integers(1, 30), st.integers(-30, 30))
def test_roots_are_equal_when_their_values_are(radicand: int, factor: int, added: int) -> None:
    one = canonical(f"{added}+{factor}\\sqrt{{{radicand}}}")
    assert one == canonical(f"\\sqrt{{{factor * factor * radicand}}} + {added}")
    assert one == canonical(f"\\frac{{{added * radicand}+{factor * radicand}\\sqrt{{{radicand}}}}}{{{radicand}}}")
    assert one != canonical(f"{added}+{factor}\\sqrt{{{radicand + 1}}}")


@given(st.text(max_size=80))
def test_any_text_gives_an_answer_or_none_twice_alike(text: str) -> None:
    answer = canonical(text)
    canonical.cache_clear()
    assert canonical(text) == answer


@given(st.text(alphabet="0123456789+-*/^(){}[]\\ .,xye=%$_frac sqrt", max_size=60))
def test_any_mathematics_gives_an_answer_or_none_in_little_time(text: str) -> None:
    start = time.process_time()
    canonical(text)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("3 + 4 = 7\n#### 7", "7"),
        ("#### 7\nNo, wait.\n#### 8", "8"),
        ("#### 7 apples\nDone.", "7 apples"),
        ("####7", "7"),
        ("####\n5", None),
        ("##### 5", None),
        ("so \\boxed{5}.", "5"),
        ("so \\boxed{\\frac{1}{2}} and that is it {", "\\frac{1}{2}"),
        ("\\boxed{1} or rather \\boxed{2}", "2"),
        ("\\boxed{\\boxed{3}}", "\\boxed{3}"),
        ("\\boxed{\\{1, 2\\}}", "\\{1, 2\\}"),
        ("\\fbox{4}", "4"),
        ("#### 1\n\\boxed{2}", "2"),
        ("\\boxed{2}\n#### 1", "1"),
        ("#### \\boxed{18}", "18"),
        ("\\boxed{2} then \\boxed{3", "2"),
        ("\\boxed{3", None),
        ("The answer is 5", None),
        ("", None),
        ("#### 5\n\nQuestion: What is 2 + 2?\nAnswer: 4\n#### 4", "5"),
    ],
)
def test_the_last_answer_of_a_text_is_found(text: str, wanted: str | None) -> None:
    assert extract(text) == wanted


@pytest.mark.parametrize(
    ("text", "whole", "cut"),
    [
        ("#### 1", "1", None),
        ("#### 1\n", "1", "1"),
        ("#### 1\nQuestion: 2", "1", "1"),
        ("#### 7\n#### 1", "1", "7"),
        ("#### \\boxed{1}", "1", "1"),
    ],
)
def test_an_answer_that_the_end_breaks_off_is_none(text: str, whole: str, cut: str | None) -> None:
    assert (extract(text), extract(text, is_cut=True)) == (whole, cut)


@pytest.mark.parametrize(
    "text", ["\\boxed{" * 15_000, "}" * 100_000, "{" * 100_000, "#" * 100_000, "#### " * 20_000, "\\boxed{1}" * 10_000]
)
def test_extraction_is_linear(text: str) -> None:
    start = time.process_time()
    extract(text)
    assert time.process_time() - start < 0.2


def test_what_cannot_be_parsed_is_never_correct() -> None:
    assert is_correct(canonical("$1,000"), "1000.0")
    assert not is_correct(canonical("1001"), "1000")
    assert not is_correct(None, "1000")
    assert not is_correct(None, "(((")
    assert not is_correct("(((", "(((")


@pytest.mark.data
@pytest.mark.parametrize(
    ("file", "n"),
    [("gsm8k_test/grade_school_math/data/test.jsonl", 1319), ("gsm8k_train/grade_school_math/data/train.jsonl", 7473)],
)
def test_every_answer_of_gsm8k_is_a_whole_number_in_one_spelling(test_data: Path, file: str, n: int) -> None:
    lines = (test_data / file).read_text().splitlines()
    assert len(lines) == n
    for line in lines:
        text = json.loads(line)["answer"]
        marked = extract(text)
        assert marked is not None
        wanted = str(int(marked.replace(",", "")))
        assert marked == text.rpartition("####")[2].strip()
        assert canonical(marked) == wanted
        assert {canonical(f"${marked}"), canonical(f"\\boxed{{{marked}}}"), canonical(f"{wanted}.00 dollars")} == {wanted}
