"""Which files are documentation to read: prose by their language, and plain text where documentation lies or is so named."""

from __future__ import annotations

import re

from tilth.corpus.languages import is_documentation
from tilth.corpus.languages.rules import rules
from tilth.corpus.provenance.licences import is_licence_path
from tilth.errors import SourceError, did_you_mean

ALL, DOCUMENTATION = "all", "documentation"
CHOICES = (ALL, DOCUMENTATION)
# linguist's names. Roff is here for manual pages, whose suffixes many other files share.
MANUAL = frozenset({"Roff", "Roff Manpage"})
PROSE = MANUAL | {
    "AsciiDoc", "Creole", "Markdown", "MDX", "Org", "Pod", "Pod 6", "RDoc", "reStructuredText", "RMarkdown", "Texinfo", "Textile",
    "Vim Help File", "Wikitext",
}  # fmt: skip
PLAIN = ("Text", None)
MANUAL_PAGE = re.compile(r"[a-z_.+\[].*(?<!\d)(?<!\.so)\.(?:[1-9](?:m|p|pm|qt|ssl|tcl|x)?|man|mdoc|roff)(?:\.in)?")
# What projects call their notes besides linguist's README, CHANGES, CONTRIBUTING, INSTALL (lower case).
NOTES = re.compile(r"(?:authors|bugs|credits|faq|hacking|history|maintainers|news|notes|thanks|todo|upgrad(?:e|ing))(?:\.te?xt)?")
README = re.compile(r"readme(?:\.[^.]+)?")
EXAMPLES = re.compile(r"(?:[Ee]xamples|[Ss]amples?|[Dd]emos?)/")  # text files there are data rather than prose


def is_documentation_path(path: str) -> bool:
    """Whether a file below the root of a repository or package may be documentation, by its path alone; licence files are not."""
    name = path.rpartition("/")[2].lower()
    if is_licence_path(path):
        return False
    by_suffix = rules().of_extension(name)
    if any(language in PROSE - MANUAL for language in by_suffix) and not name.endswith(".txt"):
        return True
    return MANUAL_PAGE.fullmatch(name) is not None or _is_plain_text(path, name)


def is_documentation_file(path: str, language: str | None) -> bool:
    """Whether a file at a path that may be documentation is such, by linguist's name of its language (of path and content)."""
    return language in PROSE or (language in PLAIN and _is_plain_text(path, path.rpartition("/")[2].lower()))


def _is_plain_text(path: str, name: str) -> bool:
    """Whether a file in documentation has no suffix or that of text; not where its name says another language (`Makefile`)."""
    own_name = path.rpartition("/")[2]
    languages = rules().by_name.get(own_name, ())
    if languages and not any(language in PLAIN for language in languages):
        return False
    if NOTES.fullmatch(name) or README.fullmatch(name):
        return True
    return is_documentation(path) and not EXAMPLES.match(path) and ("." not in name or name.endswith((".txt", ".text")))


def check_only(only: str, where: str) -> None:
    """Raises SourceError if `only` is neither `all` nor `documentation`."""
    if only not in CHOICES:
        raise SourceError(f"no such choice: only={only!r}", where=where, fix=did_you_mean(only, CHOICES))
