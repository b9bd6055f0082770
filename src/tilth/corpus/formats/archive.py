"""Reads the records of a WARC or ARC file one at a time and goes on after damage; every loss is reported with its offset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tilth.corpus.formats.archive_feed import SEAM_BYTES, Feed, Gap, Place
from tilth.corpus.formats.archive_formats import MAX_HEAD_BYTES, WARC, Format, Head, NoHead
from tilth.corpus.locations import open_raw

MAX_SEPARATOR_BYTES = 16
SCAN_BYTES = 1 << 16


@dataclass(frozen=True)
class ArchivedRecord:
    """A record whose block is complete; header names are lower case, `kind` too.

    `offset` counts bytes of the file where records begin with its members, else of what the file holds;
    `inner` is how far into its member a record begins that, among such, does not.
    """

    offset: int
    kind: str
    headers: dict[str, str]
    block: bytes
    inner: int = 0

    @property
    def place(self) -> str:
        """The offset, with `+inner` where there is one."""
        return f"{self.offset}+{self.inner}" if self.inner else str(self.offset)


@dataclass(frozen=True)
class Damage:
    """Something at `offset` that is lost; `reason` is a word for rejects/1."""

    offset: int
    reason: str  # truncated, bad_record, too_large, empty
    detail: str

    @property
    def place(self) -> str:
        """The offset."""
        return str(self.offset)


def read_archive(
    location: str | Path, kinds: frozenset[str], max_block_bytes: int, form: Format = WARC
) -> Iterator[ArchivedRecord | Damage]:  # fmt: skip
    """Yield the records of `kinds` and every damage, in the order of the file (gzip, zstd or lz4 by record or whole, or plain).

    After damage it goes on at the next member or at the next line that begins a record; one loss without a
    whole record in between is one damage. Ends for any input, having read the file at most 17 times over, in memory
    of about twice `max_block_bytes`. A record is given out when its length is right and, where it has a
    member of its own, when its checksum is. Raises SourceError if the file cannot be read.
    """
    with open_raw(str(location)) as file:
        yield from _Reader(Feed(file, form.begins, form.find_start), kinds, max_block_bytes, form).read()


class _Reader:
    def __init__(self, feed: Feed, kinds: frozenset[str], max_block_bytes: int, form: Format) -> None:
        self.feed, self.kinds, self.max_block_bytes, self.form = feed, kinds, max_block_bytes, form
        self.by_member: bool | None = False if feed.form == "plain" else None  # None: not known yet
        self.n_found = 0
        self.is_lost = False  # what lies here belongs to a loss that was reported
        self.lost_member = -1  # a member of one record that is reported as lost

    def read(self) -> Iterator[ArchivedRecord | Damage]:
        feed = self.feed
        while True:
            while feed.fill(64) and (blank := len(feed.peek(64)) - len(feed.peek(64).lstrip(b"\r\n"))):
                feed.take(blank)
            if feed.fill(1):
                yield from self._record()
                continue
            gap = feed.gap or Gap(feed.size, "", "")
            if not gap.reason:
                break
            if not self.is_lost:
                yield Damage(self._gap_offset(gap), gap.reason, gap.detail)
            self.is_lost = True
            feed.cross()
            self._find_start()
        if feed.is_worn_out:
            yield Damage(self._offset(feed.place())[0], "bad_record", "given up: too much of the file had to be read again")
        elif not self.n_found and not self.is_lost:
            yield Damage(0, "empty", "no record in the file")

    def _record(self) -> Iterator[ArchivedRecord | Damage]:
        """What lies here: a record, or a damage and the search for the next record."""
        feed = self.feed
        place = feed.place()
        head = self._head()
        if isinstance(head, NoHead):
            if (head.begun and not self._is_known(place)) or not self.is_lost:
                offset = self._lose_member(place)
                problem = feed.gap if head.is_cut and feed.gap and feed.gap.reason else None
                feed.take(1)
                self.is_lost = True
                follows = self._find_start()
                reason = problem.reason if problem else "truncated" if head.is_cut and not follows else "bad_record"
                yield Damage(offset, reason, problem.detail if problem else head.problem)
            else:
                feed.take(1)
                self._find_start()
            return
        kind = head.headers["warc-type"].lower()
        if head.length > self.max_block_bytes:
            yield from self._too_large(place, head, kind)
            return
        problem = self._block_problem(head)
        offset, inner = self._offset(place)
        if problem is not None:
            yield from self._lose(place, problem)
            return
        self.n_found += 1
        self.is_lost = False
        block = feed.peek(head.length, head.size) if kind in self.kinds else b""
        feed.take(head.size + head.length)
        if kind in self.kinds:
            yield ArchivedRecord(offset, kind, head.headers, block, inner)
        elif kind not in self.form.kinds:
            yield Damage(offset, "bad_record", f"no {self.form.name} record is a {kind[:40]!r}")

    def _head(self) -> Head | NoHead:
        n_bytes = 4096
        while True:
            n_here = self.feed.fill(n_bytes)
            is_all = n_here < n_bytes
            head = self.form.head(self.feed.peek(n_bytes), is_all)
            if isinstance(head, Head) or is_all or not head.is_cut:
                return head
            if n_bytes >= MAX_HEAD_BYTES:
                return head._replace(is_cut=False)
            n_bytes *= 4

    def _block_problem(self, head: Head) -> Gap | None:
        """Have the block at hand; what is wrong with it, None if nothing."""
        feed = self.feed
        n_bytes = head.size + head.length
        n_here = feed.fill(n_bytes + MAX_SEPARATOR_BYTES + 1)
        member = feed.place()
        starts = [at for at in feed.starts_within(min(n_here, n_bytes + 1)) if self.form.begins(feed.peek(SEAM_BYTES, at))]
        if starts and starts[0] < n_bytes:
            return Gap(member.member, "bad_record", f"{max(0, starts[0] - head.size)} of {head.length} bytes of block")
        gap = feed.gap if n_here < n_bytes + MAX_SEPARATOR_BYTES + 1 else None
        if n_here < n_bytes:
            detail = f"{max(0, n_here - head.size)} of {head.length} bytes of block"
            return Gap(member.member, gap.reason, f"{gap.detail}; {detail}") if gap and gap.reason else Gap(0, "", detail)
        if gap and gap.reason and gap.offset == member.member and member.inner == 0:
            return gap
        behind = feed.peek(SEAM_BYTES, n_bytes)
        n_blank = len(behind) - len(behind.lstrip(b"\r\n"))
        if len(behind) < SEAM_BYTES and not behind.strip(b"\r\n\0"):  # a file that ends in padding
            return None
        follows = n_blank == len(behind) or self.form.begins(behind[n_blank:]) or n_bytes in feed.starts_within(n_bytes + 1)
        if follows or (n_blank and not self._holds_start(head.size, n_bytes)):
            return None
        return Gap(member.member, "bad_record", f"the block of {head.length} bytes does not end where it should")

    def _holds_start(self, begin: int, end: int) -> bool:
        """Whether a record begins in the bytes at hand from `begin` to `end`: then the length that says `end` is wrong."""
        step = SCAN_BYTES - SEAM_BYTES
        pieces = (self.feed.peek(SCAN_BYTES, at) for at in range(begin, end, step))
        found = ((at, self.form.find_start(piece)) for at, piece in zip(range(begin, end, step), pieces))
        return any(start is not None and at + start < end for at, start in found)

    def _lose(self, place: Place, problem: Gap) -> Iterator[Damage]:
        """Report the record at hand as lost and look for the next."""
        is_known = self._is_known(place)
        offset = self._lose_member(place)
        self.feed.take(1)
        self.is_lost = True
        follows = self._find_start()
        if is_known:
            return
        yield Damage(offset, problem.reason or ("bad_record" if follows else "truncated"), problem.detail)

    def _too_large(self, place: Place, head: Head, kind: str) -> Iterator[Damage]:
        """Pass a block that is never held; go back and look inside if its length was wrong."""
        feed = self.feed
        n_bytes = head.size + head.length
        n_there = feed.skip(n_bytes)
        offset, _ = self._offset(place)
        behind = feed.peek(2) if feed.fill(2) else b""
        if n_there == n_bytes and (not behind or behind.startswith((b"\r", b"\n")) or feed.place().inner == 0):
            self.n_found += 1
            self.is_lost = False
            if kind in self.kinds:
                yield Damage(offset, "too_large", f"{head.length} bytes of block, at most {self.max_block_bytes}")
            return
        gap = feed.gap if n_there < n_bytes else None
        detail = f"{max(0, n_there - head.size)} of {head.length} bytes of block"
        if (gap and gap.reason == "too_large") or (n_there < n_bytes and feed.place().inner == 0 and not (gap and gap.reason)):
            yield Damage(
                offset, gap.reason if gap and gap.reason else "bad_record", f"{gap.detail if gap else ''} {detail}".strip()
            )
            self.is_lost = True
            return
        problem = Gap(
            place.member, gap.reason if gap else "bad_record", f"{gap.detail}; {detail}" if gap and gap.detail else detail
        )
        feed.rewind(place)
        if feed.fill(1):
            yield from self._lose(place, problem)
        else:
            yield Damage(offset, problem.reason or "truncated", problem.detail)

    def _find_start(self) -> bool:
        """Go on to where the next record can begin, across gaps; False if there is none."""
        feed = self.feed
        while not feed.is_worn_out:
            n_here = min(feed.fill(SCAN_BYTES), SCAN_BYTES)
            if n_here == 0:
                if not (feed.gap and feed.gap.reason):
                    return False
                feed.cross()
                continue
            data = feed.peek(n_here)
            starts = [0] * (feed.place().inner == 0) + feed.starts_within(n_here)
            found = next((at for at in starts if self.form.begins(feed.peek(SEAM_BYTES, at))), n_here)
            at = self.form.find_start(data)
            if found < n_here or at is not None:
                feed.take(min(found, n_here if at is None else at))
                return True
            feed.take(max(1, n_here - SEAM_BYTES) if n_here == SCAN_BYTES else n_here)
        return False

    def _is_known(self, place: Place) -> bool:
        """Whether the place is in a member that is reported: what looks like a record in it is none."""
        return self.is_lost and bool(self.by_member) and place.member == self.lost_member

    def _lose_member(self, place: Place) -> int:
        self.lost_member = place.member
        return self._offset(place)[0]

    def _offset(self, place: Place) -> tuple[int, int]:
        """(offset, inner) as ArchivedRecord has them."""
        if self.by_member is None and place.position:
            self.by_member = place.inner == 0
        if self.by_member is None:
            return place.member, 0
        return (place.member, place.inner) if self.by_member else (place.position, 0)

    def _gap_offset(self, gap: Gap) -> int:
        return gap.offset if self.by_member is not False or self.feed.form == "plain" else self.feed.position
