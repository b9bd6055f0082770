"""Mathematical expressions as people and models write them, read into sympy by a parser of their own, never run as code.

sympy's own `sympify` and `parse_expr` run `eval`, so a model's text must not reach them. Here length, depth, powers and the
number of terms are bounded before sympy is asked for anything, which bounds the time.
"""

from __future__ import annotations

import re
from functools import cache
from math import comb
from typing import Any

import sympy

MAX_LENGTH = 120
_MAX_DEPTH = 12
_MAX_BITS = 512
_MAX_POWER = 12
_MAX_TERMS = 64
_MAX_FRACTION_TERMS = 12

_NUMBER = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(?:[eE]([+-]?\d+)(?![\d.]))?")
_COMMAND = re.compile(r"\\([a-zA-Z]+)")
_WORD = re.compile(r"sqrt|pi|infinity|inf|oo")
_SYMBOL = re.compile(r"([a-zA-Z])(?:_(?:([a-zA-Z0-9])|\{([a-zA-Z0-9]{1,4})\}))?")
_PRODUCT = re.compile(r"\*(?!\*)|\\cdot(?![a-zA-Z])|\\times(?![a-zA-Z])")
_QUOTIENT = re.compile(r"/|\\div(?![a-zA-Z])")
_POWER = re.compile(r"\^|\*\*")
_CONSTANTS = {"pi": sympy.pi, "infty": sympy.oo, "infinity": sympy.oo, "inf": sympy.oo, "oo": sympy.oo}
_GREEK = frozenset(("alpha", "beta", "gamma", "delta", "theta", "lambda", "mu", "rho", "sigma", "tau", "phi", "omega"))
_LONG_WORD = re.compile(r"(?<![\\a-zA-Z])(?!infinity)[a-zA-Z]{4,}")
_CLOSING = {"(": ")", "[": "]", "{": "}"}


class ParseError(ValueError):
    """Not an expression, or a larger one than an answer is."""


def simplest(text: str) -> str:
    """The expression as sympy prints it once expanded, or, if it is a fraction, cancelled and freed of roots below.

    Equal polynomials, fractions of polynomials and sums of square roots come out the same. Raises ParseError.
    """
    if len(text) > MAX_LENGTH:
        raise ParseError("too long")
    if _LONG_WORD.search(text):
        raise ParseError("a word, which is no product of its letters")
    parser = _Parser(text)
    value = parser.sum()
    if not parser.is_at_end():
        raise ParseError(f"{text[parser.position :]!r} is left over")
    return _printed(value)


def _printed(value: Any) -> str:
    if value.has(sympy.nan, sympy.zoo):
        raise ParseError("no value")
    if value.has(sympy.oo, -sympy.oo):
        if value not in (sympy.oo, -sympy.oo):
            raise ParseError("infinity within an expression")
        return str(value)
    if value.is_Rational:
        return str(value)
    if _n_terms(value) > _MAX_TERMS:
        raise ParseError("too many terms")
    return str(sympy.expand(_cancelled(value)))


def _cancelled(value: Any) -> Any:
    """The value with its fractions brought together and cancelled, where there is a sum below."""
    if not any(_is_below(part) and part.base.is_Add and part.base.free_symbols for part in value.atoms(sympy.Pow)):
        return value
    if any(not part.exp.is_Integer for part in value.atoms(sympy.Pow)) or value.has(sympy.pi, sympy.I):
        raise ParseError("a fraction that is not one of polynomials with rational coefficients")
    if _n_terms(value) > _MAX_FRACTION_TERMS or len(value.free_symbols) > 3:
        raise ParseError("too large a fraction")
    return sympy.cancel(value)


def _is_below(part: Any) -> bool:
    return part.exp.is_Rational and part.exp < 0


