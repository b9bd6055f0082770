r"""Makes one source of a paper's files: their encodings, which of them is the paper, and what it reads with `\input`."""

from __future__ import annotations

import codecs
import json
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tilth.corpus.extract.charset import CharsetError, decode_text
from tilth.corpus.extract.tex_comments import normalise_newlines, strip_comments, strip_dead_branches
from tilth.corpus.extract.tex_tokens import TexError, scan
from tilth.corpus.formats.content import decode_marked

TEX_SUFFIXES = (".tex", ".ltx", ".latex")
READ_SUFFIXES = (*TEX_SUFFIXES, ".sty", ".cls", ".tikz", ".pgf")
MAX_INPUT_DEPTH = 30
MAX_SOURCE_CHARS = 64 << 20
MAX_INPUTS = 2000
MAIN_NAMES = ("ms", "main", "paper", "article", "manuscript", "arxiv", "root")  # between equals, the usual ones first

DECLARED = re.compile(
    rb"\\(?:usepackage\s*\[\s*([A-Za-z0-9-]+)[^\]]{0,80}\]\s*\{inputenc\}|inputencoding\s*\{([A-Za-z0-9-]+)\})"
)  # fmt: skip
MAGIC_COMMENT = re.compile(rb"^%[ \t]*!T[eE]X[ \t]+encoding[ \t]*=[ \t]*([A-Za-z0-9_-]+)", re.MULTILINE)
CJK = re.compile(rb"\\begin\s*\{CJK\*?\}\s*(?:\[[^\]]{0,80}\])?\s*\{([A-Za-z0-9]+)\}")
# The options of inputenc (LaTeX2e: inputenc.dtx, and its add-ons) and of CJK, in Python's names.
ENCODINGS = {
    "utf8": "utf-8", "utf8x": "utf-8", "ascii": "ascii", "latin1": "iso-8859-1", "latin2": "iso-8859-2", "latin3": "iso-8859-3",
    "latin4": "iso-8859-4", "latin5": "iso-8859-9", "latin9": "iso-8859-15", "latin10": "iso-8859-16", "ansinew": "cp1252",
    "cp1250": "cp1250", "cp1251": "cp1251", "cp1252": "cp1252", "cp1257": "cp1257", "cp437": "cp437", "cp437de": "cp437",
    "cp850": "cp850", "cp852": "cp852", "cp858": "cp858", "cp865": "cp865", "cp866": "cp866", "applemac": "mac_roman",
    "macce": "mac_latin2", "koi8-r": "koi8-r", "koi8-ru": "koi8-u", "gbk": "gbk", "gb": "gb2312", "bg5": "big5", "big5": "big5",
    "jis": "euc-jp", "ks": "euc-kr", "sjis": "shift_jis", "utf-8": "utf-8", "iso-8859-1": "iso-8859-1", "windows-1252": "cp1252",
}  # fmt: skip

INCLUDE = (
    r"\\(?P<command>input|include|subfile|subfileinclude|includestandalone|verbatiminput)\s*\{(?P<name>[^{}\n]{1,300})\}"
    r"|\\(?P<import>import|subimport|includefrom|subincludefrom|inputfrom|subinputfrom)\*?\s*\{(?P<folder>[^{}\n]{0,300})\}\s*\{(?P<file>[^{}\n]{1,300})\}"
    r"|\\input[ \t]+(?P<plain>[^\s{}\\%]{1,300})|(?P<endinput>\\endinput(?![A-Za-z])[^\n]*)"
)
PACKAGES = re.compile(r"\\(?:usepackage|RequirePackage|documentclass|LoadClass)\s*(?:\[[^\]]{0,2000}\]\s*)?\{([^{}]{1,500})\}")
HAS_CLASS = re.compile(r"\\document(?:class|style)(?![A-Za-z])")
HAS_BEGIN = re.compile(r"\\begin\s*\{document\}")
HAS_END = re.compile(r"\\end\s*\{document\}")


