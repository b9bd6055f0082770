"""Requests in many spellings, what answers to them, and records without what was withdrawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.corpus.optout.requests import Request, read_requests, repository_names, split_place, user_of
from tilth.corpus.optout.subjects import Wanted
from tilth.corpus.optout.withdrawn import Withdrawn, document_digest, occurrence_digest, reject_digest, without
from tilth.corpus.records import Document, LicenceClaim, Occurrence, Reject
from tilth.errors import UserError

KEY = b"k" * 32
SPELLINGS = [
    "https://github.com/Octo/Plough.git", "http://www.github.com/octo/plough/", "git@github.com:octo/plough.git",
    "github.com:OCTO/plough.git", "ssh://git@github.com/octo/plough", "https://name:word@github.com/octo/plough",
]  # fmt: skip


@pytest.mark.parametrize("origin", SPELLINGS)
def test_a_repository_is_the_same_in_every_spelling(origin: str) -> None:
    assert repository_names(origin) == ["github.com/octo/plough", "octo/plough"]
    assert user_of(origin) == "octo"
    assert split_place(f"{origin}:src/a:b.py") == (origin, "src/a:b.py")
    assert wanted("repo", "octo/plough").repository(origin)
    assert wanted("user", "@OCTO").repository(origin)
    assert wanted("path", "Octo/plough:src/A.py").place(origin, "src/A.py")
    assert not wanted("path", "octo/plough:src/A.py").place(origin, "src/a.py")
    assert not wanted("user", "plough").repository(origin)
    assert wanted("path", f"{origin}:x").reject(f"{SPELLINGS[0]}:x")


@pytest.mark.parametrize("origin", ["plough", "numpy==2.1", "file.warc.gz", "https://example.org"])
def test_what_has_no_account_belongs_to_nobody(origin: str) -> None:
    assert user_of(origin) is None
    assert wanted("repo", origin).repository(origin.upper())


def test_pages_of_a_repository_and_packages_of_any_version_answer_as_well() -> None:
    assert wanted("repo", "https://github.com/octo/plough").page("https://github.com/octo/plough/issues/3")
    assert not wanted("repo", "https://github.com/octo/plough").page("https://github.com/octo/plough-2/issues/3")
    assert wanted("user", "octo").page("https://github.com/Octo/plough")
    assert not wanted("user", "octo").page("https://example.org/octo/plough"), "folders of the web are no accounts"
    assert wanted("repo", "NumPy").repository("numpy==2.1")
    assert wanted("repo", "pkg:npm/%40octo/plough").repository("pkg:npm/%40octo/plough@1.0")
    assert not wanted("repo", "pkg:npm/plough@2").repository("pkg:npm/plough@1.0")
    assert wanted("path", "pkg:npm/plough@1.0:docs/a:b.md").place("pkg:npm/plough@1.0", "docs/a:b.md")
    assert wanted("path", "pkg:npm/plough@1.0:a.md").reject("pkg:npm/plough@1.0:a.md")


@pytest.mark.parametrize(("kind", "text"), [("user", "Octo"), ("repo", "github.com/octo/plough")])
def test_a_package_answers_by_the_repository_that_it_states(kind: str, text: str) -> None:
    row = {"meta": [("repository", "https://github.com/octo/plough")], "raw_swhid": "", "text_swhid": "", "url": None, "text": ""}
    assert wanted(kind, text).document(row)
    assert not wanted(kind, text).document({**row, "meta": [("repository", "https://github.com/other/plough")]})


def wanted(kind: str, text: str) -> Wanted:
    return Wanted(KEY, {kind: {Request.parse(kind, text).digest(KEY)}})


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("commit", "abc"), ("swhid", "swh:1:rel:" + "0" * 40), ("swhid", "cnt"), ("email", "nobody"), ("path", "no-colon"),
        ("path", "a:"), ("user", "@"), ("name", "x"),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(kind: str, text: str) -> None:
    with pytest.raises(UserError):
        Request.parse(kind, text)


def test_a_file_of_requests(tmp_path: Path) -> None:
    path = tmp_path / "asked"
    path.write_text("# of July\n\nuser Octo\n--email  A@b.org \npath o/p:My File.py\n")
    assert read_requests(path) == [Request("user", "octo"), Request("email", "a@b.org"), Request("path", "o/p:My File.py")]
    path.write_text("user Octo\ncommit\n")
    with pytest.raises(UserError) as raised:
        read_requests(path)
    assert str(raised.value.where).endswith(":2")


def test_an_address_is_matched_whole() -> None:
    row = {"raw_swhid": "", "text_swhid": "", "url": None, "meta": [], "text": "<b@c.org>, write to a.b@c.org.uk or x@d.io."}
    assert wanted("email", "B@C.org").document(row)
    assert wanted("email", "x@d.io").document(row)
    assert not wanted("email", "b@c.org.uk").document(row)
    assert wanted("user", "octo").document({**row, "meta": [("author", "Octo")]})


def document(*places: tuple[str, str]) -> Document:
    claims = [LicenceClaim(origin, path, "MIT", "file", path, None, "t", 1.0) for origin, path in dict.fromkeys(places)]
    occurrences = [Occurrence("git", origin, path, revision=f"r{i}") for i, (origin, path) in enumerate(places)]
    return Document(b"d" * 16, "text", "swh:1:cnt:0", "utf-8", "as it is", occurrences, licences=claims)


def test_an_occurrence_goes_with_its_licence_and_the_last_one_with_the_document() -> None:
    record, places = document(("a", "x"), ("b", "y"), ("a", "x")), [("a", "x", None), ("b", "y", "r1")]
    digests = [occurrence_digest(KEY, record.doc_id, *place) for place in places]
    (kept,) = without([record], Withdrawn(occurrences=frozenset(digests[:1])), KEY)
    assert isinstance(kept, Document)
    assert [(one.origin, one.path) for one in kept.occurrences] == [("b", "y")]
    assert [one.origin for one in kept.licences] == ["b"]
    (gone,) = without([record], Withdrawn(occurrences=frozenset(digests)), KEY)
    assert isinstance(gone, Reject)
    assert gone.reason == "withdrawn"


def test_one_commit_alone_can_go() -> None:
    record = document(("a", "x"), ("a", "x"))
    digest = occurrence_digest(KEY, record.doc_id, "a", "x", "r1")
    (kept,) = without([record], Withdrawn(occurrences=frozenset([digest])), KEY)
    assert isinstance(kept, Document)
    assert [one.revision for one in kept.occurrences] == ["r0"]
    assert kept.licences == record.licences


@given(st.lists(st.sampled_from(["document", "reject", "other"]), max_size=8))
def test_as_many_records_come_out_as_go_in(kinds: list[str]) -> None:
    made = {"document": document(("a", "x")), "reject": Reject("a:x", "binary", ""), "other": Reject("a:y", "binary", "")}
    withdrawn = Withdrawn(frozenset([document_digest(b"d" * 16)]), frozenset(), frozenset([reject_digest(KEY, "a:x")]))
    found = list(without([made[kind] for kind in kinds], withdrawn, KEY))
    assert len(found) == len(kinds)
    assert [one == made["other"] for one in found] == [kind == "other" for kind in kinds]
    assert all(isinstance(one, Reject) and (one.reason == "withdrawn" or one.location == "a:y") for one in found)
