"""An issue is one document in StarCoder's form, whatever files and order its events come in; what is damaged costs itself."""

from __future__ import annotations

import gzip
import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tilth.corpus.github import event_files
from tilth.corpus.github.bots import is_bot_name
from tilth.corpus.github.comment_text import truncated, without_html_comments, without_mail
from tilth.corpus.github.names import Names
from tilth.corpus.provenance.disk_objects import read_disk_folder
from tilth.corpus.records import Document, Reject
from tilth.corpus.sources.github_issues import GitHubIssues
from tilth.errors import SourceError
from tilth.tokenize.thread_markers import ISSUE_MARKERS, PLACES, read_places

Rows = tuple[list[Document], list[Reject]]
Read = Callable[..., Rows]


@pytest.fixture
def read(tmp_path: Path, gharchive: ModuleType) -> Read:
    def reader(*events: Any, **options: Any) -> Rows:
        gharchive.write(tmp_path / "hours", *events)
        found: Rows = gharchive.rows_of(GitHubIssues("issues", str(tmp_path / "hours"), **options))
        return found

    return reader


def markers(document: Document) -> list[str]:
    """The markers that were set, by their places."""
    data = document.text.encode()
    return [data[at : data.index(b">", at) + 1].decode() for at in read_places(document.meta[PLACES])]


def test_the_form_with_its_provenance(read: Read, gharchive: ModuleType) -> None:
    (document,), rejects = read(
        gharchive.opened(1, "It breaks."), gharchive.comment(2, "Octo", "Which one, @Ann?\r\nSay."), gharchive.closed(3, "Octo"),
        gharchive.comment(4, "ann", "The big one, octo."), gharchive.closed(5, "ann", "reopened"), gharchive.closed(6),
    )  # fmt: skip
    assert not rejects
    assert document.text == (
        "<issue_start>Title: The plough breaks\nusername_0: It breaks."
        "<issue_comment>username_1: Which one, @username_0?\nSay.<issue_closed>"
        "<issue_comment>username_0: The big one, username_1.<issue_closed>"
    )
    assert markers(document) == ["<issue_start>", "<issue_comment>", "<issue_closed>", "<issue_comment>", "<issue_closed>"]
    assert document.url == "https://github.com/octo/plough/issues/3"
    (seen,) = document.occurrences
    assert (seen.kind, seen.origin, seen.path) == ("github_issue", "https://github.com/octo/plough", "issues/3")
    assert seen.date == gharchive.moment(0)
    assert [(claim.spdx, claim.effective) for claim in document.licences] == [("LicenseRef-unknown", True)]
    meta = {name: document.meta[name] for name in ("n_users", "n_events", "n_text_chars", "is_closed", "title", "number")}
    assert meta == {
        "n_users": "2", "n_events": "6", "n_text_chars": "49", "is_closed": "true", "title": "The plough breaks", "number": "3",
    }  # fmt: skip
    assert json.loads(document.meta["logins"]) == ["Octo", "ann"]


def test_no_login_is_left_in_the_text_and_no_word_is_torn(read: Read, gharchive: ModuleType) -> None:
    shown = {"opener": "test", "title": "A test"}
    text = "TEST: testing of test-bed by test_, see test-er and attest"
    (document,), _ = read(
        gharchive.comment(2, "test-er", "I, Test-ER, tested", body=text, **shown), gharchive.closed(3, "closer", body=text, **shown),
        gharchive.comment(4, "x", "@closer, why?", body=text, **shown),
    )  # fmt: skip
    assert document.text.startswith(
        "<issue_start>Title: A username_0\nusername_0: username_0: testing of test-bed by username_0_, see username_1 and attest"
    )
    assert "username_1: I, username_1, tested" in document.text
    assert document.text.endswith("<issue_comment>username_2: @username_3, why?"), "who only closes comes last"


