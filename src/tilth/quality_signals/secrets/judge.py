"""From candidates to findings: each is held against its format, its checksum, and what stands around it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.secrets.addresses import email_at, is_personal_ip
from tilth.quality_signals.secrets.formats import FORMATS
from tilth.quality_signals.secrets.randomness import is_placeholder, is_random, is_sample, is_strong_password
from tilth.quality_signals.secrets.search import (
    EMAIL,
    IPV4,
    IPV6,
    PASSWORD_NAME,
    PRIVATE_KEY,
    URL,
    Candidate,
    candidates,
    text_of,
)

KINDS = ("email", "key", "password", "ip_address")
MOST_TOKEN, MOST_LATE_TOKEN, MOST_PRIVATE_KEY, LEAST_KEY_BODY = 4096, 256, 16_384, 64


class Finding(NamedTuple):
    """A secret or an address at bytes start:end of a text.

    `kind` is one of KINDS, `what` the format or the rule, and `is_certain` tells that a checksum or an inner form holds.
    """

    start: int
    end: int
    kind: str
    what: str
    is_certain: bool = False


def find_secrets(batch: TextBatch) -> Iterator[list[Finding]]:
    """The findings of each text, in order and without overlaps."""
    found: list[Finding] = []
    document, text, reached = 0, text_of(batch, 0) if len(batch) else memoryview(b""), 0
    for owner, candidate in candidates(batch):
        while document < owner:
            yield _settled(found)
            document, found, reached = document + 1, [], 0
            text = text_of(batch, document)
        # Inside a token nothing else is looked for; so a text made of beginnings of tokens costs no more than others.
        if candidate.at < reached:
            continue
        one = _judged(text, candidate)
        if one is not None:
            found.append(one)
            reached = max(reached, one.end) if candidate.rule >= 0 or candidate.rule == PRIVATE_KEY else reached
    for _ in range(document, len(batch)):
        yield _settled(found)
        found = []


def _settled(found: list[Finding]) -> list[Finding]:
    """In order; those that overlap become one, of the best kind, that reaches as far as any: what one wants gone is gone."""
    kept: list[Finding] = []
    for one in sorted(found):
        if not kept or one.start >= kept[-1].end:
            kept.append(one)
            continue
        best = min(kept[-1], one, key=_rank)
        kept[-1] = best._replace(start=kept[-1].start, end=max(kept[-1].end, one.end))
    return kept


def _rank(one: Finding) -> tuple[bool, int]:
    return one.what == "assignment", ("key", "password", "email", "ip_address").index(one.kind)


def _judged(text: memoryview, candidate: Candidate) -> Finding | None:
    rule, at, start, end = candidate
    if rule >= 0:
        return _token(text, rule, at)
    if rule == PRIVATE_KEY:
        return _private_key(text, at)
    if rule == EMAIL:
        span = email_at(text, at)
        return Finding(*span, "email", "email") if span else None
    if rule in (IPV4, IPV6):
        return Finding(start, end, "ip_address", "ipv4" if rule == IPV4 else "ipv6") if is_personal_ip(text, start, end) else None
    value = bytes(text[start:end])
    if rule == URL:
        return None if _is_made_up(value) else Finding(start, end, "password", "url")
    return _assigned(text, rule, at, start, value)


@cache
def _patterns() -> tuple[re.Pattern[bytes], ...]:
    return tuple(re.compile(f"(?:{one.pattern})(?![A-Za-z0-9])".encode()) for one in FORMATS)


_GOES_ON = re.compile(rb"[A-Za-z0-9_.~-](?<!\\[nrt])\Z")  # a word, unless it is an escape that ends in a letter


def _token(text: memoryview, rule: int, at: int) -> Finding | None:
    form, (least, most) = FORMATS[rule], FORMATS[rule].before
    first = max(0, at - most - 2)  # with the two bytes before it
    window = bytes(text[first : at + (MOST_LATE_TOKEN if most else MOST_TOKEN)])
    for place in range(max(0, at - most), at - least + 1):
        if most and _GOES_ON.search(window, 0, place - first):
            continue
        match = _patterns()[rule].match(window, place - first)
        if match:
            start, end = match.span(form.secret)
            if is_sample(window[start:end], form.varied):
                return None
            return Finding(first + start, first + end, "key", form.name, bool(form.check and form.check(match[0])))
    return None


_BEGIN = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ ){0,2}PRIVATE KEY(?: BLOCK)?-----")
_END = re.compile(rb"-----END (?:[A-Z0-9]+ ){0,2}PRIVATE KEY(?: BLOCK)?-----")
_BODY = re.compile(rb"(?:[A-Za-z0-9+/=\s\"'`,+:;()-]|\\[nrt\\]|Proc-Type|DEK-Info)*")


def _private_key(text: memoryview, at: int) -> Finding | None:
    """A PEM block (RFC 7468), also as the text of a string; what lacks its end reaches to where the base64 ends."""
    begin = _BEGIN.match(bytes(text[at : at + 80]))
    if begin is None:
        return None
    window = bytes(text[at + begin.end() : at + MOST_PRIVATE_KEY]).partition(b"-----BEGIN")[0]
    end = _END.search(window)
    body = window[: end.start()] if end else _body(window)
    letters = re.sub(rb"\\[nrt]|[^A-Za-z0-9+/]", b"", body)
    if len(letters) < LEAST_KEY_BODY or is_sample(letters[:LEAST_KEY_BODY] if end else letters):
        return None
    return Finding(at, at + begin.end() + (end.end() if end else len(body)), "key", "private_key", end is not None)


def _body(window: bytes) -> bytes:
    found = _BODY.match(window)
    return found[0] if found else b""


_URL_WORDS = re.compile(
    rb"(?:pass(?:word|wd|phrase)?|pwd|pw|user(?:name)?|secret|token|key|admin|root|guest|test|foo|bar|baz|hunter2|letmein|postgres|mysql|"
    rb"rabbitmq|redis|mongo|x-oauth-basic|x-access-token|git|hello|world|a|b|p|xxx*)[0-9]{0,4}\Z",
    re.IGNORECASE,
)


def _is_made_up(value: bytes) -> bool:
    """Is a password in a URL one that documentation shows, or a place for one?"""
    if (
        len(value) < 4
        or re.fullmatch(rb"[a-z]{4,7}", value)
        or is_placeholder(value)
        or _URL_WORDS.match(value)
        or not re.search(rb"[A-Za-z0-9]", value)
    ):
        return True
    return re.search(rb"[{}$%\[\]()*|\\,]|^[0-9]{1,5}$", value) is not None


_HASHES = re.compile(
    rb"sha-?(?:1|2|3|224|256|384|512)|md5|hash|digest|checksum|integrity|fingerprint|commit|revision|uuid|guid|etag|public|resolved|"
    rb"csrf|nonce|blake|merkle|sri\b|thumbprint|cursor|(?:page|next|starting|resume|sync)[_-]?token|last_?used|expir|continuation|tokenizer|token_?id|tokens\b|keyboard|passw?\w*hash|salt|"
    rb"module|import ",
    re.IGNORECASE,
)
_IDENTIFIER = re.compile(rb"(?:I[dD]|[_-]id)s?[\"'`\]]*\s*[:=,]")
_UUID = re.compile(rb"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\Z")
_NOT_A_VALUE = re.compile(
    rb"[a-z]+://|[./~]{1,2}/|/[a-z]|[A-Za-z_][\w.]*\(|arn:|data:|[0-9]{4}-[0-9]{2}-[0-9]{2}|sha\d+-|[$%{<]|ssh-|-----|#[0-9a-fA-F]{6}"
)


def _assigned(text: memoryview, rule: int, at: int, start: int, value: bytes) -> Finding | None:
    """A random value that is assigned to what is called a key, a secret, a token; a strong one for a password.

    Hashes and identifiers are as random: their line, or the name before, says what they are.
    """
    if _NOT_A_VALUE.match(value) or _UUID.match(value) or is_placeholder(value):
        return None
    if not (is_random(value) or (rule == PASSWORD_NAME and is_strong_password(value) and not re.search(rb"[\\(){}$]", value))):
        return None
    before = bytes(text[max(0, at - 80) : start]).rpartition(b"\n")[2]
    if _HASHES.search(before) or _IDENTIFIER.search(bytes(text[at:start])):
        return None
    return Finding(start, start + len(value), "password" if rule == PASSWORD_NAME else "key", "assignment")
