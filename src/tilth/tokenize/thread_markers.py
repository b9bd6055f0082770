"""The markers of issues and pull requests, by StarCoder2's names (arXiv:2402.19173, table 5), and how their places are told.

A source that sets markers names them as its `special_tokens`, so that the tokenizer of its corpus has them, and says in a
document's meta where they begin, so that no text that only holds such letters can forge one.
"""

from __future__ import annotations

from collections.abc import Iterable

from tilth.tokenize.code_form import REPO_NAME

ISSUE_START, ISSUE_COMMENT, ISSUE_CLOSED = "<issue_start>", "<issue_comment>", "<issue_closed>"
ISSUE_MARKERS = (ISSUE_START, ISSUE_COMMENT, ISSUE_CLOSED)

PR, PR_STATUS, PR_IS_MERGED = "<pr>", "<pr_status>", "<pr_is_merged>"
PR_BASE, PR_FILE, PR_BASE_CODE = "<pr_base>", "<pr_file>", "<pr_base_code>"
PR_DIFF, PR_DIFF_HUNK = "<pr_diff>", "<pr_diff_hunk>"
PR_COMMENT, PR_EVENT_ID = "<pr_comment>", "<pr_event_id>"
PR_REVIEW, PR_REVIEW_STATE, PR_REVIEW_COMMENT = "<pr_review>", "<pr_review_state>", "<pr_review_comment>"
PR_IN_REPLY_TO_REVIEW_ID, PR_IN_REPLY_TO_COMMENT_ID = "<pr_in_reply_to_review_id>", "<pr_in_reply_to_comment_id>"
PR_DIFF_HUNK_COMMENT_LINE = "<pr_diff_hunk_comment_line>"
PULL_REQUEST_MARKERS = (
    PR, PR_STATUS, REPO_NAME, PR_IS_MERGED, PR_BASE, PR_FILE, PR_BASE_CODE, PR_DIFF, PR_DIFF_HUNK, PR_COMMENT, PR_EVENT_ID,
    PR_REVIEW, PR_REVIEW_STATE, PR_REVIEW_COMMENT, PR_IN_REPLY_TO_REVIEW_ID, PR_IN_REPLY_TO_COMMENT_ID,
    PR_DIFF_HUNK_COMMENT_LINE,
)  # fmt: skip

# The kinds of occurrences by which a document's markers are believed; fields of other sources are what anybody wrote.
ISSUE, PULL_REQUEST = "github_issue", "github_pull_request"
MARKED_KINDS = (ISSUE, PULL_REQUEST)
PLACES = "markers"  # of meta: where they begin, in UTF-8 bytes of the text as it was read, ascending, parted by spaces
MARKERS = frozenset((*ISSUE_MARKERS, *PULL_REQUEST_MARKERS))


def write_places(places: Iterable[int]) -> str:
    """The value of `PLACES`."""
    return " ".join(map(str, places))


def read_places(value: str) -> list[int]:
    """The places that a value of `PLACES` tells. Raises ValueError for what is none."""
    return [int(place) for place in value.split()]
