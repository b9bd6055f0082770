r"""The text of a LaTeX paper by the rules of RedPajama-V1's arXiv slice, with their defects repaired; it stays LaTeX.

The rules: one source of all files; comments go; macros without arguments are expanded; what comes before the first
section goes, so does everything from the appendix or the bibliography on. The repairs: `\input` decides the
order, not the archive; `\subparagraph` counts (its alternative lacked a `|`); the character before a comment stays;
a section in a definition is no section; `\appendixname` is no appendix; title and abstract are text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from tilth.corpus.extract.tex_macros import expand_macros
from tilth.corpus.extract.tex_project import HAS_BEGIN, HAS_END, Project, flatten, read_project, top_level_files
from tilth.corpus.extract.tex_tokens import TexError, argument, brace_pairs, option, scan, skip_space

VERSION = 2
BEFORE_SECTIONS = ("front_matter", "drop")
SECTION = r"\\(?:part|chapter|section|subsection|subsubsection|paragraph|subparagraph)\*?(?=\s*(?:\[|\{))"
TAIL = (
    r"\\appendix(?![A-Za-z@])|\\begin\s*\{(?:appendix|appendices|references|REFERENCES|thebibliography)\}"
    r"|\\bibliography(?=\s*\{)|\\printbibliography(?![A-Za-z])"
)
ABSTRACT_BEGIN = r"\\begin\s*\{(?P<env>abstract\*?|Abstract|onecolabstract)\}"
FRONT_MATTER_END = (
    r"\\maketitle(?![A-Za-z])|\\end\s*\{(?:abstract\*?|Abstract|titlepage|frontmatter|keywords?)\}"
    r"|\\(?:pacs|keywords|titlepage)(?![A-Za-z])"
)
MAX_NOTE_CHARS = 500  # of a note's command with its options
NOISE_IN_TITLE = re.compile(r"\\(?:thanks|footnote|tnoteref|titlenote|label)(?:\[[^\]]*\])?\s*$")


@dataclass(frozen=True)
class Paper:
    """A paper's text and how it came about."""

    text: str
    main: str
    encoding: str
    title: str
    n_sections: int
    n_macros: int
    files: tuple[str, ...]  # that are part of it, in order
    missing: tuple[str, ...]  # that it reads, but that were not there
    other_papers: tuple[str, ...]  # top-level files beside it


def extract_tex(files: Mapping[str, bytes], before_sections: str = "front_matter", directives: bytes | None = None) -> Paper:
    """The text of the paper that `files` (path to bytes) are; `directives` is arXiv's 00README.

    `before_sections`: "front_matter" keeps title and abstract, and the body of a paper without sections;
    "drop" is RedPajama-V1's rule. Raises TexError: no_tex, binary, no_section, empty, too_deep, macro_bomb, input_bomb.
    """
    project = read_project(files)
    mains = top_level_files(project, directives)
    if not mains:
        raise TexError("binary" if files else "no_tex", f"no LaTeX among {len(files)} files")
    return extract_paper(project, mains[0], before_sections, tuple(mains[1:]))


def extract_paper(project: Project, main: str, before_sections: str, other_papers: tuple[str, ...] = ()) -> Paper:
    """The text of one top-level file. Raises TexError as `extract_tex` does."""
    source, n_macros = expand_macros(flatten(project, main))
    begin, end = _document(source)
    preamble, body = source[:begin], source[begin:end]
    body = body[: _first(TAIL, body, len(body))]
    sections = [match.start() for match in _sections(body)]
    front = body[: sections[0]] if sections else body
    title = _title(preamble, front)
    if before_sections == "drop":
        if not sections:
            raise TexError("no_section", f"{main}: no section, part, chapter or paragraph in {len(body)} characters")
        text = body[sections[0] :]
    else:
        rest = body[sections[0] :] if sections else _after_front_matter(body)
        text = "\n\n".join(part for part in (title, _abstract(front), rest.strip()) if part)
    text = re.sub(r"\n[ \t]*(?:\n[ \t]*)+\n", "\n\n", text).strip() + "\n"
    if not text.strip():
        raise TexError("empty", f"{main}: nothing to typeset")
    encoding = project.encodings[main]
    return Paper(
        text=text, main=main, encoding=encoding, title=_plain_title(title), n_sections=len(sections), n_macros=n_macros,
        files=tuple(dict.fromkeys(project.used)), missing=tuple(dict.fromkeys(project.missing)), other_papers=other_papers,
    )  # fmt: skip


def _document(source: str) -> tuple[int, int]:
    """Where the document begins and ends; plain TeX ends at `\\bye`."""
    begin = next((match for match in scan(HAS_BEGIN.pattern, source)), None)
    start = begin.end() if begin else 0
    ends = rf"{HAS_END.pattern}|\\bye(?![A-Za-z])"
    return start, next((match.start() for match in scan(ends, source) if match.start() >= start), len(source))


def _first(pattern: str, text: str, default: int) -> int:
    return next((match.start() for match in scan(rf"\\\\|(?P<found>{pattern})", text) if match["found"]), default)


def _sections(body: str) -> list[re.Match[str]]:
    return [match for match in scan(rf"\\\\|(?P<found>{SECTION})", body) if match["found"]]


def _title(preamble: str, front: str) -> str:
    r"""The last `\title{...}` before the first section, as it stands."""
    for text in (front, preamble):
        found = [match for match in scan(r"(?P<found>\\title(?![A-Za-z]))", text) if match["found"]]
        if found:
            pairs = brace_pairs(text)
            at = found[-1].end()
            short = option(text, at)
            content = argument(text, short[1] if short else at, pairs)
            if content is not None and content[0].strip():
                return f"\\title{{{content[0].strip()}}}"
    return ""


def _abstract(front: str) -> str:
    for match in scan(rf"(?P<begin>{ABSTRACT_BEGIN.replace('env', 'kind')})|(?P<command>\\abstract(?=\s*\{{))", front):
        if match["command"]:
            content = argument(front, match.end(), brace_pairs(front))
            return f"\\begin{{abstract}}\n{content[0].strip()}\n\\end{{abstract}}" if content and content[0].strip() else ""
        closing = f"\\end{{{match['kind']}}}"
        end = front.find(closing, match.end())
        return front[match.start() : end + len(closing)].strip() if end >= 0 else ""
    return ""


def _after_front_matter(body: str) -> str:
    r"""What follows title page and abstract in a paper without sections."""
    last = max((match.end() for match in scan(rf"(?P<found>{FRONT_MATTER_END})", body)), default=0)
    if match := re.compile(r"\\abstract(?=\s*\{)").search(body, 0):
        content = argument(body, match.end(), brace_pairs(body))
        last = max(last, content[1] if content else 0)
    rest = body[last:]
    at = skip_space(rest, 0)
    return rest[at:]


def _plain_title(title: str) -> str:
    """A title for people to read: without notes, line breaks and ties."""
    inner = title.removeprefix("\\title{").removesuffix("}")
    pairs = brace_pairs(inner)
    parts: list[str] = []
    done = 0
    for start in sorted(pairs):
        if start >= done and (note := NOISE_IN_TITLE.search(inner, max(done, start - MAX_NOTE_CHARS), start)):
            parts.append(inner[done : note.start()])
            done = pairs[start]
    parts.append(inner[done:])
    return " ".join(re.sub(r"\\\\(?:\[[^\]]*\])?|\\newline(?![A-Za-z])|~", " ", "".join(parts)).split())
