"""A corpus for deduplication with planted copies, the same for the same seed: JSONL shards of `id` and `text`.

    python benchmarks/dedup_corpus.py FOLDER [--documents 150000] [--shards 8] [--seed 0] [--mean-words 280] [--data DATA]

150,000 documents are about 242 MB: 86 % prose of one to eight paragraphs, 4 % pages of one site each that share its boilerplate
(alike, but no duplicates), 3 % of one to six words, 3 % in scripts without spaces, 4 % code. 18 % of them have 1 to 30 copies,
3.6 in the mean, some blocks of documents later: 15 % exact (code with another layout), 60 % with words changed, put in or left
out at a rate for which the exact Jaccard similarity of 5-word shingles is spread evenly over 0.5 to 1, 15 % with a paragraph
less, 10 % with one more. The id says the kind, and of a copy the change.

It is written as a stream: memory does not depend on the number of documents.
"""

from __future__ import annotations

import argparse
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from dedup_words import Words, words

BLOCK, MAX_DELAY = 2_000, 6  # documents of a block; blocks between a document and its last copy
COPIED, MEAN_COPIES, MAX_COPIES = 0.18, 3.6, 30
KINDS, KIND_SHARES = ("prose", "page", "short", "unspaced", "code"), (0.86, 0.04, 0.03, 0.03, 0.04)
CHANGES, CHANGE_SHARES = ("exact", "words", "less", "more"), (0.15, 0.60, 0.15, 0.10)
PAGES_PER_SITE = 20
JOINS = {"prose": (" ", "\n\n"), "page": (" ", "\n"), "short": (" ", " "), "unspaced": ("", "。\n"), "code": (" ", "\n    ")}
LAYOUTS = ("\n\n", "\n\t\t", "\r\n        ")  # of copied code
Ids = npt.NDArray[np.int32]


class Document(NamedTuple):
    """Word numbers by paragraph (in code by line) and what stands between them."""

    kind: str
    parts: list[Ids]
    between: tuple[str, str]


