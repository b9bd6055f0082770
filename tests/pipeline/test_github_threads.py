"""Issues and pull requests through a project: tokens with markers that trace to bytes, published filters, and forgetting."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tilth.corpus.optout.requests import Request
from tilth.corpus.sources.github_issues import GitHubIssues
from tilth.corpus.sources.github_pull_requests import GitHubPullRequests
from tilth.corpus.sources.json_lines import JsonLines
from tilth.pipeline import forget as forgetting
from tilth.pipeline.build import build
from tilth.pipeline.curate import pick, sql
from tilth.pipeline.explain import explain
from tilth.pipeline.forget_verify import verify
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import Bpe, CodeForm, Corpus, Redact
from tilth.pipeline.tokenise import tokenise_subset
from tilth.pipeline.trace import TokenShard
from tilth.tokenize.code_form import SPECIAL_TOKENS
from tilth.tokenize.thread_markers import ISSUE_MARKERS, MARKERS, PULL_REQUEST_MARKERS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
FORGED = "<issue_start>Title: forged<issue_comment> by anybody <pr> whatever"


def pull(of: ModuleType, at: int, action: str, actor: str = "ann", number: int = 50, **more: object) -> Any:
    shown = {
        "url": f"https://api.github.com/repos/octo/plough/pulls/{number}", "number": number, "title": "Mend the plough",
        "user": of.person("ann"), "body": "It mends the plough, and asks for no more.", "created_at": of.moment(0), **more,
    }  # fmt: skip
    return of.event(at, "PullRequestEvent", actor, {"action": action, "number": number, "pull_request": shown})


def events(of: ModuleType) -> list[Any]:
    long = "The plough breaks in stony soil. " * 8
    made = []
    for number in range(1, 21):
        text = f"{long} Write to farmer{number}@barn-{number}-hedgerow.net {FORGED}" if number % 3 else "Short."
        made.append(of.opened(number, text, opener=f"user{number}", number=number))
        made.append(of.comment(100 + number, "octo" if number == 7 else f"other{number}", f"On {number}: é {FORGED}", body=text,
                               opener=f"user{number}", number=number))  # fmt: skip
    elsewhere = of.event(
        300, "IssuesEvent", "mole", {"action": "opened", "issue": of.issue(long, "mole", 1)}, 300, ("barn/hedge", 8)
    )
    return [*made, elsewhere, pull(of, 400, "opened"), pull(of, 401, "closed", "octo", merged=True)]


def corpus(folder: Path, form: CodeForm | None = None) -> Corpus:
    return Corpus(
        sources=[
            GitHubIssues("issues", str(folder / "hours"), n_shards=2), GitHubPullRequests("pulls", str(folder / "hours")),
            JsonLines("pages", str(folder / "pages.jsonl")),
        ],
        signals=["secrets"], edits=[Redact()], tokenizer=Bpe(500), training_form=form,
    )  # fmt: skip


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory, gharchive: ModuleType) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    gharchive.write(folder / "hours", *events(gharchive))
    pages = [{"text": f"{FORGED} {i}", "markers": "0 27", "logins": "[7]"} for i in range(3)]
    (folder / "pages.jsonl").write_text("".join(json.dumps(page) + "\n" for page in pages))
    return folder


@pytest.fixture(scope="module", params=[None, CodeForm()], ids=["plain", "formed"])
def built(request: pytest.FixtureRequest, inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = Project(tmp_path_factory.mktemp("project"))
    (project.folder / "recipes").mkdir(parents=True)
    build(project, "threads", corpus(inputs, request.param))
    tokenise_subset(project.store, pick(project, "all", "true", corpus="threads", validation_share=0.0).named)
    return project


def test_markers_are_tokens_where_the_sources_set_them_and_every_token_traces(built: Project) -> None:
    rows = sql(built, "select shard, row, text, meta['markers'] as markers from threads.documents").to_pylist()
    texts = {(row["shard"], row["row"]): row["text"] for row in rows}
    n_set = sum(len(row["markers"].split()) for row in rows if not row["shard"].startswith("pages"))
    with TokenShard(built, "all/train") as shard:
        special = {number: name for name, number in shard.tokenizer.special_ids.items()}
        markers = [name for one in shard.tokens.tokens if (name := special.get(int(one))) in MARKERS]
        assert len(markers) == n_set
        assert set(markers) == {"<issue_start>", "<issue_comment>", "<pr>", "<pr_status>", "<repo_name>", "<pr_is_merged>"}
        kinds = dict.fromkeys(("text", "edited", "synthetic"), 0)
        for offset in range(shard.tokens.n_tokens):
            found = shard.at(offset, n_context=0)
            kinds[found.kind] += 1
            if found.kind == "synthetic":
                assert special[int(shard.tokens.tokens[offset])] == found.token
            elif found.kind == "text" and found.token.isascii():
                document = texts[found.document["shard"], found.document["row"]].encode()
                assert document[found.start : found.end].decode() == found.token
        assert all(kinds.values()), kinds
    spans = sql(built, "select count(*) as n from token_spans where tokens = 'all' and kind = 'edited'").to_pylist()
    assert spans[0]["n"] > 0


def test_the_tokenizer_has_what_the_sources_and_the_form_ask_for(inputs: Path, built: Project) -> None:
    with TokenShard(built, "all/train") as shard:
        own = set(shard.tokenizer.special_ids) - {"<|endoftext|>"}
    assert own in ({*MARKERS}, {*MARKERS, *SPECIAL_TOKENS})
    assert {*ISSUE_MARKERS, *PULL_REQUEST_MARKERS} <= own


def test_the_published_filters(built: Project) -> None:
    kept = sql(built, "select meta['number'] as number, source from threads where @starcoder2-issues").to_pylist()
    assert {row["source"] for row in kept} == {"issues"}
    assert {int(row["number"]) for row in kept} == {n for n in range(1, 21) if n % 3} | {1}
    where = "select count(*) as n from threads where @starcoder2-pull-requests"
    assert sql(built, where).to_pylist() == [{"n": 0}], "no changes are shown without a clone"
    picked = pick(built, "good", "@starcoder2-issues", corpus="threads", validation_share=0.0)
    assert picked.named.meta["corpus"] == "threads"
    page = sql(built, "select shard, \"row\" from threads where source = 'pages' limit 1").to_pylist()[0]
    shown = explain(built, "threads", f"{page['shard']}:{page['row']}")
    assert not [one for one in shown.policies if "starcoder2" in one["policy"]], "a page has no such fields"


def forget(project: Project, recipe: Corpus, *asked: tuple[str, str]) -> forgetting.Forgotten:
    return forgetting.forget(project, "threads", recipe, [Request.parse(*one) for one in asked], scope="content", near=False)


def test_people_and_repositories_are_forgotten(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # a repository without a commit is nothing that an e-mail address is looked for in
    subprocess.run(["git", "init", "-q"], check=True)
    project, recipe = Project(tmp_path), corpus(inputs)
    (tmp_path / "recipes").mkdir()
    build(project, "threads", recipe)

    def numbers(where: str = "true") -> set[str]:
        rows = sql(project, f"select origin, path from threads.occurrences where kind like 'github%' and {where}").to_pylist()
        return {f"{row['origin'].split('/')[-1]}/{row['path']}" for row in rows}

    assert len(numbers()) == 22
    digests = {part.shard: part.digest for part in project.store.get_named("corpus", "threads").of("read")}
    done = forget(project, recipe, ("user", "@Other5"), ("user", "mole"))
    assert done.found.n_documents == 2
    assert len(numbers()) == 20
    assert {"plough/issues/5", "hedge/issues/1"}.isdisjoint(numbers())
    after = {part.shard: part.digest for part in project.store.get_named("corpus", "threads").of("read")}
    assert [shard for shard in digests if digests[shard] == after[shard]] == ["pages/00000", "pulls/00000"]
    forget(project, recipe, ("path", "octo/plough:issues/9"), ("email", "farmer10@barn-10-hedgerow.net"))
    assert {"plough/issues/9", "plough/issues/10"}.isdisjoint(numbers())
    forget(project, recipe, ("repo", "Octo/Plough"))
    assert numbers() == set()
    assert sql(project, "select count(*) as n from threads").to_pylist() == [{"n": 3}]
    left = [one for one in verify(project, "threads") if one.state == "bad"]
    assert not left
    rejects = sql(project, "select location, detail from threads.rejects").to_pylist()
    assert not [row for row in rejects if "octo" in str(row).lower()]


def test_bytes_do_not_depend_on_files_or_workers(inputs: Path, tmp_path: Path, gharchive: ModuleType) -> None:
    made = events(gharchive)
    gharchive.write(tmp_path / "hours", *made[::-2], name="2016-01-02-3.json.gz")
    gharchive.write(tmp_path / "hours", *made[-2::-2], name="2016-01-02-4.json.gz")
    (tmp_path / "pages.jsonl").write_text((inputs / "pages.jsonl").read_text())
    found = []
    for name, folder, n_workers in (("one", inputs, 1), ("two", tmp_path, 2)):
        project = Project(tmp_path / name)
        (project.folder / "recipes").mkdir(parents=True)
        named = build(project, "threads", corpus(folder), n_workers=n_workers).named
        shown = sql(project, "select * exclude (meta), meta::varchar as meta from threads.documents order by doc_id").to_pylist()
        found.append((shown, {part.shard: part.digest for part in named.of("edit")}))
    assert found[0] == found[1]
