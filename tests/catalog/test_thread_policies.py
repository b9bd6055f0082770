"""The published filters of issues and pull requests: for each single rule a thread just inside and one just outside."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

from tilth.catalog.policies import POLICIES

ISSUE = {"n_text_chars": "200", "n_users": "2", "n_events": "11"}
PULL = {
    "is_bot_opened": "false", "n_human_events": "1", "is_merged": "true", "n_approvals": "0", "n_rebases": "0",
    "changes": "shown", "title": "Ten chars!", "n_description_chars": "20",
}  # fmt: skip


def broken(policy: str, meta: dict[str, str], text: str = "w" * 200) -> list[str]:
    """The words of the clauses that are not true of a document."""
    fields = pa.array([list(meta.items())], pa.map_(pa.string(), pa.string()))
    table = pa.table({"meta": fields, "text": [text], "n_chars": [len(text)]})
    clauses = POLICIES[policy].clauses
    with duckdb.connect() as connection:
        connection.register("documents", table)
        (values,) = connection.execute(f"select {', '.join(f'({one.sql})' for one in clauses)} from documents").fetchall()
    return [clause.word for clause, value in zip(clauses, values, strict=True) if value is not True]


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"n_text_chars": "199"}, "length"),
        ({"n_users": "1"}, "users, or short"),
        ({"n_users": "1", "n_events": "10"}, None),
        ({"n_users": "1", "n_events": "10", "n_text_chars": "7000"}, None),
        ({"n_users": "1", "n_events": "10", "n_text_chars": "7001"}, "users, or short"),
        ({"n_text_chars": "7000000"}, None),
    ],
)
def test_issues(changed: dict[str, str], word: str | None) -> None:
    assert broken("starcoder2-issues", ISSUE) == []
    assert broken("starcoder2-issues", ISSUE | changed) == ([word] if word else [])


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"is_bot_opened": "true"}, "opened by a person"),
        ({"n_human_events": "0"}, "words of people"),
        ({"is_merged": "false"}, "merged or approved"),
        ({"is_merged": "false", "n_approvals": "1"}, None),
        ({"n_rebases": "1"}, "one base"),
        ({"changes": "missing"}, "changes"),
        ({"title": "Nine char"}, "title"),
        ({"title": "A dependable plough"}, "no dependencies or releases"),
        ({"title": "The RELEASE of a plough"}, "no dependencies or releases"),
        ({"n_description_chars": "19"}, "description"),
    ],
)
def test_pull_requests(changed: dict[str, str], word: str | None) -> None:
    assert broken("starcoder2-pull-requests", PULL) == []
    assert broken("starcoder2-pull-requests", PULL | changed) == ([word] if word else [])


def test_pull_requests_by_their_texts() -> None:
    assert broken("starcoder2-pull-requests", PULL, "w" * 199) == ["length"]
    assert broken("starcoder2-pull-requests", PULL, "w" * 1_000_001) == ["length"]
    assert broken("starcoder2-pull-requests", PULL, "w" * 200 + "Qwiet") == ["no reports of one scanner"]


def test_documents_of_other_sources_are_kept_by_neither() -> None:
    for policy in ("starcoder2-issues", "starcoder2-pull-requests"):
        assert broken(policy, {})
        assert "arXiv:" in POLICIES[policy].source
        assert POLICIES[policy].beyond