class Corpus:
    """An endless stream of documents that follows from the arguments alone. Smaller blocks bring copies nearer."""

    def __init__(self, vocabulary: Words, seed: int = 0, mean_words: int = 280, block: int = BLOCK) -> None:
        self.vocabulary, self.seed, self.mean_words, self.block = vocabulary, seed, mean_words, block
        self.due: dict[int, list[Document]] = defaultdict(list)

    def documents(self, n: int) -> Iterator[tuple[str, str]]:
        """The first n of them as (id, text)."""
        n_made = 0
        for block in range(-(-n // self.block)):
            for kind, document in self._block(block):
                if n_made == n:
                    return
                yield f"{kind}-{n_made:08d}", self._text(document)
                n_made += 1

    def _block(self, block: int) -> list[tuple[str, Document]]:
        rng = np.random.default_rng([self.seed, block])
        made = [self._copy(rng, document) for document in self.due.pop(block, [])]
        n_sites = max(1, int(self.block * KIND_SHARES[1] / PAGES_PER_SITE))
        sites = [self._draw(rng, self.vocabulary.prose, self.mean_words // 3) for _ in range(n_sites)]
        for kind in rng.choice(KINDS, size=max(0, self.block - len(made)), p=KIND_SHARES):
            document = self._document(rng, str(kind), sites)
            made.append((document.kind, document))
            if rng.random() < COPIED:
                for delay in rng.integers(1, MAX_DELAY + 1, size=min(MAX_COPIES, rng.geometric(1 / MEAN_COPIES))):
                    self.due[block + int(delay)].append(document)
        return [made[index] for index in rng.permutation(len(made))[: self.block]]

    def _document(self, rng: np.random.Generator, kind: str, sites: list[Ids]) -> Document:
        paragraph = max(4, round(self.mean_words / 4.5))
        if kind == "prose":
            n_words = rng.integers(paragraph * 2 // 3, paragraph * 4 // 3 + 1, size=rng.integers(1, 9))
        elif kind == "code":
            n_words = rng.integers(2, 10, size=rng.integers(3, max(4, self.mean_words // 4)))
        elif kind == "unspaced":
            n_words = rng.integers(20, 80, size=rng.integers(1, max(2, self.mean_words // 40)))
        else:
            n_words = rng.integers(1, 7, size=1) if kind == "short" else rng.integers(paragraph // 2, paragraph * 2, size=1)
        table = {"code": self.vocabulary.code, "unspaced": self.vocabulary.unspaced}.get(kind, self.vocabulary.prose)
        parts = np.split(self._draw(rng, table, int(n_words.sum())), np.cumsum(n_words)[:-1])
        if kind == "page":
            parts = [sites[rng.integers(len(sites))], *parts]
        return Document(kind, parts, JOINS[kind])

    def _copy(self, rng: np.random.Generator, document: Document) -> tuple[str, Document]:
        change = str(rng.choice(CHANGES, p=CHANGE_SHARES))
        parts, between = list(document.parts), document.between
        if change == "words" and document.kind != "short":
            parts = [self._edited(rng, part, rate) for rate in [_rate(rng)] for part in parts]
        elif change == "less" and len(parts) > 1:
            del parts[rng.integers(len(parts))]
        elif change == "more" and len(parts) > 1:
            parts.insert(int(rng.integers(len(parts) + 1)), rng.permutation(parts[rng.integers(len(parts))]))
        else:
            change = "exact"
            if document.kind == "code":
                between = (between[0], LAYOUTS[rng.integers(len(LAYOUTS))])
        return f"{document.kind}-{change}", Document(document.kind, parts, between)

    def _edited(self, rng: np.random.Generator, part: Ids, rate: float) -> Ids:
        """60 % of the edits change a word, 20 % leave one out, 20 % put one in."""
        drawn = rng.random(len(part)) / rate
        new = self._draw(rng, self.vocabulary.prose if part[0] < self._first_code else part, len(part))
        changed = np.where(drawn < 0.6, new, part)
        repeats = np.ones(len(part), np.int64)
        repeats[(drawn >= 0.6) & (drawn < 0.8)] = 0
        repeats[(drawn >= 0.8) & (drawn < 1.0)] = 2  # the word twice, the second time as another
        edited = np.repeat(changed, repeats)
        second = np.flatnonzero(np.repeat(repeats == 2, repeats))[1::2]
        edited[second] = new[(drawn >= 0.8) & (drawn < 1.0)]
        return edited if len(edited) else part

    @property
    def _first_code(self) -> int:
        return int(self.vocabulary.code[0])

    def _draw(self, rng: np.random.Generator, table: Ids, n: int) -> Ids:
        return table[rng.integers(0, len(table), size=n, dtype=np.int32)]

    def _text(self, document: Document) -> str:
        between_words, between_parts = document.between
        return between_parts.join([between_words.join(self.vocabulary.surface[part]) for part in document.parts])


def _rate(rng: np.random.Generator) -> float:
    """Of edits, so that (1 - rate)^5 of the shingles stay and their Jaccard similarity is even over 0.5 to 1."""
    similarity = rng.uniform(0.5, 1.0)
    return float(1 - (2 * similarity / (1 + similarity)) ** (1 / 5))


def write(folder: Path, corpus: Corpus, n_documents: int, n_shards: int = 8) -> list[Path]:
    """Write the first `n_documents` as `n_shards` files of consecutive documents, and say which files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{shard:05d}.jsonl" for shard in range(n_shards)]
    stream = corpus.documents(n_documents)
    for shard, path in enumerate(files):
        n_lines = n_documents * (shard + 1) // n_shards - n_documents * shard // n_shards
        with path.open("w", encoding="utf-8", newline="\n") as lines:
            for _ in range(n_lines):
                identity, text = next(stream)
                lines.write(json.dumps({"id": identity, "text": text}, ensure_ascii=False) + "\n")
    return files


def corpus_from(data: str | None, seed: int = 0, mean_words: int = 280) -> Corpus:
    """The corpus over the vocabulary of the folder of test data, or of TILTH_TEST_DATA, or of Python's own library."""
    folder = data or os.environ.get("TILTH_TEST_DATA")
    return Corpus(words(Path(folder) if folder else None), seed, mean_words)


def main(arguments: list[str] | None = None) -> None:
    parser: Any = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    for name, default in (("documents", 150_000), ("shards", 8), ("seed", 0), ("mean-words", 280)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--data")
    given = parser.parse_args(arguments)
    files = write(given.folder, corpus_from(given.data, given.seed, given.mean_words), given.documents, given.shards)
    print(f"{given.documents} documents, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB in {len(files)} files")


if __name__ == "__main__":
    main()
