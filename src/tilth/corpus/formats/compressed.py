"""Unpacks a gzip, bzip2, xz, zstd, lz4 or plain file as a stream; damage and bombs are reported with their offset, never raised.

After damage reading goes on where the format allows: bzip2 at the next block (blocks carry their own checksum, so a damaged
one never comes out), the others at the next member or frame. What gzip, xz, zstd and lz4 gave out before the damage was
found may itself be damaged: their checksums come last.
"""

from __future__ import annotations

import bz2
import lzma
import re
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, cast

from tilth.corpus.formats import decompressors

PIECE_BYTES = 1 << 16  # compressed bytes taken at a time; a small piece keeps a file of a million empty members linear
OUTPUT_BYTES = 1 << 20
MAGICS = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"),
    "lz4": re.compile(rb"\x04\x22\x4d\x18|[\x50-\x5f]\x2a\x4d\x18"),
}
# bzip2: blocks begin and streams end at any bit; both are marked by 48 bits (the digits of pi, of its square root).
BLOCK_MARK, END_MARK = 0x314159265359, 0x177245385090
MARK_BITS = 48
BINARY = re.compile(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]")
MAX_GAPS = 1000
FAULTS = (OSError, EOFError, ValueError, RuntimeError, MemoryError, zlib.error, lzma.LZMAError)
FREE_AGAIN_BYTES = 64 << 20  # packed bytes that are read again after damage, besides once the file
TRIAL_BYTES, MAX_TRIALS = 4096, 100_000  # of what may be a member
MAX_BLOCK_BYTES = 2 << 20  # compressed; 900 kB that bzip2 cannot compress take a little more than that


@dataclass(frozen=True)
class UnpackLimits:
    """What is still believed: bytes unpacked in all, and how often larger than packed (beyond the first 64 MB)."""

    max_bytes: int = 1 << 44
    max_ratio: int = 1000
    free_bytes: int = 64 << 20


@dataclass(frozen=True)
class Gap:
    """Packed bytes from `offset` on that are lost; `reason` is a word for rejects/1."""

    offset: int
    reason: str  # damaged, truncated, too_large
    detail: str


class CompressedError(Exception):
    """A gap met by a reader that cannot go on after one."""

    def __init__(self, gap: Gap) -> None:
        super().__init__(f"{gap.reason} at byte {gap.offset}: {gap.detail}")
        self.gap = gap


def unpack(
    file: Path | BinaryIO, start: int = 0, end: int | None = None, limits: UnpackLimits | None = None
) -> Iterator[bytes | Gap]:  # fmt: skip
    """Yield the unpacked bytes between the packed offsets `start` and `end`, and a Gap for each loss, in order.

    The file is its path, or open. Its form is told from the first bytes at `start`; what is none of them comes
    out as it is. Ends for any input, in memory that does not grow with it. Raises OSError if the file cannot be read.
    """
    bounds = limits or UnpackLimits()
    n_out = 0
    with _opened(file) as stream:
        packed = _Packed(stream, start, end)
        n_gaps = 0
        for found in FORMS.get(_form(packed), _plain)(packed):
            yield found
            if isinstance(found, Gap):
                n_gaps += 1
                if n_gaps == MAX_GAPS:
                    yield Gap(packed.offset, "damaged", f"given up after {MAX_GAPS} damages")
                    return
            else:
                n_out += len(found)
                n_in = packed.offset - start + PIECE_BYTES
                if n_out > bounds.max_bytes or n_out > bounds.free_bytes + bounds.max_ratio * n_in:
                    yield Gap(packed.offset, "too_large", f"{n_out} bytes unpacked from {n_in}")
                    return


def _opened(file: Path | BinaryIO) -> AbstractContextManager[BinaryIO]:
    return nullcontext(cast(BinaryIO, file)) if hasattr(file, "read") else file.open("rb")


