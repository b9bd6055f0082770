"""Texts as the bytes and offsets that compiled loops read, without a Python string for any of them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Bytes = npt.NDArray[np.uint8]
Offsets = npt.NDArray[np.int64]


class Utf8(NamedTuple):
    """Texts back to back: text i is data[offsets[i] : offsets[i + 1]]; `offsets` begins at 0 and has one more than texts."""

    data: Bytes
    offsets: Offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def to_arrow(self) -> pa.LargeStringArray:
        """The same texts as an Arrow array, which shares the memory."""
        return pa.LargeStringArray.from_buffers(len(self), pa.py_buffer(self.offsets), pa.py_buffer(self.data))


def utf8(texts: pa.Array | pa.ChunkedArray) -> Utf8:
    """The texts of `texts` (string or large_string; a null counts as empty). One chunk without nulls is not copied."""
    array = texts.combine_chunks() if isinstance(texts, pa.ChunkedArray) else texts
    if isinstance(array, pa.ChunkedArray):  # Arrow keeps several chunks where one would be too large
        array = pa.concat_arrays([chunk.cast(pa.large_string()) for chunk in array.chunks])
    array = array.cast(pa.large_string())
    array = array.fill_null("") if array.null_count else array
    if not len(array):
        return Utf8(np.zeros(0, np.uint8), np.zeros(1, np.int64))
    _, offset_buffer, data_buffer = array.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[array.offset : array.offset + len(array) + 1]
    data = np.frombuffer(data_buffer, np.uint8) if data_buffer else np.zeros(0, np.uint8)
    return Utf8(data[offsets[0] : offsets[-1]], offsets - offsets[0])
