"""Reads and writes n-gram models as ARPA files, the text format that SRILM defined and kenlm reads.

A header with the number of n-grams of each order, then for each order lines of log10 probability, tab, words, and (but for
the highest order) tab and log10 backoff weight.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tilth.errors import SourceError
from tilth.quality_signals.models.ngram_model import (
    BEGIN,
    END,
    MAX_ORDER,
    UNKNOWN,
    WORD_BITS,
    Floats,
    Ids,
    NgramModel,
    ngram_keys,
)

_AT_ONCE = 1 << 18
_MAX_LINE_BYTES, _MAX_NGRAMS = 1 << 16, (1 << 31) - 1
_KENLM_UNKNOWN = -100.0  # what kenlm takes for <unk> where the file has none


def write_arpa(model: NgramModel, path: Path) -> None:
    """Write `model` to `path`; numbers are the shortest that give the same single-precision values when read again."""
    words = pa.array(model.words, pa.string())
    with path.open("wb") as file:
        counts = "".join(f"ngram {n}={count}\n" for n, count in enumerate(model.n_ngrams, 1))
        file.write(f"\\data\\\n{counts}".encode())
        first = 0
        for n, count in enumerate(model.n_ngrams, 1):
            file.write(f"\n\\{n}-grams:\n".encode())
            for start in range(first, first + count, _AT_ONCE):
                ids = np.arange(start, min(start + _AT_ONCE, first + count))
                columns = [words.take(pa.array(column)) for column in model.ngram_words(ids)]
                fields = [_shortest(model.log10_probs[ids]), pc.binary_join_element_wise(*columns, " ")]
                if n < model.order:
                    fields.append(_shortest(model.backoffs[ids]))
                lines = pc.binary_join_element_wise(*fields, "\t")
                file.write(("\n".join(lines.to_pylist()) + "\n").encode())
            first += count
        file.write(b"\n\\end\\\n")


def read_arpa(path: Path) -> NgramModel:
    """Read an ARPA file (plain or .gz) that kenlm would read too.

    Raises SourceError where it is damaged, has n-grams whose first or last words are not in it (as pruned models
    of SRILM may), more than 2^24 words or orders above 6. Memory: about 40 bytes an n-gram, its words and one block of lines.
    """
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
        reader = _Reader(cast(BinaryIO, file), path)
        counts = reader.header()
        words, probs, backoffs = reader.unigrams(counts[0])
        model = NgramModel(words, [len(words)], np.zeros(0, np.uint64), probs, backoffs)
        for n in range(2, len(counts) + 1):
            _append_order(model, n, reader.section(n, counts[n - 1]), has_backoffs=n < len(counts), reader=reader)
        reader.end()
    return model


def _shortest(values: Floats) -> pa.Array:
    return pa.array(values).cast(pa.string())


class _Reader:
    """Lines of the file with their numbers; every complaint names the place."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self.file, self.path, self.line = file, path, 0

    def fail(self, what: str) -> SourceError:
        """The error to raise for what was just read."""
        return SourceError(what, where=f"{self.path}, line {self.line}", fix="check that the ARPA file arrived whole")

    def next_line(self) -> str:
        """The next line without its end; raises at the end of the file, for broken UTF-8 and for endless lines."""
        try:
            line = self.file.readline(_MAX_LINE_BYTES)
        except (OSError, EOFError) as error:
            raise self.fail(f"the file cannot be read: {error}") from error
        self.line += 1
        if not line.endswith(b"\n"):
            raise self.fail("the file ends before `\\end\\`" if len(line) < _MAX_LINE_BYTES else "a line is too long")
        try:
            return line.rstrip(b"\r\n").decode()
        except UnicodeDecodeError as error:
            raise self.fail("a line is not UTF-8") from error

    def next_text(self) -> str:
        """The next line that is not blank."""
        while not (line := self.next_line()).strip():
            pass
        return line

    def header(self) -> list[int]:
        """The number of n-grams of each order."""
        if self.next_text() != "\\data\\":
            raise self.fail("an ARPA file begins with `\\data\\`")
        counts: list[int] = []
        while (line := self.next_line()).strip():
            name, _, count = line.partition("=")
            if name.strip() != f"ngram {len(counts) + 1}" or not count.strip().isdecimal() or int(count) > _MAX_NGRAMS:
                raise self.fail(f"`{line[:60]}` is not a count of {len(counts) + 1}-grams")
            counts.append(int(count))
        if not 1 <= len(counts) <= MAX_ORDER or counts[0] > 1 << WORD_BITS:
            raise self.fail(f"orders 1 to {MAX_ORDER} and {1 << WORD_BITS} words can be read")
        return counts

    def section(self, n: int, count: int) -> Iterator[tuple[list[str], list[str], Floats, Floats]]:
        """Blocks of n-grams: their lines, their words joined by spaces, log10 probabilities, backoffs (0 where absent)."""
        if self.next_text() != f"\\{n}-grams:":
            raise self.fail(f"`\\{n}-grams:` was expected")
        for start in range(0, count, _AT_ONCE):
            lines = [self.next_line() for _ in range(min(_AT_ONCE, count - start))]
            fields = [line.split("\t") for line in lines]
            if any(len(found) not in (2, 3) for found in fields):
                raise self.fail(f"{n}-grams have two or three fields between tabs, and as many lines as the header says")
            try:
                probs = np.array([found[0] for found in fields], dtype=np.float64).astype(np.float32)
                backoffs = np.array([found[2] if len(found) == 3 else "0" for found in fields], np.float64).astype(np.float32)
            except ValueError as error:
                raise self.fail(f"a number cannot be read: {error}") from error
            if not (np.isfinite(probs) & np.isfinite(backoffs) & (probs <= 0)).all():
                raise self.fail("log10 probabilities are finite and not above 0, backoffs finite")
            yield lines, [found[1] for found in fields], probs, backoffs

    def unigrams(self, count: int) -> tuple[list[str], Floats, Floats]:
        """Words with <unk>, <s> and </s> first, and their numbers."""
        words: list[str] = []
        parts = []
        for _, names, probs, backoffs in self.section(1, count):
            words += names
            parts.append((probs, backoffs))
        known = {word: place for place, word in enumerate(words)}
        if len(known) < len(words) or any(not word or " " in word for word in words):
            raise self.fail("words must differ, and be neither empty nor several")
        for special in (BEGIN, END):
            if special not in known:
                raise self.fail(f"`{special}` is not among the words")
        probs, backoffs = (np.concatenate(column) for column in zip(*parts))
        if UNKNOWN not in known:
            known[UNKNOWN] = len(words)
            words.append(UNKNOWN)
            probs, backoffs = np.append(probs, np.float32(_KENLM_UNKNOWN)), np.append(backoffs, np.float32(0))
        specials = [known[word] for word in (UNKNOWN, BEGIN, END)]
        order = np.array([*specials, *np.delete(np.arange(len(words)), specials)])
        return [words[place] for place in order], probs[order], backoffs[order]

    def end(self) -> None:
        """Check that nothing but the end follows."""
        if self.next_text().strip() != "\\end\\":
            raise self.fail("`\\end\\` was expected")


