"""Papers of bytes: what runs in the child process of a time limit, with a value for every way in which it can fail."""

from __future__ import annotations

import pickle

from tilth.corpus.attempts import Refused
from tilth.corpus.extract.tex import Paper, extract_paper, extract_tex
from tilth.corpus.extract.tex_package import read_package
from tilth.corpus.extract.tex_project import READ_SUFFIXES, TEX_SUFFIXES, read_project, top_level_files
from tilth.corpus.extract.tex_tokens import TexError


def read_paper(data: bytes, before_sections: str) -> Paper | Refused:
    """The paper of a package."""
    try:
        package = read_package(data)
        return extract_tex(package.files, before_sections, package.directives)
    except TexError as error:
        return Refused(error.reason, error.detail)


def find_papers(data: bytes) -> list[str]:
    """Which of the files of a folder (pickled: path to bytes) are papers."""
    return sorted(top_level_files(read_project(pickle.loads(data))))


def read_folder(data: bytes, before_sections: str, only: str | None) -> list[tuple[str, Paper | Refused]]:
    """The papers of a folder (pickled: path to bytes), or only one; then, unless it is one, the LaTeX files that are in none."""
    contents: dict[str, bytes] = pickle.loads(data)
    project = read_project(contents)
    mains = sorted(top_level_files(project)) if only is None else [only]
    found: list[tuple[str, Paper | Refused]] = []
    parts = set(mains)
    for main in mains:
        try:
            paper = extract_paper(project, main, before_sections)
            parts.update(paper.files)
            found.append((main, paper))
        except TexError as error:
            parts.update(project.used)
            found.append((main, Refused(error.reason, error.detail)))
    for name in sorted(contents.keys() - parts) if only is None else ():
        if name.lower().endswith(TEX_SUFFIXES):
            known = name in project.texts
            detail = "no paper reads it" if known else "its bytes are no text"
            found.append((name, Refused("fragment" if known else "binary", detail)))
        elif not name.lower().endswith(READ_SUFFIXES):
            found.append((name, Refused("not_tex", "its name is not that of LaTeX or of a package")))
    return found
