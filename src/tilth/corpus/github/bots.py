"""Which accounts are bots, by their names: the lists that StarCoder's and StarCoder2's data were made with.

Source: bigcode-dataset, preprocessing/utils/utils_issues.py; arXiv:2305.06161, appendix A. Upper and lower case do not matter
here; there one suffix never matched for its capitals.
"""

from __future__ import annotations

from functools import lru_cache

NAMES = (
    "apache-hbase", "autorestci", "claassistant", "cmsbuild", "codecov-io", "codecov-commenter", "coveralls", "danger-public",
    "dnfclas", "msftclas", "pydocteur", "sparkqa", "karma-pr-reporter", "claassistantio", "probot-stale",
)  # fmt: skip
KEYWORDS = ("[bot]", "botmanager", "bors-", "jenkins", "k8s-", "-test-", "travis")
SUFFIXES = (
    "-automaton", "-automation", "-benchmark", "-build", "-deployer", "-cloud", "bot", "-ci", "-linter", "-teamcity", "-test",
    "-testing", "-service-account",
)  # fmt: skip


@lru_cache(maxsize=10_000)
def is_bot_name(login: str) -> bool:
    """Whether a login is one of the names, holds one of the keywords or ends in one of the suffixes."""
    name = login.lower()
    return name in NAMES or name.endswith(SUFFIXES) or any(keyword in name for keyword in KEYWORDS)