@dataclass
class Project:
    """The files of a paper as text without comments, by their paths in it."""

    texts: dict[str, str]
    encodings: dict[str, str]
    used: list[str] = field(default_factory=list)  # in the order of their use
    missing: list[str] = field(default_factory=list)


def read_project(files: Mapping[str, bytes]) -> Project:
    """Decode the files and remove what is not typeset. A file that is no text is left out."""
    declared = next((found for data in files.values() if (found := declared_encoding(data))), None)
    texts, encodings = {}, {}
    for name in sorted(files):
        try:
            text, encodings[name] = decode_tex(files[name], declared)
        except TexError:
            continue
        texts[name] = strip_dead_branches(strip_comments(normalise_newlines(text)))
    return Project(texts, encodings)


def declared_encoding(data: bytes) -> str | None:
    """What `inputenc`, CJK or a magic comment says in Python's names; None if nothing that is known."""
    for pattern in (MAGIC_COMMENT, DECLARED, CJK):
        if (match := pattern.search(data)) is not None:
            label = next((group for group in match.groups() if group), b"").decode("ascii").lower()
            if label in ENCODINGS:
                return ENCODINGS[label]
    return None


def decode_tex(data: bytes, declared: str | None = None) -> tuple[str, str]:
    """(text, encoding): a byte order mark or UTF-16 without one, UTF-8, what the file or else the project declares,
    detection, Windows-1252, Latin-1. Raises TexError `binary`.
    """
    for mark, encoding in ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if data.startswith(mark):
            return decode_marked(data[len(mark) :], encoding)
    head = data[:4000]
    if b"\0" in head:
        wide = _utf16(head)
        if wide is None:
            raise TexError("binary", f"NUL at byte {data.index(0)} of {len(data)}")
        return decode_marked(data, wide)
    if head.startswith((b"%PDF-", b"%!PS")) or b"\0" in data:
        raise TexError("binary", f"begins as {head[:8]!r}")
    for label in ("utf-8", declared_encoding(data), declared):
        if label and label != "ascii":
            try:
                return data.decode(label), label
            except UnicodeDecodeError:
                continue
    try:
        return decode_text(data)
    except CharsetError:
        pass
    try:
        return data.decode("cp1252"), "cp1252"
    except UnicodeDecodeError:
        return data.decode("iso-8859-1"), "iso-8859-1"


def _utf16(head: bytes) -> str | None:
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if odd > len(head) // 4 and not even:
        return "utf-16-le"
    return "utf-16-be" if even > len(head) // 4 and not odd else None


def top_level_files(project: Project, directives: bytes | None = None) -> list[str]:
    """The files that are papers rather than parts of one, the most likely first.

    What arXiv's 00README says (`directives`) decides; else files with `\\documentclass` and `\\begin{document}` that
    no other reads, the usual names before others, long before short. Without any (plain TeX), the files that no other reads.
    """
    named = [name for name in _directed(directives or b"") if name in project.texts]
    if named:
        return named
    tex = [name for name in project.texts if is_tex_name(name)]
    read = {target for name in tex for target in _targets(project, name) if target != name}
    marks = {name: bool(HAS_CLASS.search(text)) + 2 * bool(HAS_BEGIN.search(text)) for name, text in project.texts.items()}
    candidates = [name for name in tex if name not in read] or tex
    best = max((marks[name] for name in candidates), default=0)
    chosen = [name for name in candidates if marks[name] == best]

    def rank(name: str) -> tuple[int, int, int, str]:
        stem = posixpath.splitext(posixpath.basename(name))[0].lower()
        usual = MAIN_NAMES.index(stem) if stem in MAIN_NAMES else len(MAIN_NAMES)
        return name.count("/"), usual, -len(project.texts[name]), name

    return sorted(chosen, key=rank)


