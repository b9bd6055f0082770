"""Which files of a repository a file imports: Python, JavaScript and TypeScript, Java, Go, C and C++.

Statements are found by pattern, not parsed: a file with errors imports what it says all the same, and a statement in a
comment or a string may count. Only an order follows from it. What is not in the repository is not there.
"""

from __future__ import annotations

import posixpath
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

_PYTHON, _JAVA, _GO = (".py", ".pyi"), (".java",), (".go",)
_SCRIPT = (".ts", ".tsx", ".js", ".jsx", ".mjs", ".cjs", ".mts", ".cts", ".d.ts", ".vue", ".svelte")
_C = (".c", ".h", ".cc", ".cpp", ".cxx", ".hh", ".hpp", ".hxx", ".inl", ".m", ".mm", ".cu", ".cuh")
_ROOTS = ("", "src", "lib", "python")  # where Python packages begin, below any folder above the file
_INCLUDE_ROOTS = ("", "include", "src")

_PYTHON_IMPORT = re.compile(
    r"^[ \t]*import[ \t]+([\w.]+(?:[ \t]+as[ \t]+\w+)?(?:[ \t]*,[ \t]*[\w.]+(?:[ \t]+as[ \t]+\w+)?)*)", re.M
)
_PYTHON_FROM = re.compile(r"^[ \t]*from[ \t]+(\.*)([\w.]*)[ \t]+import[ \t]+(\([^()]*\)|[^\n#]*)", re.M)
_SCRIPT_IMPORT = re.compile(r"""(?:\bfrom|\bimport|\brequire[ \t]*\(|\bimport[ \t]*\()[ \t]*(['"])(\.{1,2}/[^'"\n]*|\.{1,2})\1""")
_JAVA_IMPORT = re.compile(r"^[ \t]*import[ \t]+(static[ \t]+)?([\w.]+?)(\.\*)?[ \t]*;", re.M)
_GO_BLOCK = re.compile(r"^import[ \t]*(?:\(([^)]*)\)|[\w.]*[ \t]*\"([^\"\n]+)\")", re.M)
_GO_PATH = re.compile(r"\"([^\"\n]+)\"")
_GO_MODULE = re.compile(r"^module[ \t]+(\S+)", re.M)
_INCLUDE = re.compile(r"^[ \t]*#[ \t]*(?:include|import)[ \t]*([<\"])([^>\"\n]+)[>\"]", re.M)


def imported_files(paths: Sequence[str], texts: Sequence[str], origin: str = "") -> dict[int, list[int]]:
    """For each place in `paths` the places of what it imports, by path; `origin` tells a Go module that has no go.mod."""
    repository = _Repository(paths, texts, origin)
    found = {}
    for place, (path, text) in enumerate(zip(paths, texts, strict=True)):
        names = {name for name in _imports(repository, path, text) if name != path}
        if names:
            found[place] = sorted((repository.places[name] for name in names), key=lambda other: (paths[other], other))
    return found


def _imports(repository: _Repository, path: str, text: str) -> Iterator[str]:
    name = path.lower()
    if name.endswith(_PYTHON):
        yield from _of_python(repository, path, text)
    elif name.endswith(_SCRIPT):
        yield from _of_script(repository, path, text)
    elif name.endswith(_JAVA):
        yield from _of_java(repository, text)
    elif name.endswith(_GO):
        yield from _of_go(repository, text)
    elif name.endswith(_C):
        yield from _of_c(repository, path, text)


class _Repository:
    """What there is to import: files by path, by folder, and by the ends of their paths."""

    def __init__(self, paths: Sequence[str], texts: Sequence[str], origin: str) -> None:
        self.places = {path: place for place, path in reversed(list(enumerate(paths)))}
        self.folders: dict[str, list[str]] = defaultdict(list)
        self.ends: dict[str, list[str]] = defaultdict(list)
        self.names = {part.partition(".")[0] for path in self.places for part in path.split("/")}
        self.modules: dict[tuple[str, str, str], list[str]] = {}  # by folder, module and name: what was found before
        for path in sorted(self.places):
            self.folders[posixpath.dirname(path)].append(path)
            if path.lower().endswith((*_JAVA, *_C)):
                parts = path.split("/")
                for first in range(len(parts)):
                    self.ends["/".join(parts[first:])].append(path)
        modules = {path: text for path, text in zip(paths, texts, strict=True) if posixpath.basename(path) == "go.mod"}
        self.go_modules = [
            (match[1].strip('"'), posixpath.dirname(path))
            for path, text in sorted(modules.items())
            if (match := _GO_MODULE.search(text))
        ] or [(origin.partition("://")[2].removesuffix(".git") or origin, "")]

    def first(self, candidates: Iterable[str]) -> str | None:
        """The first of `candidates` that is a file here."""
        normal = (posixpath.normpath(path) if "./" in path else path for path in candidates)
        return next((path for path in normal if path in self.places), None)


