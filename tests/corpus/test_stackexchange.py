"""A question with its answers is one document, by numeric score; every other post is a reject; a dump may exceed memory."""

from __future__ import annotations

import bz2
import json
import random
import resource
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import pytest

from tilth.corpus.records import Document, Reject
from tilth.corpus.sources import stackexchange
from tilth.corpus.sources.stackexchange import StackExchange
from tilth.errors import SourceError

Rows = tuple[list[Document], list[Reject]]


def row(number: int, kind: int = 1, **fields: object) -> str:
    given: dict[str, object] = {
        "Id": number, "PostTypeId": kind, "Score": 0, "Body": f"<p>Body {number}</p>", "CreationDate": "2020-01-01T00:00:00.000",
        "OwnerUserId": 10 + number,
    } | fields  # fmt: skip
    return "  <row " + " ".join(f"{name}={quoteattr(str(value))}" for name, value in given.items() if value is not None) + " />\n"


def posts(*rows: str) -> bytes:
    return ('\ufeff<?xml version="1.0" encoding="utf-8"?>\n<posts>\n' + "".join(rows) + "</posts>").encode()


def rows_of(source: StackExchange) -> Rows:
    found = [row for shard in source.plan() for row in source.read(shard)]
    return [row for row in found if isinstance(row, Document)], [row for row in found if isinstance(row, Reject)]


@pytest.fixture
def read(tmp_path: Path) -> Callable[..., Rows]:
    def reader(*rows: str, **options: Any) -> Rows:
        (tmp_path / "Posts.xml").write_bytes(posts(*rows))
        return rows_of(StackExchange("se", str(tmp_path), **options))

    return reader


def test_answers_by_numeric_score_with_provenance(read: Callable[..., Rows]) -> None:
    (document,), rejects = read(
        row(1, Title="Why < how?", Tags="<a-b><c>", Score=3, AcceptedAnswerId=4, Body="<p>q</p><pre><code>x\n  y\n</code></pre>"),
        row(2, 2, ParentId=1, Score=9, OwnerUserId=None, OwnerDisplayName="Gone"), row(3, 2, ParentId=1, Score=10),
        row(4, 2, ParentId=1, Score=-1), row(5, 2, ParentId=1, Score=10, OwnerUserId=None),
        site="coffee.stackexchange.com", min_score=9,
    )  # fmt: skip
    assert not rejects
    assert document.text == "Q: Why < how?\n\nq\n\nx\n  y\n\nA: Body 3\n\nA: Body 5\n\nA: Body 2\n\nA: Body 4"
    assert document.url == "https://coffee.stackexchange.com/questions/1"
    assert document.meta["answer_scores"] == "10, 10, 9, -1"
    assert (document.meta["accepted_answer"], document.meta["tags"], document.meta["score"]) == ("4", "a-b, c", "3")
    assert (document.meta["n_answers"], document.meta["n_answers_min_score"]) == ("4", "3")
    assert json.loads(document.meta["authors"]) == ["user 11", "user 13", "unknown", "Gone", "user 14"]
    (seen,) = document.occurrences
    assert (seen.kind, seen.origin, seen.record_id, seen.date) == (
        "stackexchange",
        "Posts.xml",
        "post 1",
        "2020-01-01T00:00:00.000",
    )
    assert [(claim.spdx, claim.tool, claim.effective) for claim in document.licences] == [("CC-BY-SA-4.0", "CreationDate", True)]


def test_the_licences_of_the_posts(read: Callable[..., Rows]) -> None:
    (document,), _ = read(
        row(1, ContentLicense="CC BY-SA 2.5"), row(2, 2, ParentId=1, ContentLicense="CC BY-SA 4.0"),
        row(3, 2, ParentId=1, CreationDate="2011-04-08T00:00:00"), row(4, 2, ParentId=1, CreationDate="2011-04-07T23:59:59"),
    )  # fmt: skip
    assert [(claim.spdx, claim.evidence_path, claim.effective) for claim in document.licences] == [
        ("CC-BY-SA-2.5", "posts 1, 4", False), ("CC-BY-SA-3.0", "posts 3", False), ("CC-BY-SA-4.0", "posts 2", True),
    ]  # fmt: skip
    (document,), _ = read(row(1, ContentLicense="Own terms"))
    assert [claim.spdx for claim in document.licences] == ["LicenseRef-unknown"]
    (document,), _ = read(row(1), licence="CC0-1.0")
    assert [(claim.spdx, claim.tool) for claim in document.licences] == [("CC0-1.0", "recipe")]


def test_every_post_is_in_a_document_or_a_reject(read: Callable[..., Rows]) -> None:
    documents, rejects = read(
        row(1), row(2, 2, ParentId=1), row(2, 2, ParentId=1), row(3, 2, ParentId=99), row(4, 5), row(5, Body=None), row(6, 2, ParentId=5),
        row(7, DeletionDate="2021"), row(8, Score="many"), row(9, 2, ParentId=None), row(1), row(10, Body="<img>"), row(11, Id="x"),
    )  # fmt: skip
    assert [document.meta["question_id"] for document in documents] == ["1"]
    assert documents[0].meta["n_answers"] == "1"
    assert Counter(reject.reason for reject in rejects) == {
        "duplicate_id": 2, "no_question": 2, "not_question_or_answer": 1, "deleted": 2, "bad_row": 3, "empty": 1,
    }  # fmt: skip


def test_a_broken_row_costs_itself(tmp_path: Path) -> None:
    data = posts(row(1), row(2).replace("/>", "Score='1' />"), row(3), row(4).replace("Body 4", "\x01"), row(5))
    (tmp_path / "Posts.xml").write_bytes(data)
    documents, rejects = rows_of(StackExchange("se", str(tmp_path / "Posts.xml")))
    assert [document.meta["question_id"] for document in documents] == ["1", "3", "5"]
    assert [reject.reason for reject in rejects] == ["bad_xml", "bad_xml"]


