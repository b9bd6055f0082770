"""The order of a repository's files: by chance, by path, or such that what a file imports comes before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tilth.tokenize.code_form import CodeForm
from tilth.tokenize.imports import imported_files


def file_order(paths: Sequence[str], texts: Sequence[str], form: CodeForm, origin: str, copy: int = 0) -> list[int]:
    """The places in `paths` (each with its text) in the order in which `form` writes them; `copy` counts its repetitions."""
    by_path = sorted(range(len(paths)), key=lambda place: (paths[place], place))
    if form.order == "random":
        return sorted(by_path, key=lambda place: form.chance("order", origin, copy, paths[place], place))
    if form.order == "dependency":
        return dependencies_first(by_path, imported_files(paths, texts, origin))
    return by_path


def dependencies_first(places: Sequence[int], imported: Mapping[int, Sequence[int]]) -> list[int]:
    """`places` such that each comes after those that it imports; where they form a cycle, after those that were met first.

    A depth-first walk in the given order, written down on the way back: an import that closes a cycle is the only one
    that may come late. Time and memory: linear in files and imports.
    """
    ordered: list[int] = []
    met: set[int] = set()
    for root in places:
        if root in met:
            continue
        met.add(root)
        path = [(root, iter(imported.get(root, ())))]
        while path:
            place, left = path[-1]
            following = next((other for other in left if other not in met), None)
            if following is None:
                ordered.append(place)
                path.pop()
            else:
                met.add(following)
                path.append((following, iter(imported.get(following, ()))))
    return ordered
