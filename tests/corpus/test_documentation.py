"""Which files are documentation, and repositories of which only these are read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilth.corpus.documentation import is_documentation_file, is_documentation_path
from tilth.corpus.sources.git import GitRepository
from tilth.corpus.sources.git_repositories import GitRepositories
from tilth.errors import SourceError

YES = [
    "README", "readme.txt", "README.md", "src/deep/README.rst", "docs/index.mdx", "doc/manual.adoc", "guide.org", "lib/Foo.pod",
    "man/tool.1", "tool.8.in", "usr/printf.3p", "[.1", "CHANGES", "docs/notes.txt", "Documentation/process", "NEWS", "History.txt",
    "TODO", "doc/api.texi", "README.rdoc", "wiki/Home.mediawiki", "README.fr", "docs/CHANGELOG",
]  # fmt: skip
NO = [
    "main.py", "docs/conf.py", "docs/Makefile", "docs/requirements.txt", "notes/data.txt", "LICENSE", "LICENSE.md", "COPYING",
    "docs/gpl-3.0.txt", "libfoo.so.1", "data-1.2.3", "samples/words.txt", "samples/run", "docs/logo.png", "docs/CMakeLists.txt",
    "news/items.json", "docs/index.html",
]  # fmt: skip


def test_documentation_by_its_path() -> None:
    assert [path for path in YES if not is_documentation_path(path)] == []
    assert [path for path in NO if is_documentation_path(path)] == []


def test_documentation_by_its_language() -> None:
    assert is_documentation_file("machine.md", "Markdown")
    assert not is_documentation_file("machine.md", "GCC Machine Description")
    assert is_documentation_file("docs/faq", None)
    assert not is_documentation_file("guide.adoc", None)
    assert not is_documentation_file("docs/run", "Shell")


@pytest.fixture
def project(repo: Any) -> Any:
    repo.write("README.md", "# Plough\n")
    repo.write("main.c", "int main(void) { return 0; }\n")
    repo.write("docs/guide.rst", "Guide\n=====\n\nText.\n")
    repo.write("docs/run", "#!/bin/sh\necho run\n")
    repo.write("docs/broken.md", b"\xff\xfe\x00")
    repo.write("vendor/gpl/COPYING", "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007\n")
    repo.write("vendor/gpl/README.md", "# Vendored\n")
    repo.write("package.json", '{"name": "plough", "license": "MIT"}')
    (repo.path / "docs/link.md").symlink_to("../README.md")
    (repo.path / "link.c").symlink_to("main.c")
    repo.commit()
    return repo


@pytest.mark.parametrize("history", [False, True])
def test_only_documentation_of_a_repository_with_licences_of_all_of_it(
    project: Any, rows: Callable[..., Any], history: bool
) -> None:
    found = rows(GitRepository("code", str(project.path), history=history, only="documentation"))
    assert [row["path"] for row in found.occurrences] == ["README.md", "docs/guide.rst", "vendor/gpl/README.md"]
    assert [row["language"] for row in found.documents] == ["Markdown", "reStructuredText", "Markdown"]
    assert all(row["revision"] == "swh:1:rev:" + project.git("rev-parse", "HEAD") for row in found.occurrences)
    effective = {(row["path"], row["spdx"]) for row in found.licences if row["effective"]}
    assert effective == {("README.md", "MIT"), ("docs/guide.rst", "MIT"), ("vendor/gpl/README.md", "GPL-3.0-only")}
    rejected = {(row["location"].partition(":")[2], row["reason"]) for row in found.rejects}
    assert rejected == {("docs/broken.md", "decode"), ("docs/run", "not_documentation"), ("docs/link.md", "symlink")}


def test_a_blob_that_is_documentation_at_one_of_its_paths(repo: Any, rows: Callable[..., Any]) -> None:
    repo.write("docs/words", "words\n")
    repo.write("data/words", "words\n")
    repo.commit()
    found = rows(GitRepository("code", str(repo.path), only="documentation"))
    assert [(row["path"]) for row in found.occurrences] == ["docs/words"]


def test_repositories_in_a_folder(project: Any, rows: Callable[..., Any], tmp_path: Path) -> None:
    alone, several = (
        source.plan()[0].params
        for source in (
            GitRepository("code", str(project.path), only="documentation"),
            GitRepositories("code", str(tmp_path), only="documentation"),
        )
    )
    assert alone["only"] == several["only"] == "documentation"
    assert len(rows(GitRepositories("code", str(tmp_path), only="documentation")).documents) == 3
    assert len(rows(GitRepositories("code", str(tmp_path))).documents) == 8 - 1


@pytest.mark.parametrize("source", [GitRepository, GitRepositories])
def test_another_choice_is_refused(project: Any, source: Any) -> None:
    with pytest.raises(SourceError, match="only='docs'"):
        source("code", str(project.path), only="docs").plan()
