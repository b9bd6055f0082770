"""Files that a repository only carries along: other projects' code and documentation, told by the full path."""

from __future__ import annotations

from tilth.corpus.languages.rules import rules


def is_vendored(path: str) -> bool:
    """Whether a path below a repository's root is of code from elsewhere (linguist's vendor.yml): `node_modules/`, `vendor/`."""
    return rules().vendored.search(path) is not None


def is_documentation(path: str) -> bool:
    """Whether a path below a repository's root is of documentation or examples (linguist's documentation.yml)."""
    return rules().documentation.search(path) is not None
