"""Pull requests of GitHub from GHArchive: description, base files, diffs, comments and reviews as a document, as in StarCoder2.

    <pr>Title: TITLE\\nusername_0: DESCRIPTION<pr_status>opened<repo_name>OWNER/NAME
    <pr_base><pr_file>PATH<pr_base_code>LINES ... <pr_diff><pr_file>PATH<pr_diff_hunk>HUNK ...
    <pr_comment>username_1: COMMENT<pr_event_id>ID
    <pr_review>username_1: REVIEW<pr_event_id>ID<pr_review_state>approved
    <pr_review_comment><pr_event_id>ID<pr_in_reply_to_review_id>ID<pr_in_reply_to_comment_id>ID<pr_file>PATH
        <pr_diff_hunk_comment_line>LINE<pr_diff_hunk>HUNK<pr_comment>username_1: COMMENT
    <pr>username_1<pr_status>closed<pr_is_merged>True

(no line ends between these). Sources: Lozhkov et al. (arXiv:2402.19173, sections 2.3 and 5.2), the-stack-v2
(pull_requests_and_issues/render.py). What they drop whole is for SQL: `@starcoder2-pull-requests`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

from tilth.corpus.github.changes import Changes, read_changes
from tilth.corpus.github.clones import Clones
from tilth.corpus.github.comment_text import LEAST_LINES
from tilth.corpus.github.event_files import GitHubThreads
from tilth.corpus.github.events import REVIEW, Event
from tilth.corpus.github.pull_request_text import PullRequestText, WordLimits
from tilth.corpus.github.thread import ThreadHistory
from tilth.corpus.locations import FoundFile
from tilth.corpus.optout.subjects import LOGINS
from tilth.corpus.provenance.spdx_expressions import normalise_expression
from tilth.corpus.records import Document, LicenceClaim, Reject, Shard, screen
from tilth.corpus.registry import source
from tilth.errors import SourceError
from tilth.tokenize import thread_markers
from tilth.tokenize.thread_markers import PLACES, PULL_REQUEST_MARKERS

SPDX_ID = re.compile(r"[A-Za-z0-9.+-]{1,60}")


@source
@dataclass(frozen=True)
class GitHubPullRequests(GitHubThreads):
    """Pull requests of GitHub from GHArchive, each with its reviews, comments and, where clones are given, its changes.

    `path` is a file of the archive (`2015-01-01-15.json.gz`), a folder, a pattern or a URL. With `repositories`, a folder of
    clones (`owner/name` or `owner+name`) that have the commits, base files and diffs are shown as StarCoder2 shows them, with
    what is by chance decided by `seed`; without the commits the text is the conversation alone, and `meta['changes']` says
    why. `max_title_chars`, `max_lines`, `max_chars` and `min_comment_chars` bound people's words. Bots' words are left out;
    accounts become `username_0`, `username_1`, and `meta['logins']` keeps them for `tilth forget --user`.
    """

    repositories: str | None = None
    max_title_chars: int = field(default=WordLimits.max_title_chars, kw_only=True)
    max_lines: int = field(default=WordLimits.max_lines, kw_only=True)
    max_chars: int = field(default=WordLimits.max_chars, kw_only=True)
    min_comment_chars: int = field(default=WordLimits.min_comment_chars, kw_only=True)
    seed: int = field(default=0, kw_only=True)

    version: ClassVar[int] = 1
    special_tokens: ClassVar[tuple[str, ...]] = PULL_REQUEST_MARKERS
    kind: ClassVar[str] = thread_markers.PULL_REQUEST
    folder: ClassVar[str] = "pull"

    def params(self) -> dict[str, Any]:
        """Raises SourceError: fewer lines than are kept of an end, no clone in `repositories`."""
        if self.max_lines < LEAST_LINES:
            raise SourceError(f"`max_lines` must be at least {LEAST_LINES}", self.where, "the last 20 lines are kept in any case")
        clones = Clones(self.repositories, self.where).state if self.repositories else None
        return {**vars(self._limits), "seed": self.seed, "clones": clones}

    @property
    def _limits(self) -> WordLimits:
        return WordLimits(self.max_title_chars, self.max_lines, self.max_chars, self.min_comment_chars)

    def wants(self, event: Event) -> bool:
        """Events of pull requests, and what is said of them as of issues."""
        return event.is_pull_request

    def rows(self, unit: list[FoundFile], shard: Shard) -> Iterator[Document | Reject]:
        """A row for every pull request; the clones are looked for anew. Raises SourceError: not those that were planned."""
        clones = Clones(self.repositories, self.where) if self.repositories else None
        if clones and clones.state != shard.params["clones"]:
            raise SourceError("the clones have changed since the build was planned", self.where, "run the same command again")
        for thread in self.threads(unit, shard):
            yield self._row(thread, clones, shard.params["licence"]) if isinstance(thread, ThreadHistory) else thread

    def _row(self, thread: ThreadHistory, clones: Clones | None, licence: str | None) -> Document | Reject:
        location = self.location(thread)
        if thread.title is None:
            return Reject(location, "no_text", f"{len(thread.lines)} events that do not show the pull request")
        changes = self._changes(thread, clones)
        words = PullRequestText(thread, changes, self._limits)
        if not words.n_human_events and thread.is_opened_by_bot:
            return Reject(location, "only_bots", f"{len(thread.lines)} events, no words of people")
        if unfit := screen(words.written.text):
            return Reject(location, *unfit)
        claims = [self.claim(thread, licence), *self._repository_claim(thread)]
        return self.document(thread, words.written.text, _meta(thread, words, changes), claims)

    def _changes(self, thread: ThreadHistory, clones: Clones | None) -> Changes:
        commits = [(one.base, one.head) for one in (event.thread for event in thread.events) if one.base and one.head]
        clone = clones.of(reversed(thread.names)) if clones else None
        if clone is None:
            return Changes(problem="no_clone")
        if not commits:
            return Changes(problem="no_commits")
        return read_changes(clone, commits, self.seed, (thread.repository_id, thread.number))

    def _repository_claim(self, thread: ThreadHistory) -> Iterator[LicenceClaim]:
        """GitHub's word for the repository's licence. It is of the code, not of what people write, so it is not in force."""
        spdx = normalise_expression(thread.licence) if thread.licence and SPDX_ID.fullmatch(thread.licence) else None
        if spdx:
            place, evidence = f"{self.folder}/{thread.number}", "pull_request.base.repo.license"
            yield LicenceClaim(thread.origin, place, spdx, "repository", evidence, None, "GitHub", 1.0)


def _meta(thread: ThreadHistory, words: PullRequestText, changes: Changes) -> dict[str, str]:
    """What the published filter asks for, and what opt-out and training need."""
    bases = {event.thread.base for event in thread.events if event.thread.base}
    reviews = [event.item for event in thread.events if event.kind == REVIEW and event.item]
    return {
        "title": words.title, "number": str(thread.number), "n_description_chars": str(len(words.description)),
        "n_human_events": str(words.n_human_events), "n_bot_events": str(words.n_bot_events),
        "n_approvals": str(sum(review.state == "approved" for review in reviews)),
        "n_rebases": str(max(0, len(bases) - 1 - thread.is_merged)),  # the base moves once more with the merge
        "is_merged": str(thread.is_merged).lower(), "is_bot_opened": str(thread.is_opened_by_bot).lower(),
        "changes": changes.problem or "shown", "n_base_files": str(len(changes.base)),
        "repository_licence": thread.licence or "", LOGINS: json.dumps(sorted(thread.logins)),
        "event_ids": " ".join(thread.lines), PLACES: words.written.places,
    }  # fmt: skip
