"""Personal data is found where it is, and what only looks like it is left alone."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.quality_signals.edits import EDITS, apply_edits
from tilth.quality_signals.families.pii import REPLACEMENTS, find_pii, pii, pii_edits
from tilth.quality_signals.fused.text_batch import TextBatch

PERSONAL = [
    ("Write to jane.doe+news@mail.uni-koeln.de, please.", "jane.doe+news@mail.uni-koeln.de", "email"),
    ("<mailto:o'neill@firm.co.uk>", "o'neill@firm.co.uk", "email"),
    ("(me_2@x.io)", "me_2@x.io", "email"),
    ("Call (415) 867-5309 now", "(415) 867-5309", "phone"),
    ("415-867-5309", "415-867-5309", "phone"),
    ("Fax 1-415-867-5309.", "1-415-867-5309", "phone"),
    ("+44 20 7946 0958 (London)", "+44 20 7946 0958", "phone"),
    ("ring +4915112345678!", "+4915112345678", "phone"),
    ("Tel.: 030 1234567", "030 1234567", "phone"),
    ("tél. 01 23 45 67 89", "01 23 45 67 89", "phone"),
    ("Phone: 4158675309", "4158675309", "phone"),
    ("from 81.2.69.142 port 22", "81.2.69.142", "ipv4"),
    ("http://81.2.69.142:8080/x", "81.2.69.142", "ipv4"),
    ("DNS is 8.8.8.8.", "8.8.8.8", "ipv4"),
    ("ping 1.2.3.4", "1.2.3.4", "ipv4"),
    ("at 2a00:1450:4001:81b::200e: up", "2a00:1450:4001:81b::200e", "ipv6"),
    ("[2606:4700:4700::1111]", "2606:4700:4700::1111", "ipv6"),
]
NOT_PERSONAL = [
    "version 1.2.3.4 is out",
    "v10.4.7.2",
    "Chapter 1.2.3.4 Methods",
    "kernel 5.10.0.20",
    "1.2.3.4.5 and 1.3.6.1.4.1.311",
    "300.1.2.3 and 01.02.03.04",
    "package-81.2.69.142-r1",
    "icon@2x.png and @media and me@localhost",
    "git@github.com:user/repo.git",
    "https://user:pass@host.com/path",
    "jane@example.com, bob@mail.example.org",
    "2020-01-15 12:30:45 and 15.01.2020",
    "ISBN 978-0-306-40615-7, ISBN 0306406152",
    "$1,234,567.89 and 1 000 000 000",
    "deadbeef0123456789 0x4158675309",
    "550e8400-e29b-41d4-a716-446655440000",
    "arXiv:2112.11446, doi 10.1000/182",
    "(555) 555-0123",
    "std::vector and a::b::c and ::1",
    "00:1A:2B:3C:4D:5E",
    "3.1415926535 8979323846",
    "415 867 5309 rows",
    "1234567890123456",
    "+1000000 and x+4158675309",
    "192.0.2.1 and 2001:db8::1",
]


@pytest.mark.parametrize(("text", "expected", "kind"), PERSONAL)
def test_personal_data_is_found_to_the_character(text: str, expected: str, kind: str) -> None:
    assert [(text[one.start : one.end], one.kind, one.is_public) for one in find_pii(text)] == [(expected, kind, True)]


@pytest.mark.parametrize("text", NOT_PERSONAL)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert [text[one.start : one.end] for one in find_pii(text) if one.is_public] == []


def test_private_addresses_are_told_apart() -> None:
    columns = pii(
        TextBatch(pa.array(["host 10.0.0.1, host 81.2.69.142, fe80::1:2:3", "é🙂 jane@firm.de"], pa.large_string()))
    ).columns
    assert columns["pii_n_ips"].to_pylist() == [3, 0]
    assert columns["pii_n_public_ips"].to_pylist() == [1, 0]
    assert columns["pii_ip_is_public"].to_pylist() == [[False, True, False], []]
    assert columns["pii_email_starts"].to_pylist() == [[], [3]]  # characters, not bytes
    assert columns["pii_email_ends"].to_pylist() == [[], [15]]


def test_redaction_is_data_until_it_is_applied() -> None:
    texts = pa.array(["no", "🙂 jane@firm.de or 81.2.69.142, not host 10.0.0.1"], pa.large_string())
    edits = pii_edits(texts)
    assert edits.schema.equals(EDITS)
    assert edits.to_pylist()[0] == {"row": 1, "start": 2, "end": 14, "replacement": "email@example.com", "reason": "pii_email"}
    assert apply_edits(texts, edits)[1].as_py() == "🙂 email@example.com or 192.0.2.1, not host 10.0.0.1"
    assert (
        apply_edits(texts, pii_edits(texts, {"ipv4": "?"}, only_public_ips=False))[1].as_py()
        == "🙂 jane@firm.de or ?, not host ?"
    )


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([text for text, *_ in PERSONAL] + NOT_PERSONAL), st.text("0123456789+.-() :@aZé/\n", max_size=25)
        ),
        max_size=6,
    )
)
def test_redacting_twice_changes_nothing_more(pieces: list[str]) -> None:
    text = " ".join(pieces)
    found = find_pii(text)
    assert all(0 <= one.start < one.end <= len(text) and one.kind in REPLACEMENTS for one in found)
    assert all(one.end <= after.start for one, after in pairwise(found))
    texts = pa.array([text], pa.large_string())
    redacted = apply_edits(texts, pii_edits(texts))
    personal = [redacted[0].as_py()[one.start : one.end] for one in find_pii(redacted[0].as_py()) if one.is_public]
    assert personal == []


@pytest.mark.parametrize("piece", ["1:", "a@", "1.", "+1", "(2", "0 ", "a.b@c.", "::", "1-", "9"])
def test_time_grows_with_the_length_alone(piece: str) -> None:
    start = time.process_time()
    find_pii(piece * (200_000 // len(piece)))
    assert time.process_time() - start < 5


@pytest.mark.data
def test_real_documents_against_datatroves_formatter(test_data: Path) -> None:
    formatters = pytest.importorskip("datatrove.pipeline.formatters", reason="datatrove is not installed")
    theirs = formatters.PIIFormatter()
    n_same = n_examples = 0
    for line in (test_data / "rpv2_reference" / "docs.jsonl").read_bytes().splitlines():
        text = json.loads(line)["raw_content"]
        ours = {(one.start, one.end) for one in find_pii(text) if one.kind == "email"}
        for match in theirs.emails_replacer.regex.finditer(text):
            n_same += match.span() in ours
            n_examples += match.span() not in ours and ("example." in match.group() or "/" in match.group())
            assert match.span() in ours or "example." in match.group() or "/" in match.group(), match.group()
            ours.discard(match.span())
        assert not ours, "an address that datatrove does not see"
    assert (n_same > 200, n_examples > 10) == (True, True)
