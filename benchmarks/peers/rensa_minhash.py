"""rensa over JSONL files: `python rensa_minhash.py OUT {5-grams|unigrams} FILE...`

`5-grams`: sets of five words made in Python, 112 permutations in 14 bands, every candidate joined. `unigrams`: rensa's own
benchmark, whose tokens are `text.split()`, with its fastest sketch (rho), 128 permutations in 8 bands, and flags for clusters:
the documents that share a band with another are written as one cluster.
"""

from __future__ import annotations

import re
import sys

from answer import clusters_of, documents, write_clusters
from rensa import RMinHash, RMinHashLSH

WORD = re.compile(r"\w+")


def shingles(text: str) -> list[str]:
    found = WORD.findall(text.lower())
    return [" ".join(found[start : start + 5]) for start in range(max(1, len(found) - 4))]


def five_grams(out: str, files: list[str]) -> None:
    places, sketches = [], []
    batch = []
    for place, text in documents(files):
        places.append(place)
        batch.append(shingles(text))
        if len(batch) == 1000:
            sketches += RMinHash.from_token_sets(batch, 112, 1)
            batch = []
    sketches += RMinHash.from_token_sets(batch, 112, 1)
    index = RMinHashLSH(0.7, 112, 14)
    index.insert_many(sketches)
    pairs = ((number, other) for number, found in enumerate(index.query_all(sketches)) for other in found if other > number)
    write_clusters(out, ((places[number], root) for number, root in clusters_of(pairs).items()))


def unigrams(out: str, files: list[str]) -> None:
    places, token_sets = [], []
    for place, text in documents(files):
        places.append(place)
        token_sets.append(text.split())
    matrix = RMinHash.digest_matrix_from_token_sets_rho(token_sets, 128, 12345)
    flags = RMinHashLSH(0.8, 128, 8).query_duplicate_flags_matrix_one_shot(matrix)
    write_clusters(out, ((place, 0) for place, is_duplicate in zip(places, flags) if is_duplicate))


if __name__ == "__main__":
    {"5-grams": five_grams, "unigrams": unigrams}[sys.argv[2]](sys.argv[1], sys.argv[3:])