def test_words_of_bots_go_and_what_called_them(read: Read, gharchive: ModuleType) -> None:
    (document,), _ = read(
        gharchive.opened(1, "It breaks."), gharchive.comment(2, "cy", "/retest"), gharchive.comment(3, "farm-ci", "Passed."),
        gharchive.comment(4, "octo", "Good."), gharchive.comment(5, "stale[bot]", "Closing."), gharchive.closed(6, "stale[bot]"),
    )  # fmt: skip
    assert document.text == (
        "<issue_start>Title: The plough breaks\nusername_0: It breaks.<issue_comment>username_1: Good.<issue_closed>"
    )
    assert (document.meta["n_bot_events"], document.meta["n_users"], document.meta["n_events"]) == ("3", "2", "2")


def test_of_an_issue_of_a_bot_the_title_stays(read: Read, gharchive: ModuleType) -> None:
    by_bot = gharchive.opened(1, "Bumped.", opener="farm-build")
    (document,), _ = read(by_bot, gharchive.comment(2, "ann", "Why?", opener="farm-build"))
    assert document.text == "<issue_start>Title: The plough breaks<issue_comment>username_0: Why?"
    assert document.meta["is_bot_opened"] == "true"
    documents, (reject,) = read(by_bot, gharchive.comment(2, "other[bot]", "Why?", opener="farm-build"))
    assert not documents
    assert (reject.reason, reject.location) == ("only_bots", "https://github.com/octo/plough:issues/3")


def test_github_says_who_is_a_bot(read: Read, gharchive: ModuleType) -> None:
    said = gharchive.comment(2, "harvester", "Closing.")
    said["payload"]["comment"]["user"]["type"] = "Bot"
    (document,), _ = read(gharchive.opened(1), said)
    assert "Closing" not in document.text


def test_edits_the_newest_wins_and_deleted_comments_are_gone(read: Read, gharchive: ModuleType) -> None:
    (document,), _ = read(
        gharchive.opened(1, "First text"), gharchive.comment(2, "octo", "One", item=2), gharchive.comment(3, "octo", "Two", item=3),
        gharchive.comment(4, "octo", "One, edited", item=2, action="edited"),
        gharchive.comment(5, "octo", "Two", item=3, action="deleted"),
        gharchive.event(6, "IssuesEvent", "ann", {"action": "edited", "issue": gharchive.issue("Last text", title="New title")}),
    )  # fmt: skip
    assert document.text == ("<issue_start>Title: New title\nusername_0: Last text<issue_comment>username_1: One, edited")


def test_an_issue_whose_opening_is_elsewhere_is_known_by_its_comments(read: Read, gharchive: ModuleType) -> None:
    (document,), _ = read(gharchive.comment(7, "octo", "Which one?"))
    assert document.text == ("<issue_start>Title: The plough breaks\nusername_0: It breaks.<issue_comment>username_1: Which one?")
    assert document.occurrences[0].date == gharchive.moment(0)


def test_the_format_before_2015(read: Read, gharchive: ModuleType) -> None:
    old = [gharchive.old_issue_event("opened", 3), gharchive.old_issue_event("closed", 3, "2012/03/11 01:02:03 -0700", "octo")]
    comment = {**gharchive.old_issue_event("x", 3), "type": "IssueCommentEvent", "payload": {"issue_id": 1, "comment_id": 2}}
    documents, rejects = read(*old, comment)
    assert not documents
    assert Counter(reject.reason for reject in rejects) == {"no_text": 2}
    (document,), rejects = read(*old, comment, gharchive.comment(1, "cy", "Still so."))
    assert [reject.reason for reject in rejects] == ["no_text"]
    assert document.text == (
        "<issue_start>Title: The plough breaks\nusername_0: It breaks.<issue_closed><issue_comment>username_1: Still so."
    )
    assert json.loads(document.meta["logins"]) == ["ann", "cy", "octo"]