def _append_order(
    model: NgramModel, n: int, section: Iterator[tuple[list[str], list[str], Floats, Floats]], has_backoffs: bool, reader: _Reader
) -> None:
    """Add the n-grams of one section to a model that has all shorter ones."""
    keys, probs, backoffs = [np.zeros(0, np.uint64)], [np.zeros(0, np.float32)], [np.zeros(0, np.float32)]
    for lines, names, block_probs, block_backoffs in section:
        ids = _known_ids(model, names, n, reader)
        suffixes, contexts = _chain(model, ids[:, 1:]), _chain(model, ids[:, :-1])
        if (missing := np.flatnonzero((suffixes < 0) | (contexts < 0))).size:
            raise reader.fail(f"the first or last {n - 1} words of `{lines[missing[0]][:80]}` are not an n-gram of the model")
        if not has_backoffs and block_backoffs.any():
            raise reader.fail("n-grams of the highest order have no backoff")
        keys.append(ngram_keys(suffixes, ids[:, 0]))
        probs.append(block_probs)
        backoffs.append(block_backoffs)
    all_keys = np.concatenate(keys)
    order = np.argsort(all_keys, kind="stable")
    ascending = all_keys[order]
    if (ascending[1:] == ascending[:-1]).any():
        raise reader.fail(f"a {n}-gram occurs twice")
    model.keys = np.concatenate([model.keys, ascending])
    model.log10_probs = np.concatenate([model.log10_probs, np.concatenate(probs)[order]])
    model.backoffs = np.concatenate([model.backoffs, np.concatenate(backoffs)[order]])
    model.n_ngrams.append(len(order))


def _known_ids(model: NgramModel, names: list[str], n: int, reader: _Reader) -> Ids:
    """The word ids of n-grams, (count, n)."""
    split = [name.split(" ") for name in names]
    if any(len(words) != n for words in split):
        raise reader.fail(f"a {n}-gram has {n} words with one space between them")
    ids = model.ids
    flat = np.fromiter((ids.get(word, -1) for words in split for word in words), np.int64, n * len(split))
    if (flat < 0).any():
        raise reader.fail("a word of an n-gram is not among the words")
    return flat.reshape(-1, n)


def _chain(model: NgramModel, words: Ids) -> Ids:
    """The id of each row of words as an n-gram of the model; -1 where it is none."""
    found = words[:, -1].copy()
    for column in range(words.shape[1] - 2, -1, -1):
        known = found >= 0
        found[known] = model.find(found[known], words[known, column])
    return found
