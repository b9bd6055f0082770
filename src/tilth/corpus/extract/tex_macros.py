r"""Expands macros without arguments where they are used: `\newcommand`, `\def`, `\let` and their relatives, as TeX would.

RedPajama-V1 knows `\newcommand` and `\def` on one line, takes the last definition for the whole paper and ends a
value at the first brace. Here a definition holds from where it stands to the end of its group, and values nest.
"""

from __future__ import annotations

import re

from tilth.corpus.extract.tex_tokens import TexError, argument, brace_pairs, option, scan, skip_space

MAX_DEPTH = 40  # of macros in values of macros
MAX_VALUE_CHARS = 1 << 16
MAX_STEPS = 1_000_000  # macros replaced in values of macros
MAX_GROWTH_CHARS = 4 << 20  # that expansion may add to a paper

COMMAND_LIKE = frozenset({"newcommand", "renewcommand", "providecommand", "DeclareRobustCommand"})
DEF_LIKE = frozenset({"def", "gdef", "edef", "xdef"})
XPARSE_LIKE = frozenset({
    f"{verb}{kind}DocumentCommand" for verb in ("New", "Renew", "Provide", "Declare") for kind in ("", "Expandable")
})  # fmt: skip
DEFINING = COMMAND_LIKE | DEF_LIKE | XPARSE_LIKE | {"let", "DeclareMathOperator"}
# Their meaning is the structure of the paper or TeX's own: what a paper makes of them is not text.
KEPT = frozenset({
    "begin", "end", "documentclass", "documentstyle", "usepackage", "input", "include", "item", "par", "section",
    "subsection", "subsubsection", "paragraph", "subparagraph", "chapter", "part", "title", "author", "date", "maketitle",
    "abstract", "appendix", "bibliography", "label", "ref", "cite", "caption", "footnote", "verb", "newcommand",
    "renewcommand", "providecommand", "def", "gdef", "edef", "xdef", "let", "relax", "global", "long", "outer", "protected",
})  # fmt: skip
UNSAFE = re.compile(
    r"#|\\(?:[A-Za-z]*@|csname|endcsname|expandafter|futurelet|noexpand|catcode|if|else(?![A-Za-z])|fi(?![A-Za-z])"
    r"|(?:re)?newcommand|[gex]?def(?![A-Za-z])|let(?![A-Za-z])|begingroup|endgroup|bgroup|egroup|afterassignment|advance)"
)
TAKES_ARGUMENT = re.compile(
    r"(?:[\^_]|\\(?:[dt]?frac|sqrt|math(?:bf|bb|cal|rm|it|sf|tt|frak|scr)|bm|boldsymbol|(?:wide)?(?:hat|tilde)|bar|vec|d?dot|overline"
    r"|underline|text|mbox|operatorname|overset|underset|stackrel|binom|acute|check|breve|mathring))\s*$"
)
TOKENS = r"\\(?P<word>[A-Za-z@]+)\*?|\\(?s:.)|(?P<brace>[{}])"
NAME = re.compile(r"\s*(?:\{\s*\\([A-Za-z@]+)\s*\}|\\([A-Za-z@]+))")
ENDS_IN_WORD = re.compile(r"\\[A-Za-z]+$")


def expand_macros(text: str) -> tuple[str, int]:
    r"""(text with macros expanded, number of uses replaced); definitions stay where they are, unchanged.

    Not expanded: macros with arguments, values with TeX programming (UNSAFE), commands that structure a paper
    (KEPT), what is verbatim. White space after a use stays, and `\xspace` goes. Raises TexError `macro_bomb`.
    """
    return _Expansion(text).run()