def test_every_line_is_in_a_document_or_told(read: Read, gharchive: ModuleType) -> None:
    twice = gharchive.comment(2, "octo", "One")
    pull = gharchive.issue(pull_request={"url": "https://api.github.com/repos/octo/plough/pulls/3"})
    nothing = {"html_url": None, "diff_url": None, "patch_url": None}
    documents, rejects = read(
        gharchive.opened(1), twice, twice, b"", b"{bad", b'["IssuesEvent"]', b"\xff\xfe", b'{"a":' * 60_000, b'"IssuesEvent"',
        gharchive.event(3, "PushEvent", "ann", {"commits": [{"message": '"type":"IssuesEvent"'}]}), b'{"type":"IssuesEvent"}',
        gharchive.event(4, "IssuesEvent", "ann", {"action": "opened", "issue": gharchive.issue(number=-1)}),
        gharchive.event(5, "IssuesEvent", "ann", None), {**gharchive.opened(6), "created_at": "yesterday"},
        {**gharchive.opened(7), "repo": {"id": 7, "name": "/"}},
        gharchive.event(8, "IssueCommentEvent", "ann", {"action": "created", "issue": pull, "comment": {"id": 1, "body": "x"}}),
        gharchive.event(9, "IssueCommentEvent", "cy", {
            "action": "created", "issue": gharchive.issue(pull_request=nothing),
            "comment": {"id": 9, "body": None, "user": None, "created_at": None},
        }),
    )  # fmt: skip
    assert [document.meta["number"] for document in documents] == ["3"]
    assert Counter(reject.reason for reject in rejects) == {
        "duplicate_event": 1, "invalid_json": 1, "not_an_object": 2, "decode": 1, "too_deep": 1, "bad_event": 5, "other_events": 1,
    }  # fmt: skip
    assert [reject.detail for reject in rejects if reject.reason == "other_events"] == ["1 of other kinds, 1 of other threads"]
    assert "2016-01-02-3.json.gz:5" in {reject.location for reject in rejects}


def test_nothing_that_is_null_or_unfit_costs_the_issue(read: Read, gharchive: ModuleType) -> None:
    shown = {"title": "T \ud800", "body": None}
    said = gharchive.comment(2, "octo", "a\0b \ud83d c 🌱 <issue_closed>", **shown)
    gone = gharchive.comment(3, "x", "Gone?", **shown)
    gone["actor"] = None
    gone["payload"]["comment"]["user"] = None
    (document,), _ = read(gharchive.opened(1, None, title="T \ud800"), said, gone)
    assert document.text == (
        "<issue_start>Title: T \ufffd\nusername_0: <issue_comment>username_1: a\ufffdb \ufffd c 🌱 <issue_closed>"
        "<issue_comment>username_2: Gone?"
    )
    assert document.encoding == "utf-8+replace"
    assert markers(document) == ["<issue_start>", "<issue_comment>", "<issue_comment>"], "letters are no markers"
    assert set(markers(document)) <= set(ISSUE_MARKERS)


