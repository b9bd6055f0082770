"""Published filters as named SQL predicates over signals: `@gopher` in a predicate stands for one.

A policy keeps a document where each of its clauses is true; a clause over a signal that is null is not.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from tilth.errors import NotFoundError, QueryError, did_you_mean


@dataclass(frozen=True)
class Clause:
    """A condition on `columns`, which the family of signals `family` holds, and in a word what it asks for."""

    sql: str
    word: str
    family: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Policy:
    """A published filter. `source` says where its thresholds stand; `beyond` what it does besides that SQL cannot."""

    name: str
    source: str
    clauses: tuple[Clause, ...]
    beyond: str = ""

    @property
    def sql(self) -> str:
        """All clauses, joined by AND."""
        return " and ".join(clause.sql for clause in self.clauses)

    @property
    def needs(self) -> tuple[str, ...]:
        """The families of signals that a corpus must have."""
        return tuple(dict.fromkeys(clause.family for clause in self.clauses))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the clauses name."""
        return tuple(dict.fromkeys(column for clause in self.clauses for column in clause.columns))


def _all(family: str, *conditions: tuple[str, str, str]) -> tuple[Clause, ...]:
    """Clauses over one column each: (column, comparison, word)."""
    return tuple(Clause(f"{column} {comparison}", word, family, (column,)) for column, comparison, word in conditions)


def _duplicates(family: str, prefix: str, limits: dict[int, float], word: str) -> tuple[Clause, ...]:
    conditions = ((f"{prefix}_{n}gram_char_frac", f"<= {limit}", f"{word} {n}-grams") for n, limit in limits.items())
    return _all(family, *conditions)


_TOP, _DUPE = {2: 0.2, 3: 0.18, 4: 0.16}, {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1}

_GOPHER_QUALITY = _all(
    "gopher",
    ("gopher_n_words", "between 50 and 100000", "length"),
    ("gopher_mean_word_length", "between 3 and 10", "word length"),
    ("gopher_hash_word_ratio", "<= 0.1", "hashes"),
    ("gopher_ellipsis_word_ratio", "<= 0.1", "ellipses"),
    ("gopher_bullet_line_frac", "<= 0.9", "bullets"),
    ("gopher_ellipsis_line_frac", "<= 0.3", "cut-off lines"),
    ("gopher_alphabetic_word_frac", ">= 0.8", "letters"),
    ("gopher_n_stop_words", ">= 2", "stop words"),
)
_GOPHER_REPETITION = (
    *_all(
        "gopher_repetition",
        ("gopher_dupe_paragraph_frac", "<= 0.3", "repeated paragraphs"),
        ("gopher_dupe_paragraph_char_frac", "<= 0.2", "characters in repeated paragraphs"),
        ("gopher_dupe_line_frac", "<= 0.3", "repeated lines"),
        ("gopher_dupe_line_char_frac", "<= 0.2", "characters in repeated lines"),
    ),
    *_duplicates("gopher_repetition", "gopher_top", _TOP, "most frequent"),
    *_duplicates("gopher_repetition", "gopher_dupe", _DUPE, "repeated"),
)
_C4_ANY_END = _all(
    "c4",
    ("c4_n_sentences_any_end", ">= 5", "sentences"),
    ("c4_n_lorem_ipsum_lines_any_end", "= 0", "lorem ipsum"),
    ("c4_n_curly_bracket_lines_any_end", "= 0", "curly brackets"),
)
_ENGLISH = _all("language", ("lid_language", "= 'en'", "English"), ("lid_score", ">= 0.65", "surely English"))
_LINES = ("rps_lines_num_words", "rps_lines_uppercase_letter_fraction", "rps_lines_numerical_chars_fraction")
# Words on lines that RefinedWeb discards, and 5 % of all words; in a pair of lists l[1] is a line's words.
_REFINED_LINES = Clause(
    f"list_sum(list_transform(list_zip({', '.join(_LINES)}), "
    "lambda line: case when line[1] = 1 or line[2] > 0.5 or line[3] = 1 then line[1] else 0 end)) "
    f"<= 0.05 * list_sum({_LINES[0]})",
    "lines of one word, capitals or digits",
    "lines",
    _LINES,
)

