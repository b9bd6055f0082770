"""What a pull request changes, from a clone: base files where they change, and diff hunks for each of its heads.

The rules are StarCoder2's (arXiv:2402.19173, sections 2.3 and 5.2; the-stack-v2, pull_requests_and_issues/render.py), but two.
Changes are counted from the commit at which the branch was begun, as GitHub shows them, not from the newest of the base branch;
and the diff is git's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tilth.corpus.languages.detect import detect
from tilth.corpus.provenance.git_objects import GitObjects
from tilth.corpus.provenance.git_process import RepositoryError
from tilth.tokenize.code_form import chance

WHOLE_FILE, MORE_LINES = 0.2, 32  # share of base files that are shown whole; else so many lines at most around the changes
CONTEXT_LINES = range(3, 10)
MAX_FILES, MAX_FILE_BYTES, MAX_BASE_CHARS = 300, 1 << 20, 1_000_000
MAX_LINES, MEAN_LINE, LONGEST_LINE = 100_000, 100, 1_000
LEAST_ALPHANUMERIC, MOST_HEX = 0.25, 0.25
PROSE = frozenset({"Markdown", "reStructuredText", "RMarkdown", "RDoc", "AsciiDoc"})  # lines may be long
ENGLISH = re.compile(r"\s(?:the|be|to|of|and|that|have|with)\s")
# Data that is mostly written by programs is shown of one in ten: by its path, or where it is most of all that is shown.
GENERATED_WORDS = {
    "YAML": ("pack", "lock", "yarn", "output", "swagger", "openapi"),
    "JSON": ("pack", "lock", "output"),
}
KEPT_DATA, MOST_DATA = 0.1, 0.5
HUNK = re.compile(r"@@ -(\d{1,9})(,\d{1,9})? \+(\d{1,9})(,\d{1,9})? @@")


class Hunk(NamedTuple):
    """Lines of a diff with their marks (` `, `-`, `+`); lines count from 1."""

    old_start: int
    new_start: int
    lines: list[str]


@dataclass
class BaseFile:
    """A file as it was before: what is shown of it, and how many lines before that are not."""

    path: str
    text: str
    n_skipped: int = 0


@dataclass
class Changes:
    """What is shown: base files by path, and for each head the hunks of these files. `problem` is why there is nothing."""

    base: dict[str, BaseFile] = field(default_factory=dict)
    hunks: dict[str, dict[str, list[Hunk]]] = field(default_factory=dict)  # head -> path
    problem: str | None = None


def read_changes(
    clone: GitObjects, commits: Sequence[tuple[str, str]], seed: int, identity: tuple[str | int, ...]
) -> Changes:  # fmt: skip
    """The changes from base to head for each of `commits` (base, head), the first of them first.

    Problems: missing (the first commits are not in the clone), no_changes (nothing that may be shown), too_large.
    Heads that begin at another commit than the first are left out, as their lines do not count from the same files.
    """
    begun: dict[str, str | None] = {}
    for base, head in commits:
        begun.setdefault(head, _merge_base(clone, base, head))
    first = begun[commits[0][1]]
    if first is None:
        return Changes(problem="missing")
    heads = [head for head, commit in begun.items() if commit == first]
    context = CONTEXT_LINES[int(chance(seed, "diff context", *identity) * len(CONTEXT_LINES))]
    found: dict[str, dict[str, list[Hunk]]] = {}
    blobs: dict[str, str] = {}
    try:
        for head in heads:
            modified = _modified(clone, first, head)
            if len(blobs | modified) > MAX_FILES:
                return Changes(problem="too_large")
            blobs |= modified
            found[head] = _hunks(clone, first, head, list(modified), context)
        texts = _texts(clone, blobs)
    except RepositoryError:
        return Changes(problem="damaged")
    return _chosen(texts, found, seed, identity)


def shifted(hunk: str, n_skipped: int) -> str:
    """A diff hunk whose head counts lines from where the base file is shown, as review comments hold it."""
    match = HUNK.match(hunk)
    if match is None:
        return hunk
    old, new = (max(0, int(match[i]) - n_skipped) for i in (1, 3))
    return f"@@ -{old}{match[2] or ''} +{new}{match[4] or ''} @@{hunk[match.end() :]}"


def written(hunk: Hunk, n_skipped: int) -> str:
    """A hunk with its head, from the first line that is shown of the base file on."""
    n_before = max(0, n_skipped + 1 - hunk.old_start)
    lines = hunk.lines[n_before:]
    n_old, n_new = (sum(line[:1] != mark for line in lines) for mark in "+-")
    old, new = (start + n_before - n_skipped for start in (hunk.old_start, hunk.new_start))
    return "\n".join([f"@@ -{old},{n_old} +{new},{n_new} @@", *lines])


def _merge_base(clone: GitObjects, base: str, head: str) -> str | None:
    done = clone.git.run("merge-base", base, head, check=False)
    return done.stdout.split()[0].decode("ascii") if done.returncode == 0 and done.stdout.split() else None


def _modified(clone: GitObjects, base: str, head: str) -> dict[str, str]:
    """The files that are on both sides and differ, with the ids of their blobs before."""
    flags = ("-r", "-z", "--raw", "--no-renames", "--no-abbrev", "--diff-filter=M")
    fields = clone.git.run("diff-tree", *flags, base, head, "--").stdout.split(b"\0")
    pairs = zip(fields[::2], fields[1::2], strict=False)
    return {
        path.decode(): words[2].decode("ascii")
        for facts, path in pairs
        if (words := facts.split()) and words[0][1:4] == b"100" and words[2] != words[3] and _is_utf8(path)
    }


def _is_utf8(path: bytes) -> bool:
    return not any("\ud800" <= char <= "\udfff" for char in os.fsdecode(path))


def _hunks(clone: GitObjects, base: str, head: str, paths: list[str], context: int) -> dict[str, list[Hunk]]:
    if not paths:
        return {}
    flags = ("-r", "-p", "--no-renames", "--no-color", "--no-ext-diff", "--no-textconv", "--diff-filter=M", f"-U{context}")
    chosen = [f":(literal){path}" for path in paths]
    lines = (
        clone.git.run("-c", f"core.bigFileThreshold={MAX_FILE_BYTES}", "diff-tree", *flags, base, head, "--", *chosen)
        .stdout.decode("utf-8", "replace")
        .split("\n")
    )
    return dict(zip(paths, _files_of_patch(lines), strict=False))


def _files_of_patch(lines: list[str]) -> Iterator[list[Hunk]]:
    """The hunks of each file of a patch, in its order; a binary file has none."""
    hunks: list[Hunk] | None = None
    at = 0
    while at < len(lines):
        match = HUNK.match(lines[at])
        if lines[at].startswith("diff --git "):
            if hunks is not None:
                yield hunks
            hunks = []
        elif match and hunks is not None:
            n_old, n_new = (int(match[i][1:]) if match[i] else 1 for i in (2, 4))
            own: list[str] = []
            while (n_old > 0 or n_new > 0) and at + 1 < len(lines):
                at += 1
                n_old -= lines[at][:1] in (" ", "-")
                n_new -= lines[at][:1] in (" ", "+")
                own += [lines[at]] if lines[at][:1] != "\\" else []
            hunks.append(Hunk(int(match[1]), int(match[3]), own))
        at += 1
    if hunks is not None:
        yield hunks


def _texts(clone: GitObjects, blobs: dict[str, str]) -> dict[str, tuple[str, str | None]]:
    """The files that may be shown, and their languages."""
    found: dict[str, tuple[str, str | None]] = {}
    for path, blob in zip(blobs, clone.blobs(list(blobs.values()), MAX_FILE_BYTES), strict=False):
        try:
            text = (blob.data or b"").decode("utf-8")
        except UnicodeDecodeError:
            continue
        language = detect(path, blob.data or b"").language
        if text and "\0" not in text and _is_fit(text, language):
            found[path] = text, language
    return found


def _is_fit(text: str, language: str | None) -> bool:
    lengths = [len(line) for line in text.splitlines()]
    is_long = not lengths or sum(lengths) >= MEAN_LINE * len(lengths) or max(lengths) >= LONGEST_LINE
    return (
        sum(map(str.isalnum, text)) > LEAST_ALPHANUMERIC * len(text)
        and 2 * text.count("\\x") < MOST_HEX * len(text)
        and len(lengths) < MAX_LINES
        and (not is_long or language in PROSE)
        and (language != "Markdown" or ENGLISH.search(text) is not None)
    )


def _chosen(
    texts: dict[str, tuple[str, str | None]], found: dict[str, dict[str, list[Hunk]]], seed: int, identity: tuple[str | int, ...]
) -> Changes:
    """What is shown of the files, and the hunks of those that are."""
    changed = {path for files in found.values() for path, hunks in files.items() if hunks}
    texts = {path: of for path, of in texts.items() if path in changed}
    base = {path: _shown(path, text, found, seed, identity) for path, (text, _) in texts.items()}
    n_chars = sum(len(file.text) for file in base.values())
    for path, (_, language) in texts.items():
        words = GENERATED_WORDS.get(language or "", ())
        is_data = bool(words) and (any(word in path for word in words) or len(base[path].text) > MOST_DATA * n_chars)
        if is_data and chance(seed, "base data", path, *identity) >= KEPT_DATA:
            del base[path]
    if sum(len(file.text) for file in base.values()) > MAX_BASE_CHARS:
        return Changes(problem="too_large")
    if not base:
        return Changes(problem="no_changes")
    shown = {head: {path: hunks for path, hunks in files.items() if path in base} for head, files in found.items()}
    return Changes(base, shown)


def _shown(
    path: str, text: str, found: dict[str, dict[str, list[Hunk]]], seed: int, identity: tuple[str | int, ...]
) -> BaseFile:  # fmt: skip
    """The whole file, or the lines that any head changes and some around them."""
    if chance(seed, "whole base file", path, *identity) < WHOLE_FILE:
        return BaseFile(path, text)
    changed = [line for files in found.values() for hunk in files.get(path, ()) for line in _changed_lines(hunk)]
    lines = text.split("\n")
    before, behind = (int(chance(seed, what, path, *identity) * MORE_LINES) for what in ("lines before", "lines behind"))
    begin = max(0, min(changed) - 1 - before)
    return BaseFile(path, "\n".join(lines[begin : max(changed) + behind]), begin)


def _changed_lines(hunk: Hunk) -> Iterator[int]:
    """The old lines that a hunk takes away, or between which it puts others."""
    at = hunk.old_start
    for line in hunk.lines:
        if line[:1] == "+":
            yield max(1, at - 1)
        elif line[:1] == "-":
            yield at
        at += line[:1] != "+"