def _inverse(value: Any) -> Any:
    """1 / value, without roots of whole numbers below: those are conjugated away, one after the other."""
    if value.is_zero:
        raise ParseError("division by zero")
    if not value.is_Add or value.free_symbols:
        return 1 / value
    found = {part for part in value.atoms(sympy.Pow) if part.exp == sympy.S.Half}
    roots = sorted(found | ({sympy.I} if value.has(sympy.I) else set()), key=str)
    if value.atoms(sympy.Pow) - set(roots) or any(part.is_Pow and not part.base.is_Integer for part in roots) or len(roots) > 3:
        raise ParseError("too many roots below")
    if value.has(sympy.pi) and roots:
        raise ParseError("roots and pi below")
    conjugates = sympy.S.One
    for root in roots:
        conjugate = value.xreplace({root: -root})
        conjugates, value = sympy.expand(conjugates * conjugate), sympy.expand(value * conjugate)
    if value.is_zero:
        raise ParseError("division by zero")
    return sympy.expand(conjugates / value)


def _n_terms(value: Any) -> int:
    """At most how many terms the expanded value has."""
    if value.is_Add:
        return sum(map(_n_terms, value.args))
    if value.is_Mul:
        n = 1
        for part in value.args:
            n *= _n_terms(part)
        return n
    if value.is_Pow and value.exp.is_Integer:
        n, power = _n_terms(value.base), abs(int(value.exp))
        return comb(n + power - 1, power)
    return 1 + sum(map(_n_terms, value.args)) if value.args else 1


@cache
def _symbol(name: str) -> Any:
    return sympy.I if name in ("i", "I") else sympy.Symbol(name)


class _Parser:
    """Sums of products of powers, character by character."""

    def __init__(self, text: str) -> None:
        self.text, self.position, self.depth = text, 0, 0

    def is_at_end(self) -> bool:
        self.skip_blanks()
        return self.position == len(self.text)

    def skip_blanks(self) -> None:
        while self.position < len(self.text) and self.text[self.position].isspace():
            self.position += 1

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        """What matches here, passed over."""
        self.skip_blanks()
        found = pattern.match(self.text, self.position)
        if found:
            self.position = found.end()
        return found

    def peek(self) -> str:
        self.skip_blanks()
        return self.text[self.position : self.position + 1]

    def sum(self) -> Any:
        total = self.signed_product()
        while self.peek() in ("+", "-"):
            total = total + self.signed_product()
        return total

    def signed_product(self) -> Any:
        is_negative = False
        for _ in range(2):
            if self.peek() in ("+", "-"):
                is_negative ^= self.peek() == "-"
                self.position += 1
        product = self.product()
        return -product if is_negative else product

    def product(self) -> Any:
        product = self.power()
        while True:
            if self.take(_QUOTIENT):
                product = product * _inverse(self.signed_power())
            elif self.take(_PRODUCT):
                product = product * self.signed_power()
            elif (found := self.peek()) and (found.isalpha() or found in "\\([{"):
                product = product * self.power()
            else:
                return product
            _check_size(product)

    def signed_power(self) -> Any:
        is_negative = self.peek() == "-"
        self.position += is_negative
        return -self.power() if is_negative else self.power()

    def power(self) -> Any:
        base = self.atom()
        if not self.take(_POWER):
            return base
        if self.peek() == "{":
            exponent = self.group()
        elif self.peek() == "-":
            self.position += 1
            exponent = -self.atom()
        else:
            exponent = self.atom()
        if self.take(_POWER):
            # 2^3^2 is read in two ways
            raise ParseError("a power of a power without brackets")
        return _power(base, exponent)

    def atom(self) -> Any:
        # whatever contains itself does so through here
        self.depth += 1
        if self.depth > _MAX_DEPTH:
            raise ParseError("too deep")
        value = self.one_atom()
        self.depth -= 1
        return value

    def one_atom(self) -> Any:
        here = self.peek()
        if here in _CLOSING and here:
            return self.group()
        if found := self.take(_NUMBER):
            return _number(found)
        if found := self.take(_COMMAND):
            return self.command(found[1])
        if found := self.take(_WORD):
            return self.command(found[0])
        if found := self.take(_SYMBOL):
            subscript = found[2] or found[3]
            return _symbol(found[1] + (f"_{subscript}" if subscript else ""))
        raise ParseError(f"{here!r} begins nothing")

    def group(self) -> Any:
        closing = _CLOSING[self.peek()]
        self.position += 1
        value = self.sum()
        if self.peek() != closing:
            raise ParseError(f"no {closing}")
        self.position += 1
        return value

    def command(self, name: str) -> Any:
        if name in _CONSTANTS:
            return _CONSTANTS[name]
        if name in _GREEK:
            return _symbol(name)
        if name == "frac":
            above = self.argument()
            return above * _inverse(self.argument())
        if name == "sqrt":
            degree = self.group() if self.peek() == "[" else sympy.Integer(2)
            return _root(self.argument(), degree)
        raise ParseError(f"\\{name} is not known")

    def argument(self) -> Any:
        """A group, or TeX's single token: one digit, one letter, one command."""
        here = self.peek()
        if here in ("{", "("):
            return self.group()
        if here.isdigit():
            self.position += 1
            return sympy.Integer(int(here))
        return self.atom()