class _Expansion:
    """One pass over a source: the definitions in force, and the output so far."""

    def __init__(self, text: str) -> None:
        self.text, self.pairs = text, brace_pairs(text)
        self.values: dict[str, str | None] = {}  # None: defined, but not to be expanded
        self.final: set[str] = set()  # names whose value was fixed by \let
        self.undo: list[tuple[int, str, str | None, bool]] = []
        self.memo: dict[str, str] = {}
        self.parts: list[str] = []
        self.starred = False  # whether the definition that is being read has a star
        self.done = self.depth = self.n_uses = self.n_added = self.n_steps = 0

    def run(self) -> tuple[str, int]:
        skip_to = 0
        for match in scan(TOKENS, self.text):
            if match.start() < skip_to:
                continue
            word = match["word"]
            if match["brace"]:
                self._enter_or_leave(match["brace"] == "{")
            elif word is None:
                continue
            elif word in ("begin", "begingroup", "bgroup", "end", "endgroup", "egroup"):
                self._enter_or_leave(word.startswith("b"))
            elif word in DEFINING:
                self.starred = match[0].endswith("*")
                skip_to = self._define(word, match.end(), match.start()) or skip_to
            elif word.rstrip("@") == word and self.values.get(word) is not None:
                self._use(word, match.start(), match.start() + 1 + len(word))
        self.parts.append(self.text[self.done :])
        return "".join(self.parts), self.n_uses

    def _enter_or_leave(self, enters: bool) -> None:
        self.depth = self.depth + 1 if enters else max(0, self.depth - 1)
        while not enters and self.undo and self.undo[-1][0] > self.depth:
            _, name, value, final = self.undo.pop()
            self._set(name, value, final)

    def _set(self, name: str, value: str | None, final: bool = False) -> None:
        self.values[name] = value
        (self.final.add if final else self.final.discard)(name)
        self.memo.clear()

    def _define(self, word: str, at: int, start: int) -> int | None:
        """Take in a definition; the index after it, None if it is none that can be read."""
        found = NAME.match(self.text, at)
        if found is None:
            return None
        name = found[1] or found[2]
        read = self._let if word == "let" else self._def if word in DEF_LIKE else self._command
        result = read(found.end(), word, name)
        if result is None:
            return None
        value, end = result
        if word in ("providecommand",) and name in self.values:
            return end
        if value is not None and (name in KEPT or "@" in name or UNSAFE.search(value) or len(value) > MAX_VALUE_CHARS):
            value = None
        everywhere = word in ("gdef", "xdef") or self.text[max(0, start - 10) : start].rstrip().endswith("\\global")
        if self.depth and not everywhere:
            self.undo.append((self.depth, name, self.values.get(name), name in self.final))
        self._set(name, value, final=word == "let")
        return end

    def _command(self, at: int, word: str, name: str) -> tuple[str | None, int] | None:
        takes_arguments = False
        if word in XPARSE_LIKE:
            found = argument(self.text, at, self.pairs)
            if found is None:
                return None
            takes_arguments, at = bool(found[0].strip()), found[1]
        elif (count := option(self.text, at)) is not None:
            takes_arguments, at = count[0].strip() != "0", count[1]
            if (default := option(self.text, at)) is not None:
                at = default[1]
        found = argument(self.text, at, self.pairs)
        if found is None:
            return None
        value: str | None = found[0]
        if word == "DeclareMathOperator":
            value = rf"\operatorname{'*' if self.starred else ''}{{{found[0]}}}"
        return (None if takes_arguments else value), found[1]

    def _def(self, at: int, word: str, name: str) -> tuple[str | None, int] | None:
        opening = self.text.find("{", at, at + 500)
        end = self.pairs.get(opening)
        if end is None:
            return None
        value = self.text[opening + 1 : end - 1]
        if self.text[at:opening].strip():
            return None, end
        return (self._expanded(value, (name,)) if word in ("edef", "xdef") else value), end

    def _let(self, at: int, word: str, name: str) -> tuple[str | None, int] | None:
        at = skip_space(self.text, at)
        at = skip_space(self.text, at + 1) if self.text[at : at + 1] == "=" else at
        if self.text[at : at + 1] in ("{", "}", ""):
            return None
        found = argument(self.text, at, self.pairs)
        if found is None:
            return None
        target = found[0]
        known = self.values.get(target[1:], target) if target.startswith("\\") else target
        return (None if known is None or target == f"\\{name}" else self._expanded(known, (name,))), found[1]

    def _use(self, name: str, start: int, end: int) -> None:
        value = self._value_of(name, ())
        value = value.removesuffix("\\xspace").rstrip() if value.rstrip().endswith("\\xspace") else value
        self.parts.append(self.text[self.done : start])
        before = "".join(self.parts[-3:])[-40:]
        self.parts.append(_joined(before, value, self.text[end : end + 1]))
        self.done = end
        self.n_uses += 1
        self.n_added += len(value)
        if self.n_added > MAX_GROWTH_CHARS + len(self.text):
            raise TexError("macro_bomb", f"macros add more than {MAX_GROWTH_CHARS} characters")

    def _value_of(self, name: str, active: tuple[str, ...]) -> str:
        value = self.values[name]
        assert value is not None
        if name in self.final:
            return value
        if name not in self.memo:
            self.memo[name] = self._expanded(value, (*active, name))
        return self.memo[name]

    def _expanded(self, value: str, active: tuple[str, ...]) -> str:
        """A value with the macros in it expanded; one that contains itself stays."""
        if len(active) > MAX_DEPTH:
            raise TexError("macro_bomb", f"macros nest more than {MAX_DEPTH} deep: \\{active[0]}")
        parts: list[str] = []
        done = n_chars = 0
        for match in scan(TOKENS, value):
            word = match["word"]
            if word is None or word in active or self.values.get(word) is None:
                continue
            self.n_steps += 1
            if self.n_steps > MAX_STEPS:
                raise TexError("macro_bomb", f"macros stand for more than {MAX_STEPS} others")
            inner = self._value_of(word, active)
            end = match.start() + 1 + len(word)
            parts.append(value[done : match.start()])
            parts.append(_joined("".join(parts[-2:])[-40:], inner, value[end : end + 1]))
            done = end
            n_chars += len(inner)
            if n_chars > MAX_VALUE_CHARS:
                raise TexError("macro_bomb", f"\\{active[0]} stands for more than {MAX_VALUE_CHARS} characters")
        parts.append(value[done:])
        return "".join(parts)


def _joined(before: str, value: str, following: str) -> str:
    """The value as it can stand between its neighbours: in braces as an argument, apart from letters of commands."""
    if TAKES_ARGUMENT.search(before) and not _is_one_token(value):
        return f"{{{value}}}"
    if value[:1].isalpha() and ENDS_IN_WORD.search(before):
        value = f" {value}"
    return f"{value} " if following.isalpha() and ENDS_IN_WORD.search(value) else value


def _is_one_token(value: str) -> bool:
    value = value.strip()
    return len(value) == 1 or re.fullmatch(r"\\[A-Za-z]+|\\.", value) is not None or brace_pairs(value).get(0) == len(value)