_POLICIES = (
    Policy(
        "redpajama-v2",
        "RedPajama-V2, dataset card on Hugging Face, example `gopher_rules_pass` (five rules; the card leaves further ones open)",
        (
            *_all(
                "natural_language",
                ("rps_doc_word_count", "between 50 and 10000", "length"),
                ("rps_doc_mean_word_length", "between 3 and 10", "word length"),
                ("rps_doc_symbol_to_word_ratio", "<= 0.1", "symbols"),
            ),
            Clause(
                "list_sum(rps_lines_start_with_bulletpoint) <= 0.9 * len(rps_lines_start_with_bulletpoint)",
                "bullets",
                "lines",
                ("rps_lines_start_with_bulletpoint",),
            ),
            *_all("repetition", ("rps_doc_frac_chars_top_2gram", "<= 0.2", "most frequent 2-grams")),
        ),
    ),
    Policy(
        "gopher",
        "Rae et al., Gopher, arXiv:2112.11446, appendix A.1.1 and table A1; words as in datatrove 0.10's two filters",
        (*_GOPHER_QUALITY, *_GOPHER_REPETITION),
    ),
    Policy(
        "c4",
        "Raffel et al., T5, arXiv:1910.10683, section 2.2; phrases and order as in datatrove 0.10's C4QualityFilter",
        _all(
            "c4",
            ("c4_n_sentences", ">= 5", "sentences"),
            ("c4_n_lorem_ipsum_lines", "= 0", "lorem ipsum"),
            ("c4_n_curly_bracket_lines", "= 0", "curly brackets"),
        ),
        beyond="takes lines out of what it keeps (`c4_edits`); drops pages with listed words and repeated sentences",
    ),
    Policy(
        "fineweb",
        "Penedo et al., FineWeb, arXiv:2406.17557, section 3, and the recipe published with datatrove (examples/fineweb.py)",
        (
            *_ENGLISH,
            *_GOPHER_REPETITION,
            *_GOPHER_QUALITY,
            *_C4_ANY_END,
            *_all(
                "fineweb",
                ("fineweb_after_c4_terminal_line_frac", ">= 0.12", "lines that end in a mark"),
                ("fineweb_after_c4_short_line_frac", "<= 0.67", "short lines"),
                ("fineweb_after_c4_dupe_line_char_frac", "<= 0.01", "characters in repeated lines"),
                ("fineweb_after_c4_newline_word_ratio", "<= 0.3", "lists"),
            ),
        ),
        beyond="takes C4's lines out of what it keeps; blocked URLs go first, minhash deduplication comes after",
    ),
    Policy(
        "refinedweb",
        "Penedo et al., RefinedWeb, arXiv:2306.01116, section 3 and appendix G.2 (lines), with Gopher's thresholds",
        (*_ENGLISH, *_GOPHER_REPETITION, *_GOPHER_QUALITY, _REFINED_LINES),
        beyond="takes such lines out, and counters (`3 likes`); URL blocklist and deduplication are steps of their own",
    ),
    Policy(
        "dolma-cc",
        "Soldaini et al., Dolma, arXiv:2402.00159, and its configuration dolma-v1_6/mixing/cc-head.yaml",
        (
            *_all(
                "dolma",
                ("dolma_n_words", "between 50 and 100000", "length"),
                ("dolma_median_word_length", "between 3 and 10", "word length"),
                ("dolma_symbol_word_frac", "<= 0.1", "symbols"),
                ("dolma_alphabetic_word_frac", ">= 0.8", "letters"),
                ("dolma_n_required_words", ">= 2", "stop words"),
                ("dolma_bullet_line_frac", "<= 0.9", "bullets"),
                ("dolma_ellipsis_line_frac", "<= 0.3", "cut-off lines"),
                ("dolma_dupe_line_frac", "<= 0.3", "repeated lines"),
                ("dolma_dupe_line_char_frac", "<= 0.3", "characters in repeated lines"),
            ),
            *_duplicates("dolma", "dolma_top", _TOP, "most frequent"),
            *_duplicates("dolma", "dolma_dupe", _DUPE, "repeated"),
            *_all("dolma", ("dolma_max_repetitions", "< 100", "the same again and again")),
            Clause(
                "pii_n_emails + pii_n_phones + pii_n_ips <= 5",
                "personal data",
                "pii",
                ("pii_n_emails", "pii_n_phones", "pii_n_ips"),
            ),
        ),
        beyond="the configuration misspells the names of the most frequent n-grams, so that as published those three never act; "
        "repetition is measured on words, not on tokens; toxic sentences and repeated paragraphs are taken out",
    ),
    Policy(
        "ccnet-head",
        "Wenzek et al., CCNet, arXiv:1911.00359, section 4.3: the best third by perplexity",
        _all("ccnet", ("ccnet_bucket", "= 0", "head")),
    ),
)
POLICIES = {policy.name: policy for policy in _POLICIES}

