"""The texts of a batch as Arrow holds them, and what the kernels make of them, each once and only when asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tilth.errors import ContractError
from tilth.quality_signals.fused.code_points import MOST_GROWTH, code_points
from tilth.quality_signals.text_view import normalize

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class NormalForms:
    """Normal forms with lines kept apart by line feeds: document i is `data[spans[i, 0]:spans[i, 1]]`."""

    data: Bytes
    spans: Ints


@dataclass(frozen=True)
class Words:
    """The words of normal forms.

    Document i has words `ends[i]:ends[i + 1]`: byte spans in the normal forms, lengths in code points, and numbers by first
    occurrence in the document; `counts[ends[i] + number]` is how often a number occurs. `documents` (n x 4), `entropies`
    and `lines` (4 x lines) are the columns that `word_kernel` names.
    """

    spans: Ints
    lengths: npt.NDArray[np.int32]
    ends: Ints
    ids: npt.NDArray[np.int32]
    counts: npt.NDArray[np.int32]
    documents: Ints
    entropies: npt.NDArray[np.float64]
    lines: npt.NDArray[np.int32]


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

    @cached_property
    def data(self) -> Bytes:
        """The UTF-8 bytes of all texts (of the whole Arrow buffer; no copy)."""
        buffer = self.texts.buffers()[2]
        return np.frombuffer(buffer, np.uint8) if buffer is not None and buffer.size else np.zeros(1, np.uint8)

    @cached_property
    def raw_counts(self) -> Ints:
        """Documents x 7: the counts that `raw_kernel` names."""
        from tilth.quality_signals.fused import raw_kernel

        out = np.empty((len(self), 7), np.int64)
        raw_kernel.count_raw(self.data, self.offsets, code_points().info, out)
        return out

    @cached_property
    def first_lines(self) -> Ints:
        """The number of each document's first line in the batch; one more entry than texts."""
        from tilth.quality_signals.fused import raw_kernel

        out = np.empty(len(self) + 1, np.int64)
        raw_kernel.count_lines(self.data, self.offsets, out)
        return out

    @cached_property
    def lines(self) -> tuple[Ints, npt.NDArray[np.int32]]:
        """2 x lines: start and end in code points from the text's start; 4 x lines: the marks that `raw_kernel` names."""
        from tilth.quality_signals.fused import raw_kernel

        n_lines = int(self.first_lines[-1])
        spans, marks = np.empty((2, n_lines), np.int64), np.empty((4, n_lines), np.int32)
        raw_kernel.cut_lines(self.data, self.offsets, self.first_lines, code_points().info, spans, marks)
        return spans, marks

    @cached_property
    def ellipsis_lines(self) -> Ints:
        """How many lines of each document end with an ellipsis."""
        from tilth.quality_signals.fused.raw_kernel import LINE_ELLIPSIS

        before = np.zeros(int(self.first_lines[-1]) + 1, np.int64)
        np.cumsum(self.lines[1][LINE_ELLIPSIS], out=before[1:])
        return np.diff(before[self.first_lines])

    @cached_property
    def normal_forms(self) -> NormalForms:
        """RedPajama-V2's normal form of each text, line by line."""
        from tilth.quality_signals.fused import raw_kernel

        tables = code_points()
        n_bytes = int(self.offsets[-1] - self.offsets[0])
        data = np.empty(MOST_GROWTH * n_bytes + 1, np.uint8)
        spans = np.empty((len(self), 2), np.int64)
        raw_kernel.normalise(self.data, self.offsets, tables.info, tables.places, tables.pool, data, spans)
        left = np.flatnonzero(spans[:, 1] < 0)
        if not len(left):
            return NormalForms(data, spans)
        forms = ["\n".join(map(normalize, self.texts[int(index)].as_py().split("\n"))).encode() for index in left]
        written = int(spans[:, 1].max(initial=0))
        written = max(written, 0)
        ends = written + np.cumsum([len(form) for form in forms])
        spans[left, 0], spans[left, 1] = np.concatenate(([written], ends[:-1])), ends
        return NormalForms(np.concatenate((data[:written], np.frombuffer(b"".join(forms) or b"\0", np.uint8))), spans)

    @cached_property
    def words(self) -> Words:
        """The words of the normal forms, numbered."""
        from tilth.quality_signals.fused import word_kernel

        normal = self.normal_forms
        n_most = int((normal.spans[:, 1] - normal.spans[:, 0] + 1).sum()) // 2 + 1
        spans, lengths = np.empty((n_most, 2), np.int64), np.empty(n_most, np.int32)
        ends, lines = np.empty(len(self) + 1, np.int64), np.empty((4, self.first_lines[-1]), np.int32)
        word_kernel.split_words(normal.data, normal.spans, self.first_lines, code_points().info, spans, lengths, ends, lines)
        n_words = int(ends[-1])
        spans, lengths = spans[:n_words], lengths[:n_words]
        ids, counts = np.empty(n_words, np.int32), np.empty(n_words, np.int32)
        documents, entropies = np.empty((len(self), 4), np.int64), np.empty(len(self), np.float64)
        word_kernel.number_words(normal.data, spans, lengths, ends, ids, counts, documents, entropies)
        return Words(spans, lengths, ends, ids, counts, documents, entropies, lines)

    @cached_property
    def repeated_chars(self) -> Ints:
        """Documents x 9: characters in top n-grams (n = 2, 3, 4) and in repeated ones (n = 5 to 10)."""
        from tilth.quality_signals.fused import ngram_kernel

        words = self.words
        out = np.empty((len(self), 9), np.int64)
        ngram_kernel.repeated_chars(words.ids, words.counts, words.lengths, words.ends, out)
        return out