def packed_form(head: bytes) -> str:
    """gzip, bzip2, xz, zstd, lz4 or plain, by the first bytes of a file."""
    if re.match(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", head):
        return "bzip2"
    return next((form for form, magic in MAGICS.items() if magic.match(head)), "plain")


def _form(packed: _Packed) -> str:
    """The form by the first bytes; where these are damaged, which shows in what is no text, by the first member behind them."""
    head = packed.peek(64)
    form = packed_form(head)
    if form != "plain" or not BINARY.search(head):
        return form
    data = packed.peek(OUTPUT_BYTES)
    block = next(_find_marks(data, 0), None)
    found = {} if block is None else {"bzip2": block[0] // 8}
    for name, magic in MAGICS.items():
        trials = (match.start() for match in islice(magic.finditer(data), MAX_GAPS))
        begin = next((at for at in trials if _unpacks(data[at : at + TRIAL_BYTES], DECODERS[name]())), None)
        found |= {} if begin is None else {name: begin}
    return min(found, key=found.__getitem__, default="plain")


class UnpackedFile:
    """`unpack` as a file object to read from; a gap raises CompressedError."""

    def __init__(self, file: Path | BinaryIO, limits: UnpackLimits | None = None) -> None:
        self._parts, self._rest = unpack(file, limits=limits), b""

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes (all if negative), fewer only at the end."""
        found = [self._rest]
        n_bytes = len(self._rest)
        while size < 0 or n_bytes < size:
            part = next(self._parts, None)
            if part is None:
                break
            if isinstance(part, Gap):
                raise CompressedError(part)
            found.append(part)
            n_bytes += len(part)
        data = b"".join(found)
        self._rest = data[size:] if size >= 0 else b""
        return data[:size] if size >= 0 else data


class _Packed:
    """The packed bytes in pieces, with the offset of the next."""

    def __init__(self, file: BinaryIO, start: int, end: int | None) -> None:
        file.seek(start)
        self._file, self.offset, self._end = file, start, end
        self._rest = b""
        self._n_again = self._n_trials = 0

    def read(self, n_bytes: int = PIECE_BYTES) -> bytes:
        found, self._rest = self._rest, b""
        if not found:
            left = n_bytes if self._end is None else min(n_bytes, self._end - self.offset)
            found = self._file.read(max(0, left))
        self.offset += len(found)
        return found

    def push_back(self, data: bytes) -> None:
        self._rest = data + self._rest
        self.offset -= len(data)

    def go_back(self, offset: int) -> None:
        """Read on from an earlier offset, unless too much was read again already."""
        n_bytes = self.offset - offset
        if self._n_again + n_bytes <= FREE_AGAIN_BYTES + self.offset:
            self._n_again += n_bytes
            self._file.seek(offset)
            self.offset, self._rest = offset, b""

    def peek(self, n_bytes: int) -> bytes:
        found = b""
        while len(found) < n_bytes and (more := self.read()):
            found += more
        self.push_back(found)
        return found[:n_bytes]

    def skip_to(self, magic: re.Pattern[bytes], is_begin: Callable[[bytes], bool]) -> bool:
        """Move on to the next place where `magic` matches and the bytes are a beginning; False if there is none."""
        held = b""
        while True:
            more = self.read()
            held += more
            last = len(held) - TRIAL_BYTES if more else len(held)  # where all that a trial needs is at hand
            for match in magic.finditer(held):
                if match.start() > last:
                    break
                self._n_trials += 1
                if self._n_trials > MAX_TRIALS or is_begin(held[match.start() : match.start() + TRIAL_BYTES]):
                    self.push_back(held[match.start() :])
                    return True
            if not more:
                return False
            held = held[max(0, last) :]


def _plain(packed: _Packed) -> Iterator[bytes | Gap]:
    while part := packed.read(OUTPUT_BYTES):
        yield part


def _members(packed: _Packed, form: str, decoder: Callable[[], Any]) -> Iterator[bytes | Gap]:
    """Members one after another; each decoder follows the interface of bz2.BZ2Decompressor."""
    magic = MAGICS[form]
    while head := packed.peek(16):
        if not head.strip(b"\0"):  # padding
            packed.push_back(packed.read().lstrip(b"\0"))
            continue
        start = packed.offset
        if magic.match(head):
            problem = yield from _member(packed, decoder())
        else:
            problem = "damaged", f"not a {form} member: {head[:4].hex()}"
        if problem is not None:
            yield Gap(start, *problem)
            packed.go_back(start + 1)  # damage that is noticed late has swallowed the members behind it
            if not packed.skip_to(magic, lambda head: _unpacks(head, decoder())):
                return


def _unpacks(head: bytes, decoder: Any) -> bool:
    """Whether the beginning of a member can be unpacked as far as it goes: the magic of gzip is three bytes, as any may be."""
    try:
        decoder.decompress(head, TRIAL_BYTES)
    except FAULTS:
        return False
    return True


def _member(packed: _Packed, decoder: Any) -> Generator[bytes, None, tuple[str, str] | None]:
    """Give out one member; returns what was wrong with it as (reason, detail)."""
    data = b""
    while not decoder.eof:
        if decoder.needs_input:
            data = packed.read()
            if not data:
                return "truncated", f"the file ends inside this member, at byte {packed.offset}"
        try:
            part = decoder.decompress(data, OUTPUT_BYTES)
        except FAULTS as error:
            packed.push_back(data[1:])  # a later member may begin in this piece
            return "damaged", str(error) or type(error).__name__
        data = b""
        if part:
            yield part
    packed.push_back(bytes(decoder.unused_data or b""))
    return None


def _bzip2(packed: _Packed) -> Iterator[bytes | Gap]:
    """Blocks one by one, each unpacked as a stream of its own so that its checksum is checked before it comes out."""
    expected: int | None = packed.offset * 8 + 32  # the bit at which a mark must lie, known after each end of a stream
    block: int | None = None
    window = _BitWindow(packed)
    for kind, at in window.marks():
        if expected is not None and at != expected:
            yield Gap(expected // 8, "damaged", "no bzip2 block where one must begin")
        if block is not None:
            yield _unpack_block(window, block, at)
        block = at if kind == BLOCK_MARK else None
        expected = -(-(at + MARK_BITS + 32) // 8) * 8 + 32 if kind == END_MARK else None
    if block is not None:
        yield Gap(block // 8, "truncated", "the file ends inside this bzip2 block")
    elif expected is not None and window.end * 8 != expected - 32 and not window.only_zeros_from(expected // 8 - 4):
        yield Gap(expected // 8 - 4, "damaged", "not a bzip2 stream")


class _BitWindow:
    """The packed bytes from the last mark on, and the marks in them."""

    def __init__(self, packed: _Packed) -> None:
        self._packed, self._data, self._base = packed, b"", packed.offset

    @property
    def end(self) -> int:
        return self._base + len(self._data)

    def marks(self) -> Iterator[tuple[int, int]]:
        """(mark, its bit in the file), in order. What lies more than a block behind is let go."""
        n_seen, last = 0, -1
        while more := self._packed.read(OUTPUT_BYTES):
            self._data += more
            found = sorted(_find_marks(self._data, n_seen))
            for bit, kind in found:
                if self._base * 8 + bit > last:
                    last = self._base * 8 + bit
                    yield kind, last
            n_seen = max(0, len(self._data) - 6)
            keep_from = found[-1][0] // 8 if found else max(0, len(self._data) - MAX_BLOCK_BYTES)
            self._data, self._base, n_seen = self._data[keep_from:], self._base + keep_from, max(0, n_seen - keep_from)

    def bits(self, start: int, end: int) -> tuple[int, int] | None:
        """The bits from `start` to `end` of the file as a number, and how many; None if they were let go."""
        first = start // 8 - self._base
        if first < 0 or end <= start:
            return None
        data = self._data[first : -(-end // 8) - self._base]
        n_bits = end - start
        number = int.from_bytes(data, "big") >> (-end % 8)
        return number & ((1 << n_bits) - 1), n_bits

    def only_zeros_from(self, offset: int) -> bool:
        return not self._data[max(0, offset - self._base) :].strip(b"\0")


def _find_marks(data: bytes, start: int) -> Iterator[tuple[int, int]]:
    """(bit, mark) of every mark in `data` that ends behind byte `start` + 6: at each shift, five whole bytes are looked for."""
    for mark in (BLOCK_MARK, END_MARK):
        for shift in range(8):
            spread = (mark << (8 - shift)).to_bytes(7, "big")
            inner = spread[1:6]
            at = data.find(inner, max(1, start))
            while at >= 0:
                whole = int.from_bytes(data[at - 1 : at + 6].ljust(7, b"\0"), "big") >> (8 - shift)
                if whole & ((1 << MARK_BITS) - 1) == mark and (at + 6 <= len(data) or shift == 0):
                    yield (at - 1) * 8 + shift, mark
                at = data.find(inner, at + 1)


def _unpack_block(window: _BitWindow, start: int, end: int) -> bytes | Gap:
    found = window.bits(start, end)
    if found is None:
        return Gap(start // 8, "damaged", "a bzip2 block without end")
    number, n_bits = found
    checksum = (number >> (n_bits - MARK_BITS - 32)) & 0xFFFFFFFF if n_bits >= MARK_BITS + 32 else 0
    number = (((number << MARK_BITS) | END_MARK) << 32) | checksum
    n_bits += MARK_BITS + 32
    padding = -n_bits % 8
    try:
        return bz2.decompress(b"BZh9" + (number << padding).to_bytes((n_bits + padding) // 8, "big"))
    except (OSError, ValueError, EOFError) as error:
        return Gap(start // 8, "damaged", f"bzip2 block: {error}")


DECODERS: dict[str, Callable[[], Any]] = {
    "gzip": decompressors.Gzip, "xz": decompressors.xz, "zstd": decompressors.Zstd, "lz4": decompressors.lz4,
}  # fmt: skip
FORMS: dict[str, Callable[[_Packed], Iterator[bytes | Gap]]] = {
    **{form: partial(_members, form=form, decoder=decoder) for form, decoder in DECODERS.items()},
    "bzip2": _bzip2,
}