# What a name cannot stand in: strings, quoted identifiers, dollar quotes, comments. Then a name, but not after another operator.
_TOKENS = re.compile(
    r"[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|--[^\n]*|/\*.*?\*/"
    r"|(?<![\w@<>^&|~!*/+%=-])@(?P<name>[A-Za-z][A-Za-z0-9_]*(?:-[A-Za-z0-9_]+)*)",
    re.DOTALL,
)


def get_policy(name: str) -> Policy:
    """The policy `name`, with or without the @. Raises NotFoundError with the nearest known name."""
    bare = name.removeprefix("@")
    if bare not in POLICIES:
        raise NotFoundError(f"no policy is called `{bare}`", where=f"@{bare}", fix=did_you_mean(bare, POLICIES))
    return POLICIES[bare]


def policies_in(where: str) -> Iterator[Policy]:
    """The policies that a predicate names, in order. Raises QueryError for a name that none has."""
    for match in _TOKENS.finditer(where):
        if match["name"]:
            yield _policy_at(match["name"], where, match.start())


def expand_policies(where: str) -> str:
    """The predicate with each `@name` replaced by the policy's SQL in brackets; strings, quoted names and comments stay.

    Raises QueryError for a name that no policy has.
    """
    return _TOKENS.sub(
        lambda match: f"({_policy_at(match['name'], where, match.start()).sql})" if match["name"] else match[0], where
    )


def check_policy_columns(where: str, columns: Collection[str], corpus: str) -> None:
    """Raise QueryError if a policy that `where` names needs signals that `corpus`, which has `columns`, lacks."""
    have = {column.lower() for column in columns}
    for policy in policies_in(where):
        missing = [clause for clause in policy.clauses if not have.issuperset(clause.columns)]
        if missing:
            names = [column for clause in missing for column in clause.columns if column not in have]
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            families = ", ".join(f"`{family}`" for family in dict.fromkeys(clause.family for clause in missing))
            raise QueryError(
                f"the policy `@{policy.name}` needs signals that the corpus does not have: {shown}",
                where=f"corpus `{corpus}`",
                fix=f"Add {families} to the signals of the recipe and build again.",
            )


def _policy_at(name: str, where: str, position: int) -> Policy:
    if name in POLICIES:
        return POLICIES[name]
    line, column = where.count("\n", 0, position) + 1, position - where.rfind("\n", 0, position)
    raise QueryError(
        f"no policy is called `@{name}`",
        where=f"line {line}, column {column}: {where[position:].splitlines()[0][:40]}",
        fix=did_you_mean(name, POLICIES) + " For an absolute value write abs(...).",
    )
