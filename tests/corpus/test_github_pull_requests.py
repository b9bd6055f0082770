"""A pull request is one document in StarCoder2's form; base files and diffs are those of a clone, and none are made up."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tilth.corpus.github import changes
from tilth.corpus.github.changes import Hunk, read_changes, shifted, written
from tilth.corpus.provenance.git_objects import GitObjects
from tilth.corpus.records import Document, Reject
from tilth.corpus.sources.github_pull_requests import GitHubPullRequests
from tilth.errors import SourceError
from tilth.tokenize.thread_markers import PLACES, PULL_REQUEST_MARKERS, read_places

Rows = tuple[list[Document], list[Reject]]
OLD = [f"line {i} of the field\n" for i in range(1, 101)]
NEW = [*OLD[:49], "a new line 50\n", *OLD[50:]]
NEWER = [*NEW[:59], "more\n", *NEW[59:]]
BASE, HEAD = "1" * 40, "2" * 40
DESCRIPTION = "It mends the plough. <!-- template -->Thanks to octo."


def git(folder: Path, *words: str) -> str:
    who = {"NAME": "A", "EMAIL": "a@example.org", "DATE": "2016-01-01T00:00:00Z"}
    own = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER") for what, value in who.items()}
    done = subprocess.run(
        ["git", "-C", str(folder), *words], check=True, capture_output=True, text=True, env={**os.environ, **own}
    )
    return done.stdout.strip()


def commit(clone: Path, files: dict[str, str | bytes | None]) -> str:
    for path, content in files.items():
        place = clone / path
        place.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            place.unlink()
        else:
            place.write_bytes(content if isinstance(content, bytes) else content.encode())
    git(clone, "add", "-A")
    git(clone, "commit", "-q", "-m", "x")
    return git(clone, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A clone, and the commits: where the branch begins, two heads of it, and the main branch after it."""
    place = tmp_path_factory.mktemp("clones") / "octo" / "plough"
    place.mkdir(parents=True)
    git(place, "init", "-q", "-b", "main")
    long = "".join(OLD)
    base = commit(
        place,
        {"src/a.py": long, "src/gone.py": long, "b.txt": "one\ntwo\n", "logo.png": "\0", "é.txt": "old\n", "yarn.yml": "a: 1\n"},
    )
    git(place, "checkout", "-q", "-b", "topic")
    first = commit(
        place, {"src/a.py": "".join(NEW), "src/gone.py": None, "src/new.py": "x\n", "logo.png": "\0\0", "yarn.yml": "a: 2\n"}
    )
    second = commit(place, {"src/a.py": "".join(NEWER), "é.txt": "new"})
    git(place, "checkout", "-q", "main")
    main = commit(place, {"b.txt": "one\n2\n"})
    return place, [base, first, second, main]


@pytest.fixture
def as_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """No chance: five lines around changes in base files, three in hunks, no data of programs."""
    monkeypatch.setattr(changes, "WHOLE_FILE", 0.0)
    monkeypatch.setattr(changes, "MORE_LINES", 1)
    monkeypatch.setattr(changes, "CONTEXT_LINES", range(3, 4))
    monkeypatch.setattr(changes, "KEPT_DATA", 0.0)


@pytest.fixture
def read(tmp_path: Path, gharchive: ModuleType) -> Callable[..., Rows]:
    def reader(*events: Any, **options: Any) -> Rows:
        gharchive.write(tmp_path / "hours", *events)
        found: Rows = gharchive.rows_of(GitHubPullRequests("pulls", str(tmp_path / "hours"), **options))
        return found

    return reader


