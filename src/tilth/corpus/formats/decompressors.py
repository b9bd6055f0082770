"""Decompressors with one interface, that of bz2.BZ2Decompressor: eof, unused_data, needs_input, decompress(data, max_length)."""

from __future__ import annotations

import lzma
import zlib
from typing import Any

WINDOW_LOG = 27  # of zstd: 128 MB, what `zstd --long` writes at most
XZ_MEMORY_BYTES = 1 << 27


class Gzip:
    """One gzip member."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(31)

    eof = property(lambda self: self._inflate.eof)
    unused_data = property(lambda self: self._inflate.unused_data)
    needs_input = property(lambda self: not self._inflate.unconsumed_tail)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """The next at most `max_length` bytes. Raises zlib.error."""
        return self._inflate.decompress(self._inflate.unconsumed_tail + data, max_length)


class Zstd:
    """One zstd frame, with a dictionary where it needs one."""

    def __init__(self, dictionary: Any = None) -> None:
        from backports import zstd

        options = {int(zstd.DecompressionParameter.window_log_max): WINDOW_LOG}
        self._frame, self._error = zstd.ZstdDecompressor(zstd_dict=dictionary, options=options), zstd.ZstdError

    eof = property(lambda self: self._frame.eof)
    unused_data = property(lambda self: self._frame.unused_data)
    needs_input = property(lambda self: self._frame.needs_input)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        """The next at most `max_length` bytes. Raises ValueError for what is no frame."""
        try:
            return self._frame.decompress(data, max_length)
        except self._error as error:
            raise ValueError(str(error)) from None


def xz() -> Any:
    """One xz stream."""
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)


def lz4() -> Any:
    """One lz4 frame."""
    import lz4.frame

    return lz4.frame.LZ4FrameDecompressor()
