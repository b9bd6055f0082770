"""Reads the records of a large XML file (pages, rows) one at a time, in bounded memory; damage costs the record that it is in.

No document type is believed: a DTD, and with it every entity that it could declare, is damage. After damage
reading goes on at the next record.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from tilth.corpus.formats.compressed import Gap

SLICE_BYTES = 1 << 18
ELEMENT_COST = 100  # what an element counts against the limit of its record besides its characters
HEAD_BYTES = 200
MAX_TAG_BYTES = 4 << 20  # a row of a StackExchange dump is one tag
DECLARED = re.compile(rb"(?:\xef\xbb\xbf)?<\?xml[^>]{1,100}?encoding\s*=\s*[\"']([A-Za-z0-9._:-]{1,40})[\"']")
UTF16 = {"utf-16-le": re.compile(rb"\xff\xfe|<\0[^\0]\0"), "utf-16-be": re.compile(rb"\xfe\xff|\0<\0[^\0]")}


@dataclass(frozen=True)
class XmlRecords:
    """What to read: elements named in `records` come out whole, in the order of their ends.

    A record inside another (a revision of a page) comes out alone and is no child of the outer. After
    damage, reading goes on at the next `restart` element, as a child of `root`.
    """

    root: str
    records: frozenset[str]
    restart: str
    max_record_chars: int = 64 << 20
    max_depth: int = 32


@dataclass
class XmlElement:
    """An element; `offset` is that of its `<` in the unpacked file (after UTF-16 became UTF-8)."""

    name: str
    attributes: dict[str, str]
    offset: int
    parent: XmlElement | None
    text: str = ""
    children: list[XmlElement] = field(default_factory=list)

    def child(self, name: str) -> XmlElement | None:
        """The first child of that name."""
        return next((child for child in self.children if child.name == name), None)

    def child_text(self, name: str) -> str:
        """The text of the first child of that name, without surrounding space; empty if there is none."""
        found = self.child(name)
        return found.text.strip() if found else ""


@dataclass(frozen=True)
class XmlDamage:
    """Something lost at `offset`; `reason` is a word for rejects/1. `packed` says that the offset is of the packed file."""

    offset: int
    reason: str  # bad_xml, forbidden_dtd, truncated, too_large, too_deep, or the reason of a Gap
    detail: str
    packed: bool = False


def read_xml(
    parts: Iterable[bytes | Gap], wanted: XmlRecords, starts_inside: bool = False, ends_inside: bool = False
) -> Iterator[XmlElement | XmlDamage]:  # fmt: skip
    """Yield the wanted records and every damage of the unpacked bytes, in order. Ends for any input.

    A part of a file may start or end inside the root, between two records.
    """
    reader = XmlReader(wanted, starts_inside, ends_inside)
    for part in parts:
        yield from reader.gap(part) if isinstance(part, Gap) else reader.feed(part)
    yield from reader.close()


class XmlReader:
    """The same for bytes that are pushed: `feed` them, tell of each `gap` between them, `close`."""

    def __init__(self, wanted: XmlRecords, starts_inside: bool = False, ends_inside: bool = False) -> None:
        self._wanted, self._starts_inside, self._ends_inside = wanted, starts_inside, ends_inside
        self._restart = re.compile(rb"<%b(?=[\s/>])" % wanted.restart.encode())
        self._root: XmlElement | None = None
        self._encoding = "utf-8"
        self._decoder: codecs.IncrementalDecoder | None = None
        self._head: bytes | None = b""  # the first bytes, until they tell the encoding
        self._fed = 0  # unpacked bytes taken so far
        self._tail = b""  # the last of them, from the tag on that is not complete
        self._seeking = False
        self._begun = self._failed = -1  # where this run of the parser began, where the last one failed
        self._parser: _Parser | None = None

    def feed(self, data: bytes) -> Iterator[XmlElement | XmlDamage]:
        """Take in the next bytes; yields what is complete with them."""
        if self._head is not None:
            self._head += data
            if len(self._head) >= HEAD_BYTES:
                yield from self._begin_file()
            return
        yield from self._decode(data)

    def _begin_file(self) -> Iterator[XmlElement | XmlDamage]:
        data, self._head = self._head or b"", None
        self._choose_encoding(data)
        self._start(self._starts_inside)
        # whatever encoding it is told, expat takes a NUL at the start for UTF-16; another control character is as wrong
        yield from self._decode(b"\1" + data[1:] if data[:1] == b"\0" and not self._decoder else data)

    def _decode(self, data: bytes) -> Iterator[XmlElement | XmlDamage]:
        for at in range(0, len(data), SLICE_BYTES):
            piece = data[at : at + SLICE_BYTES]
            yield from self._take(self._decoder.decode(piece).encode() if self._decoder else piece)

    def _choose_encoding(self, head: bytes) -> None:
        mark = next((name for name, begins in UTF16.items() if begins.match(head)), None)
        declared = DECLARED.match(head)
        if mark:
            self._decoder = codecs.getincrementaldecoder(mark)("replace")
        elif declared and not declared[1].lower().startswith(b"utf-16"):
            self._encoding = declared[1].decode("ascii")

    def gap(self, gap: Gap) -> Iterator[XmlElement | XmlDamage]:
        """Some bytes are missing here: the record that they were in is lost, reading goes on at the next."""
        if self._head:
            yield from self._begin_file()
        yield XmlDamage(gap.offset, gap.reason, gap.detail, packed=True)
        if self._parser is not None and self._parser.open_record is not None:
            yield self._lost("truncated", "the rest of it is damaged")
        self._seeking, self._tail = True, b""
        self._head = None

    def close(self) -> Iterator[XmlElement | XmlDamage]:
        """The file ends here; yields what was not complete."""
        if self._head:
            yield from self._begin_file()
        if self._fed == 0 and not self._seeking:
            yield XmlDamage(0, "empty", "no XML in the file")
        while self._parser is not None and not self._seeking and (damage := self._unfinished(self._parser)):
            yield damage
            # a tag that never ends may have swallowed records
            begin = self._fed - len(self._tail)
            resume = max(self._parser.here() + 1, begin)
            data = self._tail[resume - begin :]
            self._fed, self._tail, self._seeking = resume, b"", True
            yield from self._take(data)

    def _unfinished(self, parser: _Parser) -> XmlDamage | None:
        if parser.open_record is not None:
            return self._lost("truncated", "the file ends inside it")
        if parser.depth > 1 or (parser.depth == 1 and not self._ends_inside):
            return XmlDamage(self._fed, "truncated", f"the file ends before </{self._wanted.root}>")
        if parser.depth == 0 and not parser.root:
            return XmlDamage(parser.here(), "bad_xml", "no element in the file")
        return None

    def _lost(self, reason: str, detail: str) -> XmlDamage:
        assert self._parser is not None
        assert self._parser.open_record is not None
        record = self._parser.open_record
        return XmlDamage(record.offset, reason, f"{record.name}: {detail}")

    def _start(self, inside: bool, offset: int = 0) -> None:
        self._parser = _Parser(self._wanted, self._encoding, offset)
        if inside:
            name = self._root.name if self._root else self._wanted.root
            self._parser.enter(name, self._root)

    def _take(self, data: bytes) -> Iterator[XmlElement | XmlDamage]:
        while data:
            if self._seeking:
                held = self._tail + data
                match = self._restart.search(held)
                if match is None:
                    self._fed += len(data)
                    self._tail = held[-64:]
                    return
                begin = self._fed - len(self._tail) + match.start()
                self._start(True, begin)
                self._begun = begin
                self._seeking, self._tail = False, b""
                data, self._fed = held[match.start() :], begin
            assert self._parser is not None
            damage = self._parser.feed(data, self._fed)
            yield from self._parser.take()
            self._root = self._parser.root or self._root
            held, begin = self._tail + data, self._fed - len(self._tail)
            if damage is None:
                self._fed += len(data)
                self._tail = held[max(0, min(self._parser.here(), self._fed - 64) - begin) :]
                return
            failed = self._parser.last_error
            again = failed == self._begun  # no further than the restart that began this run
            if not (again and failed == self._failed):  # else it is the same damage, met a second time
                yield damage
            self._failed = failed
            self._fed = max(failed + again, begin)
            data, self._tail, self._seeking = held[self._fed - begin :], b"", True


class _StopError(Exception):
    """Raised inside a callback of the parser: (reason, detail, offset). expat's own offset moves on before Parse returns."""