class Makers:
    """Events of one pull request."""

    def __init__(self, gharchive: ModuleType, base: str = BASE, head: str = HEAD, number: int = 8, **more: object) -> None:
        self.of, self.number = gharchive, number
        self.shown = {
            "url": f"https://api.github.com/repos/octo/plough/pulls/{number}", "number": number, "title": "Mend the plough, Ann",
            "user": gharchive.person("ann"), "body": DESCRIPTION, "created_at": gharchive.moment(0), "merged": False,
            "base": {"sha": base, "repo": {"license": {"key": "mit", "spdx_id": "MIT"}}}, "head": {"sha": head}, **more,
        }  # fmt: skip

    def state(self, at: int, action: str, actor: str = "ann", **more: object) -> Any:
        payload = {"action": action, "number": self.number, "pull_request": {**self.shown, **more}}
        return self.of.event(at, "PullRequestEvent", actor, payload)

    def comment(self, at: int, actor: str, text: object) -> Any:
        thread = self.of.issue(
            DESCRIPTION, number=self.number, pull_request={"url": self.shown["url"]}, title=self.shown["title"]
        )
        said = {"id": at, "body": text, "user": self.of.person(actor), "created_at": self.of.moment(at)}
        return self.of.event(at, "IssueCommentEvent", actor, {"action": "created", "issue": thread, "comment": said})

    def review(self, at: int, actor: str, text: object, state: str, **more: object) -> Any:
        said = {"id": at, "body": text, "user": self.of.person(actor), "state": state, "submitted_at": self.of.moment(at)}
        payload = {"action": "created", "pull_request": {**self.shown, **more}, "review": said}
        return self.of.event(at, "PullRequestReviewEvent", actor, payload)

    def review_comment(self, at: int, actor: str, text: object, said: dict[str, object], **more: object) -> Any:
        whole = {"id": at, "body": text, "user": self.of.person(actor), "created_at": self.of.moment(at), **said}
        payload = {"action": "created", "pull_request": {**self.shown, **more}, "comment": whole}
        return self.of.event(at, "PullRequestReviewCommentEvent", actor, payload)


@pytest.fixture
def make(gharchive: ModuleType) -> Callable[..., Makers]:
    return lambda *given, **more: Makers(gharchive, *given, **more)


def markers(document: Document) -> list[str]:
    data = document.text.encode()
    return [data[at : data.index(b">", at) + 1].decode() for at in read_places(document.meta[PLACES])]


def test_the_conversation_with_its_provenance(read: Callable[..., Rows], make: Callable[..., Makers]) -> None:
    of = make()
    place = {"path": "src/a.py", "original_position": 4, "diff_hunk": "@@ -9,2 +9,2 @@\n-a\n+b", "pull_request_review_id": 6}
    (document,), rejects = read(
        of.state(1, "opened"), of.comment(2, "octo", "Ok, but what of rain, ann?"), of.comment(3, "octo", "+1"),
        of.comment(4, "codecov-io", "Coverage is at 80 % of all the lines."), of.review(6, "octo", None, "APPROVED"),
        of.review_comment(5, "octo", "Why?", place), of.review_comment(7, "ann", "So.", {**place, "in_reply_to_id": 5}),
        of.state(8, "closed", "octo"), of.state(9, "reopened", "ann"), of.state(10, "closed", "octo", merged=True),
    )  # fmt: skip
    assert not rejects
    hunk = "<pr_file>src/a.py<pr_diff_hunk_comment_line>4<pr_diff_hunk>@@ -9,2 +9,2 @@\n-a\n+b"
    assert document.text == (
        "<pr>Title: Mend the plough, username_0\nusername_0: It mends the plough. Thanks to username_1."
        "<pr_status>opened<repo_name>octo/plough"
        "<pr_comment>username_1: Ok, but what of rain, username_0?<pr_event_id>2"
        f"<pr_review_comment><pr_event_id>5<pr_in_reply_to_review_id>6{hunk}<pr_comment>username_1: Why?"
        "<pr_review>username_1<pr_event_id>6<pr_review_state>approved"
        "<pr_review_comment><pr_event_id>7<pr_in_reply_to_review_id>6<pr_in_reply_to_comment_id>5"
        f"{hunk}<pr_comment>username_0: So."
        "<pr>username_1<pr_status>closed<pr_is_merged>False<pr>username_0<pr_status>reopened"
        "<pr>username_1<pr_status>closed<pr_is_merged>True"
    )
    assert "".join(markers(document)) == "".join(
        part[: part.index(">") + 1] for part in ("<" + piece for piece in document.text.split("<")[1:])
    )
    assert set(markers(document)) <= set(PULL_REQUEST_MARKERS)
    assert document.url == "https://github.com/octo/plough/pull/8"
    assert [(one.kind, one.path, one.origin) for one in document.occurrences] == [
        ("github_pull_request", "pull/8", "https://github.com/octo/plough")
    ]
    assert [(one.spdx, one.scope, one.effective) for one in document.licences] == [
        ("LicenseRef-unknown", "declared", True), ("MIT", "repository", False),
    ]  # fmt: skip
    wanted = {
        "n_human_events": "4", "n_bot_events": "1", "n_approvals": "1", "is_merged": "true", "changes": "no_clone",
        "n_rebases": "0", "is_bot_opened": "false", "repository_licence": "MIT", "n_base_files": "0",
    }  # fmt: skip
    assert {name: document.meta[name] for name in wanted} == wanted
    assert json.loads(document.meta["logins"]) == ["ann", "codecov-io", "octo"]


