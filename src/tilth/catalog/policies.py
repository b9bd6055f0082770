"""Published filters as named SQL predicates over signals: `@gopher` in a predicate stands for one.

A policy keeps a document where each of its clauses is true; a clause over a signal that is null is not.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from tilth.catalog.code_policies import CODE_POLICIES
from tilth.catalog.policy import Clause, Policy, conditions
from tilth.catalog.thread_policies import THREAD_POLICIES
from tilth.errors import QueryError, did_you_mean


def _duplicates(family: str, prefix: str, limits: dict[int, float], word: str) -> tuple[Clause, ...]:
    limited = ((f"{prefix}_{n}gram_char_frac", f"<= {limit}", f"{word} {n}-grams") for n, limit in limits.items())
    return conditions(family, *limited)


_TOP, _DUPE = {2: 0.2, 3: 0.18, 4: 0.16}, {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1}

_GOPHER_QUALITY = conditions(
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
    *conditions(
        "gopher_repetition",
        ("gopher_dupe_paragraph_frac", "<= 0.3", "repeated paragraphs"),
        ("gopher_dupe_paragraph_char_frac", "<= 0.2", "characters in repeated paragraphs"),
        ("gopher_dupe_line_frac", "<= 0.3", "repeated lines"),
        ("gopher_dupe_line_char_frac", "<= 0.2", "characters in repeated lines"),
    ),
    *_duplicates("gopher_repetition", "gopher_top", _TOP, "most frequent"),
    *_duplicates("gopher_repetition", "gopher_dupe", _DUPE, "repeated"),
)
_C4_ANY_END = conditions(
    "c4",
    ("c4_n_sentences_any_end", ">= 5", "sentences"),
    ("c4_n_lorem_ipsum_lines_any_end", "= 0", "lorem ipsum"),
    ("c4_n_curly_bracket_lines_any_end", "= 0", "curly brackets"),
)
_ENGLISH = conditions("language", ("lid_language", "= 'en'", "English"), ("lid_score", ">= 0.65", "surely English"))
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
            *conditions(
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
            *conditions("repetition", ("rps_doc_frac_chars_top_2gram", "<= 0.2", "most frequent 2-grams")),
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
        conditions(
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
            *conditions(
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
            *conditions(
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
            *conditions("dolma", ("dolma_max_repetitions", "< 100", "the same again and again")),
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
        (
            Clause(
                "ccnet_bucket = 0",
                "head",
                "ccnet",
                ("ccnet_bucket",),
                (
                    Clause(
                        "perplexity_bucket = 'head'",
                        "head",
                        "perplexity_bucket",
                        ("perplexity_bucket",),
                        how="`Perplexity(TRAIN_ON)` to the models",
                    ),
                ),
                how="`ccnet` to the signals (of CCNet's own output)",
            ),
        ),
    ),
)
POLICIES = {policy.name: policy for policy in (*_POLICIES, *CODE_POLICIES, *THREAD_POLICIES)}

# What a name cannot stand in: strings, quoted identifiers, dollar quotes, comments. Then a name, but not after another operator.
_TOKENS = re.compile(
    r"[eE]'(?:[^'\\]|\\.|'')*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$|--[^\n]*|/\*.*?\*/"
    r"|(?<![\w@<>^&|~!*/+%=-])@(?P<name>[A-Za-z][A-Za-z0-9_]*(?:-[A-Za-z0-9_]+)*)",
    re.DOTALL,
)


def expand_policies(where: str, columns: Collection[str] | None = None, corpus: str = "") -> str:
    """The predicate with each `@name` replaced by the policy's SQL in brackets; strings, quoted names and comments stay.

    With `columns`, those of `corpus`, the SQL speaks of columns that are there. Raises QueryError for a name that no
    policy has, and for a policy that needs signals which the corpus lacks, with what to add.
    """

    def expanded(match: re.Match[str]) -> str:
        if not match["name"]:
            return match[0]
        return _in_brackets(_policy_at(match["name"], where, match.start()), columns, corpus)

    return _TOKENS.sub(expanded, where)


def expand_known_policies(query: str, columns: Collection[str], corpus: str) -> str:
    """Like `expand_policies` for a whole query, where `@name` of what is no policy is DuckDB's absolute value."""

    def expanded(match: re.Match[str]) -> str:
        is_policy = match["name"] in POLICIES
        return _in_brackets(POLICIES[match["name"]], columns, corpus) if is_policy else match[0]

    return _TOKENS.sub(expanded, query)


def names_policies(query: str) -> bool:
    """True where a query holds the name of a policy with an @."""
    return any(match["name"] in POLICIES for match in _TOKENS.finditer(query))


def _in_brackets(policy: Policy, columns: Collection[str] | None, corpus: str) -> str:
    if columns is None:
        return f"({policy.sql})"
    found = policy.on(columns)
    if found is None:
        raise _lacking(policy, {column.lower() for column in columns}, corpus)
    return f"({found.sql})"


def _lacking(policy: Policy, have: Collection[str], corpus: str) -> QueryError:
    missing = [clause for clause in policy.clauses if clause.on(have) is None]
    names = [column for clause in missing for one in (clause, *clause.others) for column in one.columns if column not in have]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    families = list(dict.fromkeys(clause.family for clause in missing if not clause.how))
    advice = [f"{', '.join(f'`{family}`' for family in families)} to the signals"] if families else []
    advice += dict.fromkeys(clause.advice for clause in missing if clause.how)
    return QueryError(
        f"the policy `@{policy.name}` needs signals that the corpus does not have: {shown}",
        where=f"corpus `{corpus}`",
        fix=f"Add {' and '.join(advice)} of the recipe and build again.",
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