def is_tex_name(name: str) -> bool:
    """Whether a file may be a paper by its name: `.tex` and its like, or no suffix (usual until 1995)."""
    return name.lower().endswith(TEX_SUFFIXES) or "." not in posixpath.basename(name)


def _directed(directives: bytes) -> list[str]:
    text = directives.decode("utf-8", "replace")
    if text.lstrip().startswith("{"):
        try:
            sources = json.loads(text).get("sources", [])
            return [str(entry["filename"]) for entry in sources if entry.get("usage") == "toplevel"]
        except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
            return []
    return [words[0] for line in text.splitlines() if (words := line.split())[1:] == ["toplevelfile"]]


def _targets(project: Project, name: str) -> set[str]:
    found = (_target(project, match, name) for match in scan(INCLUDE, project.texts[name]))
    return {target for target in found if target}


def flatten(project: Project, main: str) -> str:
    """The main file with everything that it reads in its place, definitions of its own packages before it.

    A file that reads itself, through others too, is left out there; one that is not in the project stays as a
    command and is listed in `missing`. Raises TexError `too_deep` or `input_bomb`.
    """
    project.used, project.missing = [], []
    packages = [name for match in PACKAGES.finditer(project.texts[main]) for name in match[1].split(",")]
    own = [found for name in packages for suffix in (".sty", ".cls") if (found := _resolve(project, name.strip() + suffix, main))]
    parts = [project.texts[name] for name in dict.fromkeys(own)]
    return "\n".join([*parts, _Flattening(project).text(main, ())])


class _Flattening:
    def __init__(self, project: Project) -> None:
        self.project, self.n_chars = project, 0

    def text(self, name: str, stack: tuple[str, ...]) -> str:
        if len(stack) > MAX_INPUT_DEPTH:
            raise TexError("too_deep", f"\\input more than {MAX_INPUT_DEPTH} deep: {name}")
        text = _body(self.project.texts[name]) if stack else self.project.texts[name]
        self.project.used.append(name)
        self.n_chars += len(text)
        if self.n_chars > MAX_SOURCE_CHARS or len(self.project.used) > MAX_INPUTS:
            raise TexError("input_bomb", f"\\input reads {len(self.project.used)} files, {self.n_chars} characters")
        parts: list[str] = []
        done = 0
        for match in scan(INCLUDE, text):
            if match["endinput"]:
                return "".join([*parts, text[done : match.start()]])
            target = _target(self.project, match, name)
            if target is None or match["command"] == "verbatiminput":
                if target is None:
                    self.project.missing.append(_wanted(match))
                continue
            cyclic = target in (*stack, name)
            parts += [text[done : match.start()], "" if cyclic else self.text(target, (*stack, name))]
            done = match.end()
        return "".join([*parts, text[done:]])


def _body(text: str) -> str:
    """What a part of a paper that can also stand alone (subfiles, standalone) adds to it."""
    begin = HAS_BEGIN.search(text)
    if begin is None:
        return text
    end = HAS_END.search(text, begin.end())
    return text[begin.end() : end.start() if end else len(text)]


def _wanted(match: re.Match[str]) -> str:
    if match["import"]:
        return posixpath.join(match["folder"].strip(), match["file"].strip())
    return (match["name"] or match["plain"] or "").strip().strip('"')


def _target(project: Project, match: re.Match[str], name: str) -> str | None:
    return None if match["endinput"] else _resolve(project, _wanted(match), name)


def _resolve(project: Project, wanted: str, reader: str) -> str | None:
    """A file of the project by the name that another reads it with; TeX looks below the main file, `import` below the reader."""
    for folder in ("", posixpath.dirname(project.used[0] if project.used else reader), posixpath.dirname(reader)):
        path = posixpath.normpath(posixpath.join(folder, wanted))
        for name in (path, f"{path}.tex", f"{path}.ltx"):
            if name in project.texts:
                return name
    return None