@pytest.mark.usefixtures("as_is")
def test_base_files_and_the_diffs_of_each_head(
    read: Callable[..., Rows], make: Callable[..., Makers], clone: tuple[Path, list[str]]
) -> None:
    place, (_, first, second, main) = clone
    of = make(main, first)
    said = {"path": "src/a.py", "original_position": 2, "diff_hunk": "@@ -48,7 +48,7 @@ plough\n a"}
    (document,), _ = read(
        of.state(1, "opened"), of.review_comment(2, "octo", "Why?", said), of.review(3, "octo", "Yes.", "approved", head={"sha": second}),
        repositories=str(place.parents[1]),
    )  # fmt: skip
    shown = "".join(OLD[49:60])
    context = "".join(f" {line}" for line in OLD[50:53]).rstrip("\n")
    head = "-line 50 of the field\n+a new line 50\n"
    later = "".join(f" {line}" for line in OLD[56:59]) + "+more\n" + "".join(f" {line}" for line in OLD[59:62])
    assert document.text.split("<repo_name>octo/plough")[1] == (
        f"<pr_base><pr_file>src/a.py<pr_base_code>{shown[:-1].removesuffix(chr(10) + OLD[59][:-1])}<pr_file>é.txt<pr_base_code>old"
        f"<pr_diff><pr_file>src/a.py<pr_diff_hunk>@@ -1,4 +1,4 @@\n{head}{context}"
        "<pr_review_comment><pr_event_id>2<pr_file>src/a.py<pr_diff_hunk_comment_line>2"
        "<pr_diff_hunk>@@ -0,7 +0,7 @@ plough\n a<pr_comment>username_1: Why?"
        f"<pr_diff><pr_file>src/a.py<pr_diff_hunk>@@ -1,4 +1,4 @@\n{head}{context}"
        f"<pr_diff_hunk>@@ -8,6 +8,7 @@\n{later.rstrip(chr(10))}"
        "<pr_file>é.txt<pr_diff_hunk>@@ -1,1 +1,1 @@\n-old\n+new"
        "<pr_review>username_1: Yes.<pr_event_id>3<pr_review_state>approved"
    )
    assert document.meta["changes"] == "shown"
    assert document.meta["n_base_files"] == "2", "nothing that was added, taken away, binary, or written by a program"
    assert document.meta["n_rebases"] == "0"


def test_why_nothing_is_shown(read: Callable[..., Rows], make: Callable[..., Makers], clone: tuple[Path, list[str]]) -> None:
    place, (base, first, _, _) = clone
    folder = str(place.parents[1])
    for given, problem in (
        ((BASE, HEAD), "missing"),
        ((base, base), "no_changes"),
        (("", first), "no_commits"),
    ):
        (document,), _ = read(make(*given).state(1, "opened"), repositories=folder)
        assert document.meta["changes"] == problem
        assert "<pr_base>" not in document.text
    with pytest.raises(SourceError, match="no clone"):
        read(make().state(1, "opened"), repositories=str(place / "src"))


