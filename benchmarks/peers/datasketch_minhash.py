"""datasketch over JSONL files, 5-word shingles, 112 permutations in 14 bands of 8, every candidate joined.

python datasketch_minhash.py OUT FILE...
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

from answer import clusters_of, documents, write_clusters
from datasketch import MinHash, MinHashLSH

WORD = re.compile(r"\w+")


def shingles(text: str) -> set[bytes]:
    found = WORD.findall(text.lower())
    return {" ".join(found[start : start + 5]).encode() for start in range(max(1, len(found) - 4))}


def main(out: str, files: list[str]) -> None:
    places: list[tuple[int, int]] = []

    def shingle_sets() -> Iterator[set[bytes]]:
        for place, text in documents(files):
            places.append(place)
            yield shingles(text)

    index = MinHashLSH(num_perm=112, params=(14, 8))
    sketches = list(MinHash.generator(shingle_sets(), num_perm=112, seed=1))
    for number, sketch in enumerate(sketches):
        index.insert(number, sketch, check_duplication=False)
    pairs = ((number, other) for number, sketch in enumerate(sketches) for other in index.query(sketch) if other > number)
    write_clusters(out, ((places[number], root) for number, root in clusters_of(pairs).items()))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
