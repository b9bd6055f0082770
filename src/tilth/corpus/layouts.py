"""Which field of a record is the text, the id, the URL, the language; all others become `meta`.

The layouts of datatrove, dolma and RedPajama are known and told apart by their fields.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, LicenceClaim, Occurrence, Reject, document_id, printable, screen
from tilth.errors import SourceError, did_you_mean

# documents/2023-06/0000/en_head.json.gz: the id of a document is this path and its line, from 0
REDPAJAMA_V2_PATH = re.compile(r"(?:^|/)(\d{4}-\d{2}/\d{4}/[a-z]{2}_(?:head|middle|tail|all)\.json)(?:\.gz)?$")


@dataclass(frozen=True)
class Layout:
    """The names of fields; `nested` are objects whose fields are taken as if they stood in the record itself."""

    text: str = "text"
    id: str | None = "id"
    url: str | None = "url"
    language: str | None = "language"
    nested: tuple[str, ...] = ()


LAYOUTS = {
    "plain": Layout(),
    "datatrove": Layout(nested=("metadata",)),
    "dolma": Layout(nested=("metadata",)),
    "redpajama-v1": Layout(id=None, nested=("meta",)),
    "redpajama-v2": Layout(text="raw_content", id=None),
}
NAMES = ("auto", *LAYOUTS)


@dataclass(frozen=True)
class Place:
    """Where a record is: `location` for rejects, `path` and `record_id` for its occurrence, `parts` for its identity."""

    location: str
    path: str
    record_id: str
    offset: int | None
    raw: bytes | None  # as archived; None where the format has no bytes for one record


def choose_layout(layout: str, fields: Mapping[str, str | None], where: str) -> Layout | None:
    """The layout by name with the fields that a recipe names instead; None for `auto`. Raises SourceError for an unknown name."""
    if layout not in NAMES:
        raise SourceError(f"no such layout: `{layout}`", where=where, fix=did_you_mean(layout, NAMES))
    given: dict[str, Any] = {key: value for key, value in fields.items() if value is not None}
    if layout == "auto" and not given:
        return None
    return replace(LAYOUTS["plain" if layout == "auto" else layout], **given)


def detect_layout(fields: Iterable[str]) -> str:
    """The name of the layout that a record with these fields has."""
    present = set(fields)
    if "raw_content" in present and "text" not in present:
        return "redpajama-v2"
    if "meta" in present and "metadata" not in present:
        return "redpajama-v1"
    if {"source", "added"} <= present or {"source", "created"} <= present:
        return "dolma"
    return "datatrove" if "metadata" in present else "plain"


class RecordReader:
    """Turns records into documents for one source."""

    def __init__(self, name: str, kind: str, layout: Layout | None, licence: str | None) -> None:
        self.name, self.kind, self.layout = name, kind, layout
        self.licence = licence

    def row(self, record: Any, place: Place) -> Document | Reject:
        """A document, or a reject: not_an_object, missing_text, wrong_type, empty, nul_byte, lone_surrogate, too_deep."""
        if not isinstance(record, Mapping):
            return Reject(place.location, "not_an_object", f"a {type(record).__name__}, not an object with fields")
        detected = detect_layout(record) if self.layout is None else ""
        layout = self.layout or LAYOUTS[detected]
        text = record.get(layout.text)
        if text is None:
            reason = f"no `{layout.text}` among {', '.join(sorted(map(str, record)))[:200]}"
            return Reject(place.location, "missing_text", reason)
        if not isinstance(text, str):
            return Reject(place.location, "wrong_type", f"`{layout.text}` is a {type(text).__name__}, not a string")
        if unfit := screen(text):
            return Reject(place.location, *unfit)
        try:
            data = text.encode("utf-8")
            values = self._values(record, layout)
        except RecursionError:
            return Reject(place.location, "too_deep", "fields are nested deeper than Python writes JSON")
        except UnicodeEncodeError as error:
            return Reject(place.location, "lone_surrogate", f"U+{ord(text[error.start]):04X} at character {error.start}")
        raw = place.raw if place.raw is not None else data
        return self._document(text, raw, values, layout, place, detected)

    def _values(self, record: Mapping[str, Any], layout: Layout) -> dict[str, str]:
        values: dict[str, str] = {}
        for name in layout.nested:
            inner = record.get(name)
            if isinstance(inner, str):
                inner = _json_object(inner) or inner
            nested = inner if isinstance(inner, Mapping) else {name: inner}
            values |= {printable(str(key)): printable(as_text(value)) for key, value in nested.items() if value is not None}
        own = {str(key): value for key, value in record.items() if key != layout.text and key not in layout.nested}
        return values | {printable(key): printable(as_text(value)) for key, value in own.items() if value is not None}

    def _document(self, text: str, raw: bytes, meta: dict[str, str], layout: Layout, place: Place, detected: str) -> Document:
        url = meta.pop(layout.url, None) if layout.url else None
        language = meta.pop(layout.language, None) if layout.language else None
        given = meta.pop(layout.id, None) if layout.id else None
        if given is not None:
            meta["id"] = given
        if layout.text == "raw_content" and (known := REDPAJAMA_V2_PATH.search(place.path)):
            meta["rpv2_id"] = f"{known[1]}.gz/{int(place.record_id) - 1}"
        swhid = content_swhid(raw)
        claims = []
        if self.licence:
            claims = [LicenceClaim(self.name, place.path, self.licence, "declared", "", None, "recipe", 1.0, effective=True)]
        return Document(
            doc_id=document_id(self.kind, self.name, place.path, place.record_id, swhid), text=text, raw_swhid=swhid,
            encoding="utf-8", extraction=f"as archived{f' ({detected})' if detected else ''}",
            url=url or None, language=language or None, meta=meta, licences=claims,
            occurrences=[Occurrence(self.kind, self.name, place.path, record_id=place.record_id, offset=place.offset)],
        )  # fmt: skip


def as_text(value: Any, default: Callable[[Any], Any] = str) -> str:
    """A value of `meta`: strings as they are, all else as JSON with sorted fields; dates as ISO 8601."""
    if isinstance(value, str):
        return value
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=default)


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