def test_chance_is_of_the_seed_and_the_pull_request_alone(make: Callable[..., Makers], clone: tuple[Path, list[str]]) -> None:
    place, (base, first, second, _) = clone
    objects = GitObjects(place, "here")
    found = {
        (seed, number): read_changes(objects, [(base, first), (base, second)], seed, (7, number))
        for seed in range(3)
        for number in range(12)
    }
    assert read_changes(objects, [(base, first), (base, second)], 1, (7, 5)) == found[1, 5]
    sizes = {len(one.base["src/a.py"].text) for one in found.values()}
    assert max(sizes) == len("".join(OLD)), "the whole file at times"
    assert len(sizes) > 15
    kept = sum("yarn.yml" in one.base for one in found.values())
    assert 0 < kept < 15, "one in ten"
    for one in found.values():
        for path, file in one.base.items():
            whole = git(place, "show", f"{base}:{path}").split("\n")
            assert file.text.rstrip("\n").split("\n") == whole[file.n_skipped :][: len(file.text.rstrip("\n").split("\n"))]


def test_hunks_apply_to_what_is_shown(make: Callable[..., Makers], clone: tuple[Path, list[str]]) -> None:
    place, (base, first, second, _) = clone
    for number in range(20):
        shown = read_changes(GitObjects(place, "here"), [(base, first), (base, second)], 0, (7, number))
        file = shown.base["src/a.py"]
        old = "".join(OLD).split("\n")[file.n_skipped :]
        for head, expected in ((first, NEW), (second, NEWER)):
            out, at = [], 0
            for hunk in shown.hunks[head]["src/a.py"]:
                header, *lines = written(hunk, file.n_skipped).split("\n")
                start = int(header.split("-")[1].split(",")[0]) - 1
                out += old[at:start]
                assert [line[1:] for line in lines if line[0] != "+"] == old[start:][: sum(line[0] != "+" for line in lines)]
                out += [line[1:] for line in lines if line[0] != "-"]
                at = start + sum(line[0] != "+" for line in lines)
            assert [*out, *old[at:]] == "".join(expected).split("\n")[file.n_skipped :]


def test_heads_of_hunks() -> None:
    assert shifted("@@ -48,7 +49,8 @@ def x\n a", 40) == "@@ -8,7 +9,8 @@ def x\n a"
    assert shifted("@@ -48 +49 @@\n a", 40) == "@@ -8 +9 @@\n a"
    assert shifted("no head", 40) == "no head"
    assert written(Hunk(4, 4, [" a", " b", "-c", "+d", "+e"]), 5) == "@@ -1,1 +1,2 @@\n-c\n+d\n+e"