class _Parser:
    """One run of expat, up to the first error."""

    def __init__(self, wanted: XmlRecords, encoding: str, offset: int) -> None:
        self._wanted = wanted
        self._expat = expat.ParserCreate(encoding)
        self._expat.buffer_text = True
        self._expat.buffer_size = SLICE_BYTES
        self._expat.StartElementHandler = self._begin
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._characters
        self._expat.StartDoctypeDeclHandler = self._doctype
        self._shift = offset  # expat's offsets count from here
        self._found: list[XmlElement | XmlDamage] = []
        self._open: list[XmlElement] = []  # from the outermost record on
        self._chars: list[list[str]] = []  # the text of each
        self._left = wanted.max_record_chars
        self.root: XmlElement | None = None
        self.open_record: XmlElement | None = None
        self.depth = 0
        self.last_error = 0

    def enter(self, name: str, root: XmlElement | None) -> None:
        """Begin inside the root element, which lies somewhere before."""
        tag = b"<%b>" % name.encode()
        self._shift -= len(tag)
        self._expat.Parse(tag)
        self.root = root or self.root

    def feed(self, data: bytes, offset: int) -> XmlDamage | None:
        """Parse the bytes at `offset`; returns the damage that ends this run."""
        end = offset + len(data)
        try:
            self._expat.Parse(data)
        except _StopError as stop:
            reason, detail, at = stop.args
        except expat.ExpatError as error:
            reason, detail, at = "bad_xml", expat.ErrorString(error.code), self.here()
        except (LookupError, ValueError) as error:  # an encoding that nobody knows
            reason, detail, at = "bad_xml", str(error), self.here()
        else:
            waiting = end - self.here()
            if waiting <= MAX_TAG_BYTES:
                return None
            reason, detail, at = "too_large", f"a tag of more than {waiting} bytes", self.here()
        self.last_error = min(max(at, 0), end)
        record = self.open_record
        place = record.offset if record is not None else self.last_error
        return XmlDamage(place, reason, f"{record.name if record else 'between records'}: {detail}, at byte {self.last_error}")

    def take(self) -> list[XmlElement | XmlDamage]:
        found, self._found = self._found, []
        return found

    def here(self) -> int:
        """The offset of what expat works on, or waits for the end of."""
        return self._expat.CurrentByteIndex + self._shift

    def _doctype(self, *declared: object) -> None:
        raise _StopError("forbidden_dtd", "a document type declaration", self.here())

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        self.depth += 1
        if self.depth > self._wanted.max_depth:
            raise _StopError("too_deep", f"elements are nested more than {self._wanted.max_depth} deep", self.here())
        name = name.rpartition(":")[2]
        is_record = name in self._wanted.records
        if self.depth == 1:
            self.root = XmlElement(name, attributes, self.here(), None)
        if not is_record and not self._open:
            return
        if is_record and any(outer.name == name for outer in self._open):
            raise _StopError("bad_xml", f"<{name}> inside <{name}>", self.here())
        parent = self._open[-1] if self._open else self.root
        element = XmlElement(name, attributes, self.here(), parent)
        if is_record:
            self.open_record = element
            self._left = self._wanted.max_record_chars
        elif parent is not None and self._left >= 0:
            parent.children.append(element)
        self._left -= ELEMENT_COST + sum(map(len, attributes.values()))
        self._open.append(element)
        self._chars.append([])

    def _characters(self, data: str) -> None:
        if self._chars:
            self._left -= len(data)
            if self._left >= 0:
                self._chars[-1].append(data)

    def _end(self, name: str) -> None:
        self.depth -= 1
        if not self._open:
            return
        element = self._open.pop()
        element.text = "".join(self._chars.pop())
        if element is self.open_record:
            if self._left >= 0:
                self._found.append(element)
            else:
                most = self._wanted.max_record_chars
                self._found.append(XmlDamage(element.offset, "too_large", f"{element.name}: more than {most} characters"))
            outer = [open_ for open_ in self._open if open_.name in self._wanted.records]
            self.open_record = outer[-1] if outer else None
            self._left = self._wanted.max_record_chars
