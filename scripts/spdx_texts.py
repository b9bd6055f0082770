"""`python scripts/spdx_texts.py FOLDER` makes src/tilth/corpus/provenance/spdx_texts.npz from the SPDX License List.

FOLDER is a clone of spdx/license-list-XML, from which SPDX generates license-list-data (and which is a twentieth of its size).
"""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from tilth.corpus.provenance.normal_text import normal_text
from tilth.corpus.provenance.spdx_passages import ANY, kept_runs
from tilth.corpus.provenance.spdx_texts import COMMON, DATA, text_hash, word_hash

TARGET = Path(__file__).parents[1] / "src/tilth/corpus/provenance" / DATA
NAMESPACE = "{http://www.spdx.org/license}"
BLOCKS = frozenset({"p", "br", "list", "item", "bullet", "titleText", "copyrightText", "standardLicenseHeader"})
MIN_PASSAGE, FEW = 12, 8  # words
EPOCH = (1980, 1, 1, 0, 0, 0)
ATTRIBUTION = (
    "Hashes made from the SPDX License List of the SPDX Workgroup, a Linux Foundation project, https://spdx.org/licenses/"
)


def text_of(element: ElementTree.Element, left_out: frozenset[str]) -> str:
    """The text below an element without the elements named in `left_out`; paragraphs and items begin a line."""
    parts = [element.text or ""]
    for child in element:
        name = child.tag.removeprefix(NAMESPACE)
        if name not in left_out:
            parts += ["\n" if name in BLOCKS else "", text_of(child, left_out), "\n" if name in BLOCKS else ""]
        parts.append(child.tail or "")
    return "".join(parts)


def passage_of(element: ElementTree.Element, left_out: frozenset[str]) -> list[str]:
    """The words below an element.

    What differs from copy to copy is ANY, word for word: names of people, marks of items, a few words that are optional.
    """
    words = normal_text(element.text or "").words.split()
    for child in element:
        name = child.tag.removeprefix(NAMESPACE)
        inner = passage_of(child, left_out)
        if name in ("alt", "bullet") or (name == "optional" and len(inner) <= FEW):
            words += [ANY] * len(inner)
        elif name not in left_out:
            words += inner
        words += normal_text(child.tail or "").words.split()
    return words


def licence_texts(folder: Path) -> dict[str, list[str]]:
    """The variants of each licence that is not deprecated: as it is, without its title, without what SPDX calls optional."""
    found = {}
    for path in sorted((folder / "src").glob("*.xml")):
        licence = ElementTree.parse(path).getroot().find(f"{NAMESPACE}license")
        text = None if licence is None else licence.find(f"{NAMESPACE}text")
        if licence is None or text is None or "deprecatedVersion" in licence.attrib:
            continue
        name = str(licence.get("licenseId"))
        leave_out = product((set(), {"titleText"}), (set(), {"optional"}), (set(), {"copyrightText"}))
        found[name] = [text_of(text, frozenset(set().union(*sets))) for sets in leave_out]
        plain = folder / "test/simpleTestForGenerator" / f"{name}.txt"
        if plain.exists():
            found[name].append(plain.read_text("utf-8", "replace"))
    return found