def test_a_damaged_or_partial_clone_costs_the_changes_alone(
    tmp_path: Path, read: Callable[..., Rows], make: Callable[..., Makers], clone: tuple[Path, list[str]]
) -> None:
    place, (base, first, _, _) = clone
    copy = tmp_path / "clones" / "octo+plough.git"
    subprocess.run(["git", "clone", "-q", "--bare", "--no-local", str(place), str(copy)], check=True)
    for pack in sorted((copy / "objects" / "pack").glob("*.pack")):
        data = bytearray(pack.read_bytes())
        for i in random.Random(0).sample(range(100, len(data) - 40), len(data) // 40):
            data[i] ^= 0xFF
        pack.chmod(0o644)
        pack.write_bytes(data)
    (document,), _ = read(make(base, first).state(1, "opened"), repositories=str(tmp_path / "clones"))
    assert document.meta["changes"] in ("damaged", "missing", "no_changes")
    assert document.text.startswith("<pr>Title: Mend the plough")


def test_clones_that_change_are_noticed(
    tmp_path: Path, gharchive: ModuleType, make: Callable[..., Makers], clone: tuple[Path, list[str]]
) -> None:
    place, (base, first, _, _) = clone
    copy = tmp_path / "clones" / "octo+plough"
    subprocess.run(["git", "clone", "-q", "--bare", str(place), str(copy)], check=True)
    gharchive.write(tmp_path / "hours", make(base, first).state(1, "opened"))
    source = GitHubPullRequests("pulls", str(tmp_path / "hours"), repositories=str(tmp_path / "clones"))
    (before,) = source.plan()
    git(copy, "update-ref", "refs/heads/other", base)
    (after,) = source.plan()
    assert before.params != after.params
    assert str(tmp_path) not in str(after.params)
    with pytest.raises(SourceError, match="clones have changed"):
        list(source.read(before))
    assert len(list(source.read(after))) == 1


def test_limits_of_words(read: Callable[..., Rows], make: Callable[..., Makers]) -> None:
    of = make(title="T" * 600, body="\n".join(map(str, range(100))))
    long = {"path": "a", "original_position": 1, "diff_hunk": "@@ -1 +1 @@\n" + "x" * 10_000}
    events = [of.state(1, "opened"), of.comment(2, "octo", "w" * 1_001), of.review_comment(3, "octo", "Yes", long)]
    (document,), _ = read(*events)
    assert document.text.startswith("<pr>Title: " + "T" * 500 + "\nusername_0: 0\n1\n")
    assert "\n59\n[TRUNCATED]\n80\n" in document.text
    assert "<pr_comment>username_1: " + "w" * 1_000 + "<pr_event_id>" in document.text
    assert "<pr_diff_hunk>[OMITTED]<pr_comment>" in document.text
    (document,), _ = read(*events, max_title_chars=9, max_lines=200, max_chars=2_000, min_comment_chars=2_000)
    assert "T" * 10 not in document.text
    assert "\n60\n" in document.text
    assert "www" not in document.text


def test_bots(read: Callable[..., Rows], make: Callable[..., Makers], gharchive: ModuleType) -> None:
    of = make(user=gharchive.person("dependabot[bot]", "Bot"))
    documents, (reject,) = read(of.state(1, "opened", "dependabot[bot]"), of.state(2, "closed", "octo"))
    assert not documents
    assert (reject.reason, reject.location) == ("only_bots", "https://github.com/octo/plough:pull/8")
    (document,), _ = read(of.state(1, "opened", "dependabot[bot]"), of.review(2, "octo", "Yes.", "approved"))
    assert document.text.startswith("<pr>Title: Mend the plough, Ann\n<pr_status>opened")
    assert document.meta["is_bot_opened"] == "true"


def test_old_and_trimmed_events(read: Callable[..., Rows], make: Callable[..., Makers], gharchive: ModuleType) -> None:
    of = make()
    trimmed = {"url": "https://api.github.com/repos/octo/plough/pulls/8", "id": 1, "number": 8, "base": {}, "head": None}
    bare = gharchive.event(5, "PullRequestEvent", "ann", {"action": "closed", "number": 8, "pull_request": trimmed})
    documents, (reject,) = read(bare)
    assert not documents
    assert reject.reason == "no_text"
    old = {
        **gharchive.old_issue_event("opened", 8), "type": "PullRequestEvent",
        "payload": {"action": "opened", "number": 8, "pull_request": {"title": "Old", "body": "Words", "number": 8, "user": {"login": "ann"}}},
    }  # fmt: skip
    (document,), _ = read(old)
    assert document.text == "<pr>Title: Old\nusername_0: Words<pr_status>opened<repo_name>octo/plough"
    said = {"id": 4, "body": "Words of a review", "user": {"login": "cy"}, "pull_request_url": trimmed["url"]}
    review = gharchive.event(4, "PullRequestReviewCommentEvent", "cy", {"action": "created", "comment": said})
    (document,), _ = read(of.state(1, "opened"), review, bare)
    assert "<pr_review_comment><pr_event_id>4<pr_comment>username_1: Words of a review" in document.text
    assert document.text.endswith("<pr>username_0<pr_status>closed<pr_is_merged>False")
