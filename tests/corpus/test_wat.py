"""WAT records become what a page says of itself; their links and metas are kept; damage is a reject."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilth.corpus.sources.wat import Wat

Make = Callable[..., bytes]
PAGE = {
    "Head": {
        "Title": "A  title",
        "Metas": [
            {"name": "Description", "content": "What it is about"},
            {"property": "og:type", "content": "article"},
            {"name": "description", "content": "again"},
        ],
        "Link": [{"path": "LINK@/href", "url": "/style.css", "rel": "stylesheet"}],
    },
    "Links": [
        {"path": "A@/href", "url": "/a", "text": "Read more"},
        {"path": "A@/href", "url": "/b", "text": "Read more"},
        {"path": "IMG@/src", "url": "/c.png", "alt": "A picture"},
    ],
}


def envelope(page: Any = None, status: str = "200", kind: str = "response") -> bytes:
    answer: dict[str, Any] = {"Response-Message": {"Status": status}}
    if page is not None:
        answer["HTML-Metadata"] = page
    return json.dumps({
        "Container": {"Filename": "CC-1.warc.gz", "Offset": "4321"},
        "Envelope": {
            "WARC-Header-Metadata": {"WARC-Type": kind, "WARC-Target-URI": "http://example.org/", "WARC-Record-ID": "<urn:x>"},
            "Payload-Metadata": {"HTTP-Response-Metadata": answer},
        },
    }).encode()  # fmt: skip


@pytest.fixture
def read(tmp_path: Path, rows: Callable[..., Any], warc_record: Make) -> Callable[..., Any]:
    def reader(*blocks: bytes, **options: Any) -> Any:
        data = b"".join(warc_record(block, kind="metadata", Content_Type="application/json") for block in blocks)
        (tmp_path / "a.wat").write_bytes(data)
        return rows(Wat("links", str(tmp_path / "a.wat"), **options))

    return reader


def test_what_a_page_says_of_itself(read: Callable[..., Any]) -> None:
    found = read(envelope(PAGE), envelope(kind="request"), envelope(kind="warcinfo"))
    assert found.texts == ["A title\nWhat it is about\nRead more\nA picture"]
    (row,) = found.documents
    meta = dict(row["meta"])
    assert (row["url"], meta["title"], meta["description"], meta["n_links"]) == (
        "http://example.org/",
        "A title",
        "What it is about",
        "4",
    )
    assert json.loads(meta["metas"]) == {"description": "What it is about", "og:type": "article"}
    assert json.loads(meta["links"])[1:3] == [["/a", "Read more"], ["/b", "Read more"]]
    wat, warc = found.occurrences
    assert (wat["kind"], wat["origin"], wat["offset"]) == ("wat", "a.wat", 0)
    assert (warc["kind"], warc["origin"], warc["offset"], warc["record_id"]) == ("warc", "CC-1.warc.gz", 4321, "<urn:x>")
    assert not found.rejects
    assert len(json.loads(dict(read(envelope(PAGE), max_links=2).documents[0]["meta"])["links"])) == 2


def test_rejects_and_their_reasons(read: Callable[..., Any]) -> None:
    found = read(
        b"{", b"[]", envelope(), envelope(PAGE, status="404"), envelope({"Head": {}}), b"[" * 100_000, envelope({"x": 1})
    )
    assert found.reasons == ["bad_record", "bad_record", "not_html", "http_error", "empty", "bad_record", "empty"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.sampled_from(["Title", "Metas", "Link", "url", "text"]), part),
    max_leaves=12,
)


@given(page=st.dictionaries(st.sampled_from(["Head", "Links", "Metas"]), JSON, min_size=1))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_metadata_is_a_row(read: Callable[..., Any], page: Any) -> None:
    found = read(envelope(page))
    assert len(found.documents) + len(found.rejects) == 1


@pytest.mark.data
def test_a_real_file(test_data: Path, rows: Callable[..., Any]) -> None:
    """Its only record is about a request: no page, no row, no complaint."""
    found = rows(Wat("cc", str(test_data / "whirlwind_cc" / "*.wat.gz")))
    assert (len(found.documents), len(found.rejects)) == (0, 0)
