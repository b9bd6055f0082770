"""Personal data in texts: e-mail addresses, telephone numbers, IP addresses, with their places, and their redaction as edits.

Precision before recall: what looks like a version, a date, an ISBN, a price, a section or a scaled image is left alone,
and so are addresses and numbers that are reserved for examples (RFC 2606, RFC 5737, RFC 3849, 555-01xx). Redaction
writes only such examples, so that redacting a second time changes nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import pyarrow as pa

from tilth.quality_signals.edits import edit_table
from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.registry import BatchScores, batch_signal

REPLACEMENTS = {"email": "email@example.com", "phone": "555-0100", "ipv4": "192.0.2.1", "ipv6": "2001:db8::1"}
_PLACES = pa.list_(pa.int64())


class Found(NamedTuple):
    """Personal data at text[start:end]: `kind` is a key of REPLACEMENTS; of addresses, only public ones are personal."""

    start: int
    end: int
    kind: str
    is_public: bool = True


@batch_signal(
    "pii",
    version=2,
    columns={
        "pii_n_emails": pa.int64(),
        "pii_n_phones": pa.int64(),
        "pii_n_ips": pa.int64(),
        "pii_n_public_ips": pa.int64(),
        **{f"pii_{kind}_{end}": _PLACES for kind in ("email", "phone", "ip") for end in ("starts", "ends")},
        "pii_ip_is_public": pa.list_(pa.bool_()),
    },
)
def pii(batch: TextBatch) -> BatchScores:
    """How often each kind occurs and where, in characters (code points, ends exclusive). IPv4 and IPv6 count as `ip`."""
    found = [find_pii(text.as_py()) for text in batch.texts]
    columns: dict[str, pa.Array] = {}
    for name, kinds in (("email", ("email",)), ("phone", ("phone",)), ("ip", ("ipv4", "ipv6"))):
        chosen = [[one for one in items if one.kind in kinds] for items in found]
        columns[f"pii_n_{name}s"] = pa.array([len(items) for items in chosen], pa.int64())
        columns[f"pii_{name}_starts"] = pa.array([[one.start for one in items] for items in chosen], _PLACES)
        columns[f"pii_{name}_ends"] = pa.array([[one.end for one in items] for items in chosen], _PLACES)
    public = [[one.is_public for one in items] for items in chosen]
    columns["pii_ip_is_public"] = pa.array(public, pa.list_(pa.bool_()))
    columns["pii_n_public_ips"] = pa.array([sum(items) for items in public], pa.int64())
    return BatchScores(columns)


def pii_edits(texts: pa.Array, replacements: Mapping[str, str] = REPLACEMENTS, only_public_ips: bool = True) -> pa.Table:
    """Redaction of texts as edits (see `edits.EDITS`): row, start, end, replacement, reason (`pii_` and the kind).

    Kinds that `replacements` lacks stay.
    """
    return edit_table(
        (row, one.start, one.end, replacements[one.kind], f"pii_{one.kind}")
        for row, text in enumerate(texts)
        for one in find_pii(text.as_py())
        if one.kind in replacements and (one.is_public or not only_public_ips)
    )


def find_pii(text: str) -> list[Found]:
    """All personal data in a text, in order and without overlaps; where two overlap, the one that starts first counts."""
    found = [*_emails(text), *_addresses(text), *_phones(text)]
    found.sort()
    kept: list[Found] = []
    for one in found:
        if not kept or one.start >= kept[-1].end:
            kept.append(one)
    return kept


_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+\Z")
_DOMAIN = re.compile(r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![A-Za-z0-9_@-])")
_NO_DOMAIN = "png jpg jpeg gif svg webp bmp ico css js ts html htm php asp aspx py rb go rs java json xml yml yaml"
_EXAMPLE = re.compile(r"(?:.*\.)?(?:example\.(?:com|org|net)|example|invalid|test|localhost)\Z", re.IGNORECASE)
_LONGEST_LOCAL, _LONGEST_DOMAIN = 64, 255


def _emails(text: str) -> Iterator[Found]:
    at = text.find("@")
    while at >= 0:
        local = _LOCAL.search(text, max(0, at - _LONGEST_LOCAL - 1), at)
        domain = _DOMAIN.match(text, at + 1, at + 1 + _LONGEST_DOMAIN) if local else None
        if local and domain:
            start = at - len(local.group().lstrip("!#$%&'*+/=?^`{|}~.-"))
            is_remote = text[start:at] == "git" or _in_url(text, start)
            in_order = at - _LONGEST_LOCAL <= start < at and ".." not in text[start:at] and text[at - 1] != "."
            top = domain.group().rpartition(".")[2].lower()
            if in_order and not is_remote and top not in _NO_DOMAIN.split() and not _EXAMPLE.match(domain.group()):
                yield Found(start, domain.end(), "email")
        at = text.find("@", at + 1)


def _in_url(text: str, start: int) -> bool:
    """Is this the password before the host of a URL, or a part of its path?"""
    before = text[max(0, start - 200) : start]
    return "://" in before[max(before.rfind(" "), before.rfind("\n")) + 1 :]


_IPV4 = re.compile(r"[0-9](?<![\w.+-].)[0-9]{0,2}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(?![\w-]|\.[0-9])")
_IPV6 = re.compile(r"[0-9A-Fa-f:](?<![\w:.].)[0-9A-Fa-f:]{1,39}+(?!\w|\.[0-9])")
_VERSION = re.compile(
    r"(?:\b(?:v|ver|version|versions|release|firmware|build|revision|section|chapter|figure|table)\W*)\Z", re.IGNORECASE
)
_NETWORK = re.compile(
    r"\b(?:ip|ipv4|addr|address|addresses|host|server|dns|ping|gateway|subnet|proxy|from|nameserver)\b", re.IGNORECASE
)
_SMALL = 32  # parts of versions are mostly below it


def _addresses(text: str) -> Iterator[Found]:
    if text.count(".") >= 3:
        for match in _IPV4.finditer(text):
            parts = list(map(int, match.group().split(".")))
            public = _is_public(match.group())
            if public is None or _VERSION.search(text, max(0, match.start() - 24), match.start()):
                continue
            is_small = max(parts) < _SMALL and len(set(parts)) > 1
            around = text[max(0, match.start() - 40) : match.end() + 4]
            if is_small and not (
                _NETWORK.search(around) or re.match(r":[0-9]{2,5}\b|/[0-9]{1,2}\b", text[match.end() : match.end() + 7])
            ):
                continue
            yield Found(match.start(), match.end(), "ipv4", public)
    if "::" in text or text.count(":") >= 7:
        for match in _IPV6.finditer(text):
            address = match.group()
            if address.endswith(":") and not address.endswith("::"):
                address = address[:-1]
            public = _is_public(address) if address.count(":") > 1 else None
            groups = [group for group in address.split(":") if group]
            # Two colons part the names of programs as well: an address has more parts than that, and digits.
            if public is not None and len(groups) >= 3 and any(map(str.isdigit, address)):
                yield Found(match.start(), match.start() + len(address), "ipv6", public)


@lru_cache(4096)
def _is_public(address: str) -> bool | None:
    """None for what is no address."""
    try:
        return ipaddress.ip_address(address).is_global
    except ValueError:
        return None


_PHONE = re.compile(
    r"[+(0-9](?<![\w.,+/#=@%$€£&\\-].)(?:"
    r"(?<=\+)[1-9][0-9]{0,3}+(?:[ .-]?\([0-9]{1,5}\))?(?:[ ./-]?[0-9]++){1,7}+"  # international
    r"|(?<=\()[2-9][0-9]{2}\)[ .-]?[2-9][0-9]{2}[ .-][0-9]{4}"  # (415) 555-2671
    r"|(?<=1)[ .-]\(?[2-9][0-9]{2}\)?[ .-][2-9][0-9]{2}[ .-][0-9]{4}"
    r"|(?<=[2-9])[0-9]{2}([ .-])[2-9][0-9]{2}\1[0-9]{4}"
    r"|(?<=0)[1-9](?:[ .-]?[0-9]{2}){4}"  # 01 23 45 67 89
    r"|(?<=[(0])0?[1-9][0-9]{1,4}\)?[ ./-]?[0-9]{3,8}(?:[ -]?[0-9]{2,4}){0,3}"  # 030 1234567
    r"|(?<=[2-9])[0-9]{9}"
    r")(?!\w|[.,/:=-][0-9]|[ -][0-9]|@|%)"
)
_SPOKEN = re.compile(
    r"(?:\b(?:tel|phone|telephone|telefon|téléphone|tél|teléfono|telefono|fon|fax|mobile|mobil|móvil|cell|call|whatsapp|hotline"
    r"|dial|contact|sms|text)\b|☎|📞)\D{0,20}\Z",
    re.IGNORECASE,
)
_OTHER_NUMBER = re.compile(
    r"\b(?:isbn|issn|doi|order|invoice|serial|part|item|sku|arxiv|pmid|oclc|lccn|gtin|ean|upc|id)\b\D{0,12}\Z", re.IGNORECASE
)
_FICTIONAL = re.compile(r"55501[0-9]{2}\Z")


def _phones(text: str) -> Iterator[Found]:
    for match in _PHONE.finditer(text):
        number = match.group()
        digits = re.sub(r"[^0-9]", "", number)
        if _FICTIONAL.search(digits) or not _is_phone(text, match.start(), number, digits):
            continue
        yield Found(match.start(), match.end(), "phone")


def _is_phone(text: str, start: int, number: str, digits: str) -> bool:
    before = text[max(0, start - 40) : start]
    if _OTHER_NUMBER.search(before) or len(set(digits)) < 3:
        return False
    n_groups = len(re.findall("[0-9]+", number))
    if number[0] == "+":
        # Sums and offsets have a plus too: their digits come in one group that is shorter than a number with its country.
        return 8 <= len(digits) <= 15 and (n_groups > 1 or len(digits) >= 11)
    if len(digits) < 8 or len(digits) > 12:
        return False
    is_american = re.fullmatch(r"(?:1[ .-])?(?:\([2-9]\d\d\)[ .-]?|[2-9]\d\d[.-])[2-9]\d\d[.-]\d{4}", number)
    return bool(is_american or _SPOKEN.search(before))
