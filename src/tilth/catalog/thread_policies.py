"""The published filters of issues and pull requests as predicates over what their sources count (`meta`)."""

from __future__ import annotations

from tilth.catalog.policy import Clause, Policy

META = "meta"  # fields that a source writes, and no family of signals


def _where(sql: str, word: str) -> Clause:
    return Clause(sql, word, META, (META,))


def _number(field: str) -> str:
    return f"try_cast(meta['{field}'] as bigint)"


_ISSUES = Policy(
    "starcoder2-issues",
    "Li et al., StarCoder, arXiv:2305.06161, appendix A; bigcode-dataset, preprocessing/filtering_issues.py; Lozhkov et al., "
    "StarCoder 2, arXiv:2402.19173, section 2.2",
    (
        _where(f"{_number('n_text_chars')} >= 200", "length"),
        _where(
            f"({_number('n_users')} >= 2 or ({_number('n_text_chars')} <= 7000 and {_number('n_events')} <= 10))",
            "users, or short",
        ),
    ),
    beyond="takes out bots, mail programs' words, the middle of long comments and names: `GitHubIssues` does so as it reads",
)
_PULL_REQUESTS = Policy(
    "starcoder2-pull-requests",
    "Lozhkov et al., StarCoder 2 and The Stack v2, arXiv:2402.19173, section 2.3; the-stack-v2, pull_requests_and_issues/"
    "process_pr_events.py and render.py",
    (
        _where("meta['is_bot_opened'] = 'false'", "opened by a person"),
        _where(f"{_number('n_human_events')} >= 1", "words of people"),
        _where(f"(meta['is_merged'] = 'true' or {_number('n_approvals')} >= 1)", "merged or approved"),
        _where(f"{_number('n_rebases')} = 0", "one base"),
        _where("meta['changes'] = 'shown'", "changes"),
        _where("len(meta['title']) >= 10", "title"),
        _where("not regexp_matches(lower(meta['title']), 'depend|release')", "no dependencies or releases"),
        _where(f"{_number('n_description_chars')} >= 20", "description"),
        _where("not contains(text, 'Qwiet')", "no reports of one scanner"),
        _where("n_chars between 200 and 1000000", "length"),
    ),
    beyond="drops repositories of non-permissive licences (`meta['repository_licence']` is GitHub's word), keeps at most some "
    "100 of a repository by chance, and trains on up to 100,000 characters",
)
THREAD_POLICIES = (_ISSUES, _PULL_REQUESTS)
