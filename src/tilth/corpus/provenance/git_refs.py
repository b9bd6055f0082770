"""The refs of a repository, and the snapshot that Software Heritage would make of them under a named policy.

A snapshot's identifier depends on which refs count, so its policy is always told with it. `git-loader` is what
Software Heritage's git loader keeps (swh-loader-git, `filter_refs`): all but merge previews of forges and refs of
review systems. A HEAD that leads to no object is not advertised by git and so is in no snapshot.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from tilth.corpus.provenance.git_process import GitProcess
from tilth.corpus.provenance.swhid import Branch, snapshot_swhid

TAG_TARGETS = {"commit": "revision", "tag": "release", "tree": "directory", "blob": "content"}
REVIEW_REFS = ("refs/changes/", "refs/pipelines/")
REQUEST_REFS = ("refs/pull/", "refs/merge-requests/")
WORK_TREE_REFS = ("refs/bisect/", "refs/rewritten/", "refs/worktree/")  # of one work tree, which need not be this one
MAX_REFS = 50_000
IGNORED = re.compile(r"warning: ignoring (broken ref|dangling symref|ref with broken name) (.+)")


def kept_ref(name: str) -> bool:
    """Whether the git loader keeps a ref."""
    if name.endswith("^{}") or name.startswith(REVIEW_REFS):
        return False
    return not (name.startswith(REQUEST_REFS) and name.endswith("/merge"))


REF_POLICIES: dict[str, Callable[[str], bool]] = {
    "git-loader": kept_ref,
    "all-refs": lambda name: True,
    "no-pull-requests": lambda name: kept_ref(name) and not name.startswith(REQUEST_REFS),
}
DEFAULT_POLICY = "git-loader"


@dataclass(frozen=True)
class Refs:
    """All branches by raw name, HEAD included where it leads to an object; `problems` are (name, what is wrong) of others."""

    branches: dict[bytes, Branch]
    problems: list[tuple[str, str]]
    incomplete: bool = False  # a ref's kind of target is not known, so that no snapshot can be named

    def snapshot(self, policy: str = DEFAULT_POLICY) -> str | None:
        """The SWHID of the refs that a policy keeps; None where one of them leads to an object that is missing."""
        if self.incomplete:
            return None
        keeps = REF_POLICIES[policy]
        return snapshot_swhid({name: to for name, to in self.branches.items() if keeps(name.decode("utf-8", "surrogateescape"))})


def read_refs(git: GitProcess, kinds: Callable[[list[str]], dict[str, str]]) -> Refs:
    """The refs that a clone of the repository would see; `kinds` tells the types of objects by id, of those that are there."""
    listed = git.run("for-each-ref", f"--count={MAX_REFS + 1}", "--format=%(objectname) %(refname)", check=False)
    lines = [line.split(b" ", 1) for line in listed.stdout.splitlines()]
    told = (IGNORED.match(line) for line in listed.stderr.decode("utf-8", "replace").splitlines())
    problems = [(match[2], match[1]) for match in told if match]
    refs = {name: oid.decode("ascii") for oid, name in lines}
    named = {name.decode("utf-8", "surrogateescape") for name in refs} | {name for name, _ in problems}
    problems += [(name, "leads to no object") for name in _loose(git) if name not in named]
    link = git.run("symbolic-ref", "--quiet", "HEAD", check=False).stdout.strip()
    head = git.run("rev-parse", "--verify", "--quiet", "HEAD", check=False).stdout.strip().decode("ascii")
    types = kinds(sorted({*refs.values(), *([head] if head else [])}))
    branches: dict[bytes, Branch] = {}
    for name, oid in ({**refs, b"HEAD": head} if head else refs).items():
        if name == b"HEAD" and link:
            branches[name] = Branch("alias", link)
        elif oid in types:
            branches[name] = Branch(TAG_TARGETS[types[oid]], bytes.fromhex(oid))
        else:
            problems.append((name.decode("utf-8", "surrogateescape"), f"leads to {oid}, which is missing"))
    if not head:
        problems.append(("HEAD", f"leads to {link.decode('utf-8', 'replace')}, which is no commit" if link else "leads nowhere"))
    incomplete = len(lines) > MAX_REFS or bool(listed.returncode) or any("is missing" in what for _, what in problems)
    return Refs(branches, problems, incomplete)


def _loose(git: GitProcess) -> list[str]:
    """The names of refs that are files: git lists neither those in a circle nor those that point to a ref that is not there."""
    common = git.run("rev-parse", "--path-format=absolute", "--git-common-dir").stdout.rstrip(b"\n")
    found = []
    for folder, _, files in os.walk(os.path.join(os.fsdecode(common), "refs")):
        found += [os.path.relpath(os.path.join(folder, name), os.fsdecode(common)) for name in files if name[-5:] != ".lock"]
    return sorted(name for name in found if not name.startswith(WORK_TREE_REFS))