def _above(path: str) -> Iterator[str]:
    """The folder of a file and those above it, up to the root of the repository."""
    folder = posixpath.dirname(path)
    while folder:
        yield folder
        folder = posixpath.dirname(folder)
    yield ""


def _of_python(repository: _Repository, path: str, text: str) -> Iterator[str]:
    for match in _PYTHON_IMPORT.finditer(text):
        for name in match[1].split(","):
            yield from _python_module(repository, path, name.split()[0], "")
    for match in _PYTHON_FROM.finditer(text):
        names = re.findall(r"(?:^|,)\s*(\w+)", re.sub(r"#[^\n]*", "", match[3].strip("()")))
        for name in names or [""]:
            yield from _python_module(repository, path, match[2], name, len(match[1]))


def _python_module(repository: _Repository, path: str, module: str, name: str, n_dots: int = 0) -> list[str]:
    """The file of `module.name` where that is a module, else that of `module` (or of a package that holds it)."""
    if not n_dots and module.partition(".")[0] not in repository.names:
        return []  # most imports are of other people's modules
    key = (posixpath.dirname(path), "." * n_dots + module, name)
    if key not in repository.modules:
        repository.modules[key] = list(_found_module(repository, path, module, name, n_dots))
    return repository.modules[key]


def _found_module(repository: _Repository, path: str, module: str, name: str, n_dots: int) -> Iterator[str]:
    parts = [part for part in module.split(".") if part]
    if n_dots:
        folder = posixpath.dirname(path)
        for _ in range(n_dots - 1):
            folder = posixpath.dirname(folder)
        starts = [folder]
    else:
        starts = [posixpath.join(folder, root) for folder in _above(path) for root in _ROOTS]
    wanted = [[*parts, name]] if name else []
    wanted += [parts[:n] for n in range(len(parts), 0 if not n_dots else -1, -1)]
    for module_parts in wanted:
        stem = "/".join(module_parts)
        ends = (f"{stem}.py", f"{stem}/__init__.py", f"{stem}.pyi") if stem else ("__init__.py",)
        if found := repository.first(posixpath.join(start, end) for start in starts for end in ends):
            yield found
            return


def _of_script(repository: _Repository, path: str, text: str) -> Iterator[str]:
    folder = posixpath.dirname(path)
    for match in _SCRIPT_IMPORT.finditer(text):
        base = posixpath.join(folder, match[2])
        stem = re.sub(r"\.[mc]?jsx?$", "", base)  # TypeScript imports `x.js` and means `x.ts`
        found = repository.first(
            [base, *(base + end for end in _SCRIPT), *(stem + end for end in _SCRIPT), *(f"{base}/index{end}" for end in _SCRIPT)]
        )
        if found:
            yield found


def _of_java(repository: _Repository, text: str) -> Iterator[str]:
    for is_static, name, star in _JAVA_IMPORT.findall(text):
        parts = name.split(".")
        if star and not is_static:
            yield from (path for path in _java_package(repository, "/".join(parts)))
            continue
        # `import static a.b.C.member`, and `import a.b.C.Inner`: the class is further up.
        for n in range(len(parts), 1, -1):
            if found := repository.ends.get("/".join(parts[:n]) + ".java"):
                yield found[0]
                break


def _java_package(repository: _Repository, package: str) -> Iterator[str]:
    for folder, files in repository.folders.items():
        if folder == package or folder.endswith(f"/{package}"):
            yield from (path for path in files if path.endswith(".java"))


def _of_go(repository: _Repository, text: str) -> Iterator[str]:
    for block, single in _GO_BLOCK.findall(text):
        for wanted in [single] if single else _GO_PATH.findall(block):
            for module, root in repository.go_modules:
                if wanted == module or wanted.startswith(f"{module}/"):
                    folder = posixpath.join(root, wanted[len(module) :].lstrip("/")).rstrip("/")
                    files = repository.folders.get(folder, ())
                    yield from (path for path in files if path.endswith(".go") and not path.endswith("_test.go"))


def _of_c(repository: _Repository, path: str, text: str) -> Iterator[str]:
    for mark, name in _INCLUDE.findall(text):
        starts = [posixpath.dirname(path)] if mark == '"' else []
        starts += (posixpath.join(folder, root) for folder in _above(path) for root in _INCLUDE_ROOTS)
        found = repository.first(posixpath.join(start, name) for start in starts)
        others = repository.ends.get(name, [])
        if found or len(others) == 1:
            yield found or others[0]