def _number(found: re.Match[str]) -> Any:
    whole, _, places = found[1].partition(".")
    power = int(found[2] or 0) - len(places)
    if len(whole + places) > 60 or abs(power) > 120:
        raise ParseError("too long a number")
    return sympy.Rational(int(whole + places) * 10 ** max(power, 0), 10 ** max(-power, 0))


def _root(value: Any, degree: Any) -> Any:
    if not (degree.is_Integer and 2 <= degree <= _MAX_POWER):
        raise ParseError("no such root")
    if value.is_Rational and value < 0 and degree % 2:
        # the real one
        return -_power(-value, 1 / degree)
    return _power(value, 1 / degree)


def _power(base: Any, exponent: Any) -> Any:
    if base.has(sympy.oo) or exponent.has(sympy.oo):
        raise ParseError("a power of infinity")
    if base.is_zero and not exponent.is_positive:
        raise ParseError("no power of zero")
    if base.is_Rational and exponent.is_Rational:
        n_bits = max(int(base.p).bit_length(), int(base.q).bit_length())
        if n_bits * max(1, abs(exponent)) > _MAX_BITS or exponent.q > _MAX_POWER or (exponent.q > 1 and n_bits > 128):
            raise ParseError("too large a power")
    elif exponent.is_Integer:
        if abs(exponent) > _MAX_POWER or (base.is_Add and _n_terms(base) ** abs(exponent) > _MAX_TERMS**2):
            raise ParseError("too large a power")
        if exponent < 0 and _n_terms(base) > 4:
            raise ParseError("too large a power below")
        if exponent < 0:
            return _inverse(sympy.expand(base**-exponent))
    elif exponent.is_Rational:
        _check_root(base, exponent)
    elif not exponent.free_symbols or not (base.is_Rational or base.is_Symbol) or _n_terms(exponent) > 4:
        raise ParseError("a power that is no answer")
    power = base**exponent
    _check_size(power)
    return power


def _check_root(base: Any, exponent: Any) -> None:
    """Of sums and products few roots are answers: of polynomials, and of a few roots of whole numbers."""
    within = [part for part in base.atoms(sympy.Pow) if not part.exp.is_Integer or part.exp < 0]
    is_simple = not base.has(sympy.I) and _n_terms(base) <= 4 and abs(exponent) <= 2 and exponent.q <= 3
    if not is_simple or (base.free_symbols and within) or any(not part.base.is_Integer for part in within):
        raise ParseError("a root that is no answer")


def _check_size(value: Any) -> None:
    if value.is_Rational and max(int(value.p).bit_length(), int(value.q).bit_length()) > 2 * _MAX_BITS:
        raise ParseError("too large a number")
