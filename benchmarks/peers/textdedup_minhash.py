"""text-dedup 0.4.1 over JSONL files, 5-word shingles, 14 bands of 8, one process.

    python textdedup_minhash.py OUT {unverified|verified} FILE...

It asks for Python 3.12, for three `type` statements and `typing.override`. On Python 3.11 this file reads the former as plain
assignments and gives it the latter; nothing that is measured depends on either.
"""

from __future__ import annotations

import importlib.machinery
import json
import pickle
import re
import shutil
import sys
import typing
from pathlib import Path

from answer import write_clusters

TYPE_STATEMENT = re.compile(rb"^type (\w+ =)", re.M)


class OlderSyntax(importlib.machinery.SourceFileLoader):
    """Reads the modules of text-dedup without `type` statements."""

    def get_code(self, fullname: str) -> typing.Any:
        source = TYPE_STATEMENT.sub(rb"\1", Path(self.path).read_bytes())
        return compile(source, self.path, "exec", dont_inherit=True)


class OlderFinder(importlib.machinery.PathFinder):
    """Finds them first."""

    @classmethod
    def find_spec(cls, fullname: str, path: typing.Any = None, target: typing.Any = None) -> typing.Any:
        if fullname.partition(".")[0] != "text_dedup":
            return None
        spec = super().find_spec(fullname, path, target)
        if spec and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = OlderSyntax(fullname, spec.loader.path)
        return spec


if sys.version_info < (3, 12):
    typing.override = lambda method: method  # type: ignore[attr-defined]
    sys.meta_path.insert(0, OlderFinder)


CONFIG = """
[input]
input_type = "local_files"
file_type = "json"
read_arguments = {{path = "json", data_files = {files}, split = "train", cache_dir = {cache}}}
[algorithm]
algorithm_name = "minhash"
text_column = "text"
num_perm = 112
bands = 14
rows = 8
ngram_size = 5
threshold = 0.7
check_false_positive = {is_verified}
num_proc = 1
[output]
output_dir = {output}
save_clusters = true
[debug]
"""


def main(out: str, is_verified: bool, files: list[str]) -> None:
    from text_dedup.config.base import load_config_from_toml
    from text_dedup.minhash import main as minhash

    work = Path(f"{out}.work")
    work.mkdir()
    names = {"files": files, "cache": str(work / "cache"), "output": str(work / "output"), "is_verified": is_verified}
    (work / "config.toml").write_text(CONFIG.format(**{name: json.dumps(value) for name, value in names.items()}))
    minhash(load_config_from_toml(work / "config.toml"))
    # A document's number is its line in all files one after the other.
    clusters = pickle.loads((work / "output" / "clusters.pickle").read_bytes())
    write_clusters(out, (((0, number), cluster) for number, cluster in clusters.items()))
    shutil.rmtree(work)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2] == "verified", sys.argv[3:])
