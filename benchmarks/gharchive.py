"""Reading GHArchive: CPU seconds of one process for issues and for pull requests, on files made here and packed as the archive's.

    python benchmarks/gharchive.py [--megabytes 200] [--rounds 3]

The events have the archive's shares of kinds in number (2022: some 60 % pushes, 6 % issues and their comments, 16 % of pull
requests) and the fields that make its lines long. MB are of JSON; the peer parses every line and does nothing else.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import resource
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from results import append, row

from tilth.corpus.records import Document
from tilth.corpus.sources.github_issues import GitHubIssues
from tilth.corpus.sources.github_pull_requests import GitHubPullRequests

KINDS = {
    "PushEvent": 60, "CreateEvent": 12, "WatchEvent": 6, "IssuesEvent": 2, "IssueCommentEvent": 4, "PullRequestEvent": 10,
    "PullRequestReviewEvent": 3, "PullRequestReviewCommentEvent": 3,
}  # fmt: skip
HOURS = 10
WORDS = ["the", "field", "is", "wet", "and", "a", "plough", "that", "breaks", "in", "stony", "soil", "has", "to", "be", "mended"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        n_bytes = write_archive(Path(folder), options.megabytes * 10**6)
        parsing = statistics.median(timed(lambda: parse_all(Path(folder))) for _ in range(options.rounds))
        for source in (GitHubIssues("issues", folder), GitHubPullRequests("pulls", folder)):
            append([source_row(source, n_bytes, parsing, options.rounds)])


def source_row(source: GitHubIssues | GitHubPullRequests, n_bytes: int, parsing: float, n_rounds: int) -> dict[str, str]:
    counts: list[int] = []
    seconds = statistics.median(timed(lambda: counts.append(count(source))) for _ in range(n_rounds))
    size = f"{n_bytes / 1e6:.0f} MB of JSON, {counts[0]} documents"
    ours, theirs = (f"{n_bytes / 1e6 / one:.0f} MB/s" for one in (seconds, parsing))
    notes = f"{ours} a core; peer: gunzip and json.loads of every line, {theirs}"
    return row(f"GHArchive: {type(source).__name__}", size, seconds, "CPU s", parsing, notes, threads=1)


def count(source: GitHubIssues | GitHubPullRequests) -> int:
    return sum(isinstance(one, Document) for shard in source.plan() for one in source.read(shard))


def parse_all(folder: Path) -> None:
    for path in folder.iterdir():
        with gzip.open(path) as file:
            for line in file:
                json.loads(line)


def timed(work: Callable[[], object]) -> float:
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def write_archive(folder: Path, n_bytes: int) -> int:
    chance = random.Random(0)
    written = 0
    for hour in range(HOURS):
        with gzip.open(folder / f"2022-01-02-{hour}.json.gz", "wb", 6) as file:
            while written < n_bytes * (hour + 1) // HOURS:
                written += file.write(json.dumps(event(chance, written), separators=(",", ":")).encode() + b"\n")
    return written


def event(chance: random.Random, number: int) -> dict[str, object]:
    kind = chance.choices(list(KINDS), KINDS.values())[0]
    repository = chance.randrange(2_000)
    name, login = f"farm{repository}/plough", f"user{chance.randrange(900)}"
    payload: dict[str, object] = {"push_id": number, "commits": [commit(chance, name) for _ in range(chance.randrange(1, 4))]}
    thread = thread_of(chance, name, kind)
    if kind.startswith("Issue"):
        payload = {"action": chance.choice(["opened", "closed", "created"]), "issue": thread}
    elif kind.startswith("PullRequest"):
        payload = {"action": chance.choice(["opened", "closed", "created"]), "number": thread["number"], "pull_request": thread}
    if "Comment" in kind or "Review" in kind:
        user = {**person(login), "type": "User"}
        said = {"id": number, "body": words(chance, 60), "user": user, "created_at": "2022-01-02T03:04:05Z", "state": "approved"}
        payload |= {"comment": said | {"path": "src/a.py", "diff_hunk": "@@ -1,9 +1,9 @@\n " + words(chance, 80)}, "review": said}
    return {
        "id": str(20_000_000_000 + number), "type": kind, "actor": person(login),
        "repo": {"id": repository, "name": name, "url": f"https://api.github.com/repos/{name}"}, "payload": payload,
        "public": True, "created_at": f"2022-01-02T03:{chance.randrange(60):02d}:{chance.randrange(60):02d}Z",
    }  # fmt: skip


def thread_of(chance: random.Random, name: str, kind: str) -> dict[str, object]:
    number, user = chance.randrange(1, 9), f"user{chance.randrange(900)}"
    shown: dict[str, object] = {
        "url": f"https://api.github.com/repos/{name}/issues/{number}", "number": number, "title": words(chance, 8),
        "user": {**person(user), "type": "User"}, "body": words(chance, 150), "created_at": "2022-01-01T00:00:00Z",
    }  # fmt: skip
    if kind.startswith("PullRequest"):
        repository = {f"{what}_url": f"https://api.github.com/repos/{name}/{what}{{/sha}}" for what in WORDS for _ in range(2)}
        side = {"sha": f"{number:040x}", "user": person(user), "repo": {**repository, "license": {"spdx_id": "MIT"}}}
        shown |= {"base": side, "head": side, "merged": True}
    return shown


def person(login: str) -> dict[str, object]:
    api = f"https://api.github.com/users/{login}"
    links = {f"{what}_url": f"{api}/{what}" for what in ("followers", "gists", "starred", "repos", "events", "received_events")}
    return {"id": 1, "login": login, "display_login": login, "gravatar_id": "", "url": api, **links}


def commit(chance: random.Random, name: str) -> dict[str, object]:
    sha = f"{chance.randrange(1 << 160):040x}"
    author = {"email": "a@example.org", "name": "A"}
    return {
        "sha": sha,
        "author": author,
        "message": words(chance, 12),
        "url": f"https://api.github.com/repos/{name}/commits/{sha}",
    }


def words(chance: random.Random, n: int) -> str:
    return " ".join(chance.choices(WORDS, k=n))


if __name__ == "__main__":
    main()
