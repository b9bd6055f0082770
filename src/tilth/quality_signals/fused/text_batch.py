"""The texts of a batch as Arrow holds them, and what the kernels make of them, each once and only when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tilth.errors import ContractError
from tilth.quality_signals.fused.code_points import MOST_GROWTH, code_points

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


MAX_BYTES = 96 << 20  # of a text, for the families that only need what is in this file
MOST_LINES = 1 << 20  # of a text whose lines are kept: the columns of lines take 64 bytes for each


class DistinctWords(NamedTuple):
    """A row for each distinct word of each document, in the order of its first occurrence there."""

    starts: Ints  # of its UTF-8 in the normal forms
    sizes: npt.NDArray[np.int32]  # bytes
    lengths: npt.NDArray[np.int32]  # code points
    counts: npt.NDArray[np.int32]  # occurrences
    keys: npt.NDArray[np.uint64]  # `kernels.words.word_key`

    @classmethod
    def with_room(cls, n: int) -> DistinctWords:
        """Columns for `n` rows; what is not written takes no memory."""
        sizes, lengths, counts = (np.empty(n, np.int32) for _ in range(3))
        return cls(np.empty(n, np.int64), sizes, lengths, counts, np.empty(n, np.uint64))


@dataclass(frozen=True)
class Words:
    """The words of normal forms, numbered by first occurrence in their document.

    Document i has words `ids[ends[i]:ends[i + 1]]` (their numbers); number k is the row `bounds[1, i] + k` of `distinct`,
    whose bytes lie in `data`. `documents` (n x 4), `entropies` and `lines` (4 x lines) are the columns that `kernels.words`
    names.
    """

    data: Bytes
    ids: npt.NDArray[np.int32]
    bounds: Ints  # how many words, and how many distinct ones, come before each document: 2 x (documents + 1)
    distinct: DistinctWords
    documents: Ints
    entropies: npt.NDArray[np.float64]
    lines: npt.NDArray[np.int32]

    @property
    def ends(self) -> Ints:
        """How many words come before each document."""
        return self.bounds[0]

    @cached_property
    def spans(self) -> Ints:
        """Words x 2: where the bytes of each word lie in `data`; equal words of a document lie in one place."""
        places = self.ids + np.repeat(self.bounds[1, :-1], np.diff(self.ends))
        starts = self.distinct.starts[places]
        return np.stack((starts, starts + self.distinct.sizes[places]), axis=1)


@dataclass(frozen=True)
class TextBatch:
    """Texts of several documents, and the further columns that a family asked for.

    `texts` is a string array without nulls. Raises ContractError if it holds a null or bytes that are not UTF-8.
    """

    texts: pa.Array
    fields: Mapping[str, pa.Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.texts.null_count:
            raise ContractError("a text is null", where="text", fix="give each document a text, be it empty")
        try:
            self.texts.validate(full=True)
        except pa.ArrowInvalid as error:
            raise ContractError(f"a text is not valid UTF-8: {error}", where="text", fix="decode texts before scoring") from error

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def offsets(self) -> Ints:
        """Where each text starts in `data`; one more entry than texts."""
        large = pa.types.is_large_string(self.texts.type)
        buffer = self.texts.buffers()[1]
        if buffer is None or not len(self):
            return np.zeros(1, np.int64)
        found = np.frombuffer(buffer, np.int64 if large else np.int32)
        return found[self.texts.offset : self.texts.offset + len(self) + 1].astype(np.int64)

    @property
    def n_bytes(self) -> int:
        """Of all texts together."""
        return int(self.offsets[-1] - self.offsets[0])

    @cached_property
    def data(self) -> Bytes:
        """The UTF-8 bytes of all texts (of the whole Arrow buffer; no copy)."""
        buffer = self.texts.buffers()[2]
        return np.frombuffer(buffer, np.uint8) if buffer is not None and buffer.size else np.zeros(1, np.uint8)

    @cached_property
    def first_lines(self) -> Ints:
        """The number of each document's first line in the batch, one more entry than texts.

        A document of more than MOST_LINES lines has none.
        """
        from tilth.quality_signals.fused.kernels import raw

        found = np.empty(len(self), np.int64)
        raw.count_lines(self.data, self.offsets, found)
        return np.concatenate(([0], np.cumsum(np.where(found > MOST_LINES, 0, found))))

    @cached_property
    def _scanned(self) -> tuple[Ints, Ints, npt.NDArray[np.int32]]:
        from tilth.quality_signals.fused.kernels import raw

        n_lines = int(self.first_lines[-1])
        counts, spans, marks = (
            np.empty((len(self), 9), np.int64),
            np.empty((2, n_lines), np.int64),
            np.empty((3, n_lines), np.int32),
        )
        raw.scan(self.data, self.offsets, self.first_lines, code_points().info, counts, spans, marks)
        return counts, spans, marks

    @property
    def raw_counts(self) -> Ints:
        """Documents x 9: the counts that `kernels.raw` names."""
        return self._scanned[0]

    @property
    def lines(self) -> tuple[Ints, npt.NDArray[np.int32]]:
        """2 x lines: start and end in code points from the text's start; 3 x lines: the marks that `kernels.raw` names."""
        return self._scanned[1:]

    @cached_property
    def words(self) -> Words:
        """The words of RedPajama-V2's normal form of each text."""
        from tilth.quality_signals.fused.kernels import words as kernel

        tables, n = code_points(), len(self)
        n_bytes = self.n_bytes
        n_most = n_bytes // 2 + n
        # What is not written takes no memory.
        data, ids, bounds = np.empty(MOST_GROWTH * n_bytes, np.uint8), np.empty(n_most, np.int32), np.empty((2, n + 1), np.int64)
        distinct = DistinctWords.with_room(n_most)
        documents, entropies, lines = np.empty((n, 4), np.int64), np.empty(n), np.empty((4, self.first_lines[-1]), np.int32)
        kernel.index_words(
            self.data, self.offsets, self.first_lines, (tables.info, tables.places, tables.pool),
            data, ids, bounds, distinct, documents, entropies, lines,
        )  # fmt: skip
        found = DistinctWords._make(column[: bounds[1, -1]] for column in distinct)
        return Words(data, ids[: bounds[0, -1]], bounds, found, documents, entropies, lines)

    @property
    def normal_forms(self) -> Words:
        """What has the bytes of the normal forms, as `data`."""
        return self.words

    @cached_property
    def repeated_chars(self) -> Ints:
        """Documents x 9: characters in top n-grams (n = 2, 3, 4) and in repeated ones (n = 5 to 10)."""
        from tilth.quality_signals.fused.kernels import ngrams

        words, out = self.words, np.empty((len(self), 9), np.int64)
        ngrams.repeated_chars(words.ids, words.bounds, words.distinct.counts, words.distinct.lengths, out)
        return out