def test_files_and_order_change_nothing(tmp_path: Path, gharchive: ModuleType) -> None:
    events = [gharchive.opened(1), gharchive.closed(9)]
    events += [gharchive.comment(2 + i, f"user{i % 3}", f"Words {i} of user{(i + 1) % 3}", item=2 + i // 2) for i in range(7)]
    for number in range(4, 40):
        events.append(gharchive.opened(10 + number, number=number))
        events.append(gharchive.comment(100 + number, "cy", f"On {number}", number=number))
    expected = None
    for seed in range(4):
        random.Random(seed).shuffle(events)
        folder = tmp_path / str(seed)
        for part in range(seed + 1):
            gharchive.write(folder, *events[part :: seed + 1], name=f"2016-01-02-{part}.json.gz")
        documents, rejects = gharchive.rows_of(GitHubIssues("issues", str(folder)))
        assert not rejects
        assert len(documents) == 37
        expected = expected or documents
        assert documents == expected
        shared, _ = gharchive.rows_of(GitHubIssues("issues", str(folder), n_shards=3))
        assert sorted(shared, key=lambda one: one.doc_id) == sorted(documents, key=lambda one: one.doc_id)


def test_shards_by_repository_tell_damage_once(tmp_path: Path, gharchive: ModuleType) -> None:
    events = [
        gharchive.event(i, "IssuesEvent", "a", {"action": "opened", "issue": gharchive.issue()}, 0, (f"o/r{i}", i))
        for i in range(9)
    ]
    gharchive.write(tmp_path, *events, b"{bad")
    source = GitHubIssues("issues", str(tmp_path), n_shards=2, max_bytes=10_000)
    shards = source.plan()
    assert [shard.name for shard in shards] == ["issues/00000", "issues/00001"]
    assert [shard.params["max_bytes"] for shard in shards] == [5_000, 5_000]
    rows = [list(source.read(shard)) for shard in shards]
    assert [sum(isinstance(row, Document) for row in own) for own in rows] == [5, 4]
    assert [[row.reason for row in own if isinstance(row, Reject)] for own in rows] == [["invalid_json"], []]
    with pytest.raises(SourceError, match="n_shards"):
        GitHubIssues("issues", str(tmp_path), n_shards=0).plan()
    with pytest.raises(SourceError, match="max_lines"):
        GitHubIssues("issues", str(tmp_path), max_lines=20).plan()


def test_a_repository_that_was_renamed_keeps_its_issues(read: Read, gharchive: ModuleType) -> None:
    first = gharchive.opened(1)
    renamed = gharchive.comment(2, "octo", "Moved.")
    renamed["repo"]["name"] = "barn/harrow"
    (document,), _ = read(renamed, first)
    assert [seen.origin for seen in document.occurrences] == ["https://github.com/barn/harrow", "https://github.com/octo/plough"]
    assert document.url == "https://github.com/barn/harrow/issues/3"


def test_the_swhid_is_that_of_a_folder_of_the_lines(read: Read, gharchive: ModuleType, tmp_path: Path) -> None:
    events = [gharchive.opened(1), gharchive.comment(2, "octo", "é")]
    (document,), _ = read(*events)
    (tmp_path / "lines").mkdir()
    for one, line in zip(events, gharchive.lines(events), strict=True):
        (tmp_path / "lines" / one["id"]).write_bytes(line.rstrip(b"\n"))
    assert document.raw_swhid == read_disk_folder(str(tmp_path / "lines"))[0]
    assert document.meta["event_ids"] == " ".join(one["id"] for one in events)


def test_a_truncated_file_costs_its_end(tmp_path: Path, gharchive: ModuleType) -> None:
    chance = random.Random(0)
    events = [gharchive.opened(i, "".join(chance.choices("abcdef ", k=2_000)), number=i) for i in range(1, 200)]
    path = gharchive.write(tmp_path, *events)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    documents, rejects = gharchive.rows_of(GitHubIssues("issues", str(tmp_path)))
    assert 80 <= len(documents) <= 110
    assert [reject.reason for reject in rejects] == ["truncated"]


def test_a_line_that_is_too_long_is_told(read: Read, gharchive: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_files, "MAX_LINE_BYTES", 3_000)
    documents, rejects = read(gharchive.opened(1), gharchive.comment(2, "octo", "x" * 3_000))
    assert len(documents) == 1
    assert [reject.reason for reject in rejects] == ["too_large"]


def test_a_thread_is_held_to_a_size(read: Read, gharchive: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilth.corpus.github.thread.MAX_CHARS", 5_000)
    (document,), (reject,) = read(gharchive.opened(1), *(gharchive.comment(i, "octo", f"{i} " + "x" * 996) for i in range(2, 12)))
    assert document.text.count("<issue_comment>") == 4
    assert (reject.reason, reject.detail.split()[0]) == ("too_large", "6")


def test_an_archive_larger_than_memory(tmp_path: Path, gharchive: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_files, "SORT_BYTES", 2 << 20)
    n_issues, body = 300, "words of a description " * 100
    lines = [line for i in range(1, n_issues + 1) for line in gharchive.lines([gharchive.opened(i, body, number=i)])]
    lines += [
        line for turn in range(30) for i in range(1, n_issues + 1)
        for line in gharchive.lines([gharchive.comment(1_000 * (turn + 1) + i, "octo", f"{turn} of {i}", number=i)])
    ]  # fmt: skip
    (tmp_path / "2016-01-02-3.json.gz").write_bytes(gzip.compress(b"".join(lines), 1))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    documents, rejects = gharchive.rows_of(GitHubIssues("issues", str(tmp_path)))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert not rejects
    assert [document.meta["n_events"] for document in documents] == ["31"] * n_issues
    assert grown < 40 << 20


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("I agree.\n> quoted\nThanks", "I agree.\nThanks"),
        ("```\n> shell\n```\n>>> import x\n> q", "```\n> shell\n```\n>>> import x"),
        (
            "Yes.\n\nOn Mon, Jan 1, 2016, A <notifications@github.com> wrote:\n> Q\n—\nReply to this email directly or view it on GitHub.",
            "Yes.",
        ),
        ("Yes.\n\nFrom: A\nSent: B\nReply to this email directly or view it on GitHub", "Yes."),
        ("Yes.\n1/2/2016 03:04 PM, A wrote:\nold words\nReply to this email directly, please\nBye.", "Yes.\nBye."),
        ("A <notifications@github.com> says\nYes.", "Yes."),
        ("Fixed.\nSigned-off-by: A B <a@b.c>\nand a -> b", "Fixed.\nand a -> b"),
        ("Above\n" + "_" * 25 + "\nbelow", "Above\n\nbelow"),
        ("From: here to there", "From: here to there"),
        ("", ""),
    ],
)
def test_what_a_mail_program_wrote_goes(written: str, kept: str) -> None:
    assert without_mail(written) == kept
    assert without_mail(written.replace("\n", "\r\n")) == kept


def test_long_comments_lose_their_middle() -> None:
    text = "\n".join(map(str, range(81)))
    cut = truncated(text, 80, "[Truncated]").split("\n")
    assert (cut[:60], cut[60], cut[61:]) == (list(map(str, range(60))), "[Truncated]", list(map(str, range(61, 81))))
    assert truncated(text, 81, "[Truncated]") == text
    assert without_html_comments("a<!-- b --><!-->-->c<!-- d") == "ac<!-- d"


@pytest.mark.parametrize("text", ["1" * 500_000, "1/" * 200_000, "<!--" * 200_000, "On" * 200_000, "From:" * 200_000, "_" * 19 + " _" * 200_000,
                                  "> " * 200_000, "Signed-off-by: <" * 50_000, "a-" * 200_000, "\n" * 500_000])  # fmt: skip
def test_any_comment_takes_linear_time(text: str) -> None:
    start = time.process_time()
    truncated(without_html_comments(without_mail(text)), 80, "")
    names = Names()
    names.number(["a", "b"])
    names.replaced(text)
    assert time.process_time() - start < 2


@pytest.mark.parametrize(
    "login", ["CLAassistant", "x[bot]", "k8s-ci-robot", "rust-bors-x", "travis", "My-Service-Account", "farm-CI"]
)
def test_bots_by_their_names(login: str) -> None:
    assert is_bot_name(login)
    assert not is_bot_name(login[:2] + "-person")


@pytest.mark.parametrize("seed", range(6))
def test_changed_bytes_cost_what_they_touch(tmp_path: Path, gharchive: ModuleType, seed: int) -> None:
    chance = random.Random(seed)
    members = []
    for first in range(1, 121, 8):
        events = [
            gharchive.opened(i, f"unit{i:04d} " + "".join(chance.choices("abcdef ", k=300)), number=i)
            for i in range(first, first + 8)
        ]
        members.append(gzip.compress(b"".join(gharchive.lines(events)), mtime=0))
    starts = [sum(map(len, members[:i])) for i in range(len(members) + 1)]
    data = bytearray(b"".join(members))
    at, n_bytes = chance.randrange(len(data)), chance.choice([1, 40, 400])
    data[at : at + n_bytes] = [b"", chance.randbytes(n_bytes), bytes(n_bytes), bytes(data[at : at + n_bytes]) * 2][seed % 4]
    (tmp_path / "2016-01-02-3.json.gz").write_bytes(data)
    documents, rejects = gharchive.rows_of(GitHubIssues("issues", str(tmp_path)))
    text = "\n".join(document.text for document in documents)
    touched = {i for i in range(len(members)) if starts[i] <= at + n_bytes and starts[i + 1] >= at}
    safe = [i * 8 + j + 1 for i in range(len(members)) if touched.isdisjoint((i - 1, i, i + 1)) for j in range(8)]
    assert len(safe) >= 60
    assert not [i for i in safe if f"unit{i:04d} " not in text]
    assert rejects or len(documents) == 120