def test_names_from_users_and_sites_from_folders(tmp_path: Path) -> None:
    folder = tmp_path / "ai.stackexchange.com"
    folder.mkdir()
    (folder / "Posts.xml").write_bytes(posts(row(1), row(2, 2, ParentId=1, OwnerUserId=-1)))
    source = StackExchange("se", str(tmp_path))
    before = source.plan()[0].fingerprint
    (folder / "Users.xml").write_bytes(
        b"<users><row Id='11' DisplayName='Ann &amp; Bob'/><row Id='-1' DisplayName='Community'/></users>"
    )
    assert source.plan()[0].fingerprint != before
    (document,), rejects = rows_of(source)
    assert not rejects
    assert json.loads(document.meta["authors"]) == ["Ann & Bob", "Community"]
    assert document.url == "https://ai.stackexchange.com/questions/1"


def test_packed_dumps_and_7z(tmp_path: Path) -> None:
    py7zr = pytest.importorskip("py7zr")
    data = posts(row(1, Title="T"), row(2, 2, ParentId=1), row(3, 2, ParentId=9))
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Posts.xml.bz2").write_bytes(bz2.compress(data))
    with py7zr.SevenZipFile(tmp_path / "coffee.stackexchange.com.7z", "w") as archive:
        archive.writestr(data, "Posts.xml")
        archive.writestr(b"<users><row Id='11' DisplayName='Ann'/></users>", "Users.xml")
    packed, sevenz = (
        rows_of(StackExchange("se", str(path))) for path in (tmp_path / "a", tmp_path / "coffee.stackexchange.com.7z")
    )
    assert packed[0][0].text == sevenz[0][0].text == "Q: T\n\nBody 1\n\nA: Body 2"
    assert sevenz[0][0].url == "https://coffee.stackexchange.com/questions/1"
    assert json.loads(sevenz[0][0].meta["authors"]) == ["Ann", "user 12"]
    assert [reject.reason for reject in sevenz[1]] == ["no_question"]
    (both,) = StackExchange("se", str(tmp_path)).plan()
    assert both.params["sites"] == [None, "coffee.stackexchange.com"]
    assert [row.url for row in StackExchange("se", str(tmp_path)).read(both) if isinstance(row, Document)] == [
        None,
        sevenz[0][0].url,
    ]
    assert len(StackExchange("se", str(tmp_path), shard_bytes=1).plan()) == 2
    whole = (tmp_path / "coffee.stackexchange.com.7z").read_bytes()
    (tmp_path / "coffee.stackexchange.com.7z").write_bytes(whole[:40] + bytes(20) + whole[60:])
    documents, rejects = rows_of(StackExchange("se", str(tmp_path / "coffee.stackexchange.com.7z")))
    assert not documents
    assert "damaged" in {reject.reason for reject in rejects}


def test_posts_that_memory_does_not_hold_come_out_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(5)
    rows = [
        row(i) if i % 4 == 1 else row(i, 2, ParentId=chance.randrange(1, 4000, 4), Score=chance.randrange(-5, 30))
        for i in range(1, 4000)
    ]
    chance.shuffle(rows)
    (tmp_path / "Posts.xml").write_bytes(posts(*rows))
    in_memory = rows_of(StackExchange("se", str(tmp_path)))
    monkeypatch.setattr(stackexchange, "SORT_BYTES", 50_000)
    on_disk = rows_of(StackExchange("se", str(tmp_path)))
    assert on_disk == in_memory
    assert sum(1 + int(document.meta["n_answers"]) for document in on_disk[0]) == 3999


def test_memory_stays_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "<p>" + "word " * 2000 + "</p>"
    with (tmp_path / "Posts.xml").open("w") as file:
        file.write("<posts>")
        for i in range(1, 5000):
            file.write(row(i, Body=body) if i < 2500 else row(i, 2, ParentId=i - 2499, Body=body))
        file.write("</posts>")
    monkeypatch.setattr(stackexchange, "SORT_BYTES", 1 << 20)
    source = StackExchange("se", str(tmp_path))
    (shard,) = source.plan()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in source.read(shard)) == 2500  # 2,499 questions, and an answer to one that is not there
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert grown < (tmp_path / "Posts.xml").stat().st_size  # 50 MB of posts


def test_mistakes_of_users(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no such file"):
        StackExchange("se", str(tmp_path / "none.xml")).plan()
    (tmp_path / "a.txt").write_bytes(b"")
    (tmp_path / "b.txt").write_bytes(b"")
    with pytest.raises(SourceError, match=r"no Posts\.xml"):
        StackExchange("se", str(tmp_path)).plan()


@pytest.mark.data
@pytest.mark.parametrize(("folder", "n_rows", "n_questions"), [("se_coffee", 592, 225), ("se_ai", 786, 264)])
def test_real_dumps(folder: str, n_rows: int, n_questions: int, test_data: Path) -> None:
    documents, rejects = rows_of(StackExchange("se", str(test_data / folder), site="x.stackexchange.com"))
    assert len(documents) == n_questions
    assert sum(1 + int(document.meta["n_answers"]) for document in documents) + len(rejects) == n_rows
    assert {reject.reason for reject in rejects} == {"not_question_or_answer"}
    for document in documents:
        scores = [int(score) for score in document.meta.get("answer_scores", "").split(", ") if score]
        assert scores == sorted(scores, reverse=True)
        assert not any(tag in document.text for tag in ("<p>", "</code>", "<li>", "&lt;", "&quot;"))