def passage_texts(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The words of each licence and exception as they stand in a file of many: without title and owner, with what is optional
    and without. Of texts that are the same the commoner name comes first.
    """
    found = []
    for path in [*(folder / "src").glob("*.xml"), *(folder / "src/exceptions").glob("*.xml")]:
        root = ElementTree.parse(path).getroot()
        one = root.find(f"{NAMESPACE}license")
        one = root.find(f"{NAMESPACE}exception") if one is None else one
        text = None if one is None else one.find(f"{NAMESPACE}text")
        if one is None or text is None or "deprecatedVersion" in one.attrib:
            continue
        own = frozenset({"titleText", "copyrightText", "standardLicenseHeader"})
        core, whole = (passage_of(text, own | more) for more in ({"optional"}, set()))
        found += [(str(one.get("licenseId")), words) for words in ([core] if len(whole) - len(core) <= FEW else [core, whole])]
    yield from sorted((pair for pair in found if len(pair[1]) >= MIN_PASSAGE), key=lambda pair: order_of_names(pair[0]))


def packed_passages(folder: Path) -> dict[str, np.ndarray[Any, Any]]:
    """The runs of all passages, ascending, as gaps, and the passages that hold each and where."""
    known: dict[bytes, tuple[str, int, np.ndarray[Any, Any], np.ndarray[Any, Any]]] = {}
    for name, words in passage_texts(folder):
        runs, places = kept_runs(words)
        known.setdefault(runs.tobytes(), (name, len(words), runs, places))
    names, n_words, of_each, places = zip(*known.values(), strict=True)
    runs = np.concatenate(of_each)
    holders = np.repeat(np.arange(len(names)), [len(own) for own in of_each])
    order = np.lexsort((holders, runs))
    distinct, counts = np.unique(runs, return_counts=True)
    return {
        "passage_names": np.array(names),
        "exceptions": np.array(sorted({path.stem for path in (folder / "src/exceptions").glob("*.xml")} & set(names))),
        "passage_words": np.array(n_words, np.uint32),
        "run_gaps": np.diff(distinct.astype(np.uint64), prepend=0).astype(np.uint32),
        "run_counts": counts.astype(np.uint16),
        "run_texts": holders[order].astype(np.uint16),
        "run_places": np.concatenate(places)[order].astype(np.uint16),
    }


def order_of_names(name: str) -> tuple[int, bool, str]:
    """Of licences with the same text the commoner one is meant, and `-only` rather than `-or-later`, which a text cannot say."""
    return (COMMON.index(name) if name in COMMON else len(COMMON), not name.endswith("-only"), name)


def main(folder: Path) -> None:
    """Write TARGET; the same checkout gives the same bytes."""
    texts = licence_texts(folder)
    names = sorted(texts)
    exact: dict[int, str] = {}
    sets: dict[frozenset[int], str] = {}
    for name in sorted(names, key=order_of_names):
        for variant in texts[name]:
            for without in (False, True):
                words = normal_text(variant, without_copyright=without).words
                if words.count(" ") >= 5:
                    exact.setdefault(text_hash(words), name)
        for variant in texts[name]:
            distinct = normal_text(variant, without_copyright=True).words.split(" ")
            sets.setdefault(frozenset(map(word_hash, distinct)), name)
    word_hashes = sorted(set().union(*sets))
    ids = {key: i for i, key in enumerate(word_hashes)}
    members, owners = [], []
    for words, name in sorted(sets.items(), key=lambda item: (item[1], len(item[0]))):
        members.append(sorted(ids[key] for key in words))
        owners.append(names.index(name))
    described = subprocess.run(
        ["git", "-C", str(folder), "describe", "--tags", "--always"], capture_output=True, text=True, check=True
    ).stdout.strip()
    arrays = {
        "attribution": np.array(ATTRIBUTION),
        "version": np.array(described),
        "names": np.array(names),
        "text_hashes": np.array(sorted(exact), np.uint64),
        "text_names": np.array([names.index(exact[key]) for key in sorted(exact)], np.uint16),
        "word_hashes": np.array(word_hashes, np.uint32),
        "set_starts": np.array([0, *np.cumsum([len(member) for member in members])], np.uint32),
        "set_names": np.array(owners, np.uint16),
        "set_words": np.array([i for member in members for i in member], np.uint16),
        **packed_passages(folder),
    }
    with zipfile.ZipFile(TARGET, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for key, array in arrays.items():
            packed = io.BytesIO()
            np.save(packed, array)
            archive.writestr(zipfile.ZipInfo(f"{key}.npy", EPOCH), packed.getvalue(), zipfile.ZIP_DEFLATED, 9)
    n_sets, n_words = len(sets), len(word_hashes)
    print(f"SPDX {described}: {len(names)} licences, {len(exact)} texts, {n_sets} sets of {n_words} words in {TARGET}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
