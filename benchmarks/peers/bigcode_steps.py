"""One step of bigcode-dataset or of The Stack v2, by their own functions, on JSON lines {path, text, language}.

    python bigcode_steps.py STEP BIGCODE STACK_V2 FILE [ENRY]

BIGCODE and STACK_V2 are folders with checkouts of bigcode-project/bigcode-dataset and bigcode-project/the-stack-v2, ENRY a shared
library as benchmarks/languages.py describes it. Printed is JSON: CPU-seconds of the step alone (neither imports nor reading the
file), of parts of it, the peak of this process in bytes, and what was found, so that it shows that the step ran.
"""

from __future__ import annotations

import ast
import ctypes
import json
import os
import re
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

Records = list[dict[str, Any]]


def definitions(path: Path, wanted: set[str], known: dict[str, Any]) -> dict[str, Any]:
    """Functions and assignments of a script that cannot be imported as it is, with what it would have imported."""
    tree = ast.parse(path.read_text())
    names = {node: node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    names |= {node: node.targets[0].id for node in tree.body if isinstance(node, ast.Assign)}  # type: ignore[attr-defined]
    tree.body = [node for node, name in names.items() if name in wanted]
    space = dict(known)
    exec(compile(tree, str(path), "exec"), space)
    return space


class Enry:
    """What The Stack v2 calls of go-enry; without the library nothing is told, and its time is no part of the step."""

    def __init__(self, library: str | None) -> None:
        self._language = ctypes.CDLL(library).Language if library else None
        if self._language is not None:
            self._language.argtypes, self._language.restype = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int), ctypes.c_char_p

    def get_language(self, name: str, content: bytes) -> str:
        return "" if self._language is None else self._language(name.encode(), content, len(content)).decode()

    def is_vendor(self, name: str) -> bool:
        return False  # the library has no such function: left out

    def is_generated(self, name: str, content: bytes) -> bool:
        return False


def languages_and_licences(bigcode: Path, stack: Path, records: Records, enry: str | None) -> Callable[[], dict[str, Any]]:
    """get_file_contents.py: encoding, language, and ScanCode on what is named like a licence file, by a deadline of 100."""
    import cchardet
    from licensedcode.cache import get_index, get_licenses_db, get_licensing
    from licensedcode.detection import detect_licenses

    get_index()
    spent = {"licences": 0.0}

    def timed(**given: Any) -> Any:
        started = time.process_time()
        found = list(detect_licenses(**given))
        spent["licences"] += time.process_time() - started
        return found

    known = {"cchardet": cchardet, "re": re, "json": json, "enry": Enry(enry), "detect_licenses": timed}
    known |= {"get_licensing": get_licensing, "get_licenses_db": get_licenses_db}
    wanted = {"license_file_names", "license_file_re", "license_db", "decode_content", "get_lang_license"}
    theirs = definitions(stack / "the_stack/2_download_files/get_file_contents.py", wanted, known)
    inputs = [{"content": one["text"].encode(), "filenames": [one["path"].rpartition("/")[2]], "licenses": []} for one in records]

    def step() -> dict[str, Any]:
        answers = [json.loads(theirs["get_lang_license"](one)) for one in inputs]
        n_licences = sum(bool(one["licenses"]) for one in answers)
        return {
            "parts": spent,
            "found": f"{n_licences} files with a licence, {sum(bool(one['language']) for one in answers)} named",
        }

    return step


def secrets(bigcode: Path, stack: Path, records: Records, enry: str | None) -> Callable[[], dict[str, Any]]:
    """pii/: addresses by regular expressions, keys by detect-secrets with their plugins and filters, then redaction."""
    os.chdir(bigcode / "pii")
    sys.path.insert(0, str(bigcode / "pii"))
    from pii_detection import scan_pii_batch
    from pii_redaction import redact_pii_batch

    replacements = json.loads(Path("replacements.json").read_text())
    texts = [one["text"] for one in records]

    def step() -> dict[str, Any]:
        n_found = 0
        for first in range(0, len(texts), 100):  # their batch size
            batch = {"content": texts[first : first + 100]}
            batch |= scan_pii_batch(batch)
            redact_pii_batch(batch, replacements, add_references=False) if any(batch["has_secrets"]) else None
            n_found += sum(batch["number_secrets"])
        return {"found": f"{n_found} secrets and addresses"}

    return step


def near_duplicates(bigcode: Path, stack: Path, records: Records, enry: str | None) -> Callable[[], dict[str, Any]]:
    """minhash_deduplication.py: 256 permutations, 5-grams, threshold .7; its `run` without the datasets library around it."""
    sys.path.insert(0, str(bigcode / "near_deduplication"))
    import minhash_deduplication as theirs
    import numpy as np

    texts = [one["text"] for one in records]

    def step() -> dict[str, Any]:
        n_bands, n_rows = theirs.optimal_param(0.7, 256)
        ranges = [(band * n_rows, (band + 1) * n_rows) for band in range(n_bands)]
        prime = theirs.MERSENNE_PRIME
        drawn = [
            (theirs.RNG.randint(1, prime, dtype=np.uint64), theirs.RNG.randint(0, prime, dtype=np.uint64)) for _ in range(256)
        ]
        given = {"num_perm": 256, "ngram_size": 5, "hashranges": ranges, "permutations": np.array(drawn, dtype=np.uint64).T}
        tables: list[dict[bytes, set[int]]] = [defaultdict(set) for _ in ranges]
        for number, text in enumerate(texts):
            signed = theirs.embed_func(text, number, **given)
            for value, table in zip(signed["__signatures__"], tables):
                table[value].add(number)
        joined = theirs.UnionFind()
        for cluster in (cluster for table in tables for cluster in table.values() if len(cluster) > 1):
            for member in cluster:
                joined.union(member, min(cluster))
        return {"found": f"{sum(joined.find(number) != number for number in range(len(texts)))} duplicates"}

    return step


STEPS = {"languages and licences": languages_and_licences, "secrets": secrets, "near-duplicates": near_duplicates}


def main() -> None:
    step, bigcode, stack, file, *enry = sys.argv[1:]
    records = [json.loads(line) for line in Path(file).read_text().split("\n") if line]
    run = STEPS[step](Path(bigcode).resolve(), Path(stack).resolve(), records, enry[0] if enry else None)
    sys.stdout, answers = sys.stderr, sys.stdout  # theirs print
    started = time.process_time()
    told = run()
    told["seconds"] = time.process_time() - started
    told["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    json.dump(told, answers)


if __name__ == "__main__":
    main()
