"""From any token of a code corpus back to bytes of a file in git: through context, filling in, edits and SQL."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner

from tilth.artifacts import Named
from tilth.catalog.provenance import Provenance
from tilth.catalog.trace import documents_at
from tilth.cli.main import cli
from tilth.corpus.edits import edited
from tilth.corpus.sources.folder import Folder
from tilth.corpus.sources.git_repositories import GitRepositories
from tilth.errors import NotFoundError, RecipeError, StoreError
from tilth.pipeline.build import build
from tilth.pipeline.curate import pick, sql
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import Bpe, CodeForm, Corpus, RedactPersonalData
from tilth.pipeline.tokenise import tokenise_subset
from tilth.pipeline.trace import TokenShard, trace_token
from tilth.tokenize.bpe import Tokenizer

IDENTITY = {"NAME": "A", "EMAIL": "a@example.org", "DATE": "2026-01-01T00:00:00Z"}
FORM = CodeForm(order="dependency", names=1.0, fim_repositories=1.0, fim_files=0.7)


def _repository(folder: Path, seed: int) -> None:
    random_ = random.Random(seed)
    (folder / "pkg").mkdir(parents=True)
    (folder / "LICENSE").write_text(f"SPDX-License-Identifier: MIT\nOf farm {seed}.\n")
    for i in range(8):
        lines = [f"import pkg.m{(i + 1) % 8}", "# Blüte 🌱 <fim_middle> <|endoftext|>"]
        lines += [f"plough_{random_.randrange(99)} = '{random_.randrange(10**6)}'" for _ in range(30)]
        lines.insert(random_.randrange(len(lines)), f"mail = 'farmer{i}.{seed}@barn-{seed}-hedgerow.net'  # é")
        (folder / "pkg" / f"m{i}.py").write_text("\n".join(lines) + "\n")
    names = {f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER") for what, value in IDENTITY.items()}
    for words in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True, env={**os.environ, **names})


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("code")
    for seed in range(3):
        _repository(folder / "clones" / f"farm{seed}", seed)
    (folder / "pages").mkdir()
    for i in range(4):
        (folder / "pages" / f"{i}.txt").write_text(f"Page {i} says <file_sep> to anna@b{i}-brook.net and goes on.\n" * 3)
    return folder


def _tokens(folder: Path, inputs: Path, form: CodeForm | None) -> tuple[Project, Named]:
    (folder / "recipes").mkdir(parents=True)
    project = Project(folder)
    corpus = Corpus(
        sources=[GitRepositories("code", str(inputs / "clones")), Folder("pages", str(inputs / "pages"))],
        signals=[],
        edits=[RedactPersonalData()],
        tokenizer=Bpe(400),
        training_form=form,
    )
    build(project, "farm", corpus)
    tokens = tokenise_subset(project.store, pick(project, "all", "true", corpus="farm", validation_share=0.0).named)
    return project, tokens


@pytest.fixture(scope="module")
def formed(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> tuple[Project, Named]:
    return _tokens(tmp_path_factory.mktemp("formed") / "project", inputs, FORM)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, inputs: Path) -> tuple[Project, Named]:
    return _tokens(tmp_path_factory.mktemp("plain") / "project", inputs, None)


def _blobs(inputs: Path) -> dict[str, bytes]:
    """Every file of the repositories by SWHID, as git gives it back."""
    found = {}
    for clone in sorted((inputs / "clones").iterdir()):
        listed = subprocess.run(["git", "-C", str(clone), "ls-tree", "-r", "HEAD"], check=True, capture_output=True, text=True)
        for line in listed.stdout.splitlines():
            oid = line.split()[2]
            blob = subprocess.run(["git", "-C", str(clone), "cat-file", "blob", oid], check=True, capture_output=True)
            found[f"swh:1:cnt:{oid}"] = blob.stdout
    return found


def _edits(project: Project) -> dict[tuple[str, int], list[tuple[int, int, str]]]:
    rows = sql(project, 'select shard, "row", start, "end", replacement from farm.edits order by all').to_pylist()
    found: dict[tuple[str, int], list[tuple[int, int, str]]] = {}
    for row in rows:
        found.setdefault((row["shard"], row["row"]), []).append((row["start"], row["end"], row["replacement"]))
    return found


def _token_bytes(tokenizer: Tokenizer, number: int) -> bytes:
    """What a token stands for: bytes that are no whole character are read beside one that makes them so."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    alphabet = {chr(byte) if byte in shown else chr(256 + hidden.index(byte)): byte for byte in range(256)}
    return bytes(alphabet[char] for char in tokenizer._library.id_to_token(number))


@pytest.mark.parametrize("which", ["formed", "plain"])
def test_every_token_is_bytes_in_git_after_the_recorded_edits(which: str, inputs: Path, request: pytest.FixtureRequest) -> None:
    project, _ = request.getfixturevalue(which)
    blobs, edits = _blobs(inputs), _edits(project)
    kinds = dict.fromkeys(("text", "edited", "synthetic"), 0)
    with TokenShard(project, "all/train") as shard:
        special = set(shard.tokenizer.special_ids.values())
        for offset in range(0, shard.tokens.n_tokens, 3):
            found = shard.at(offset)
            kinds[found.kind] += 1
            number = int(shard.tokens.tokens[offset])
            if found.kind == "synthetic":
                assert found.start is None
                continue
            document = found.document
            if document["source"] != "code":
                continue
            assert number not in special
            assert document["path"]
            assert document["licence"] == "MIT"
            data, token = blobs[document["raw_swhid"]], _token_bytes(shard.tokenizer, number)
            trained = edited(data.decode(), edits.get((document["shard"], document["row"]), [])).encode()
            assert trained[found.start : found.end] == token
            if found.kind == "text":
                assert data[found.source_start : found.source_end] == token
            else:
                assert b"@" in data[found.source_start : found.source_end]
    assert all(kinds.values())


def test_sql_gives_the_source_of_every_code_token(formed: tuple[Project, Named]) -> None:
    project, _ = formed
    query = """
        select count(*) as n_spans, sum(token_end - token_start) as n_tokens,
            count(*) filter (d.raw_swhid is null or d.path is null or d.licence is null or s.source_start is null) as n_lost
        from token_spans as s left join farm as d using (shard, "row")
        where tokens = 'all' and split = 'train' and kind <> 'synthetic' and coalesce(d.source, 'code') = 'code'
    """
    (row,) = sql(project, query).to_pylist()
    assert row["n_lost"] == 0
    assert row["n_tokens"] > 5_000
    (tiles,) = sql(project, "select sum(token_end - token_start) as n, max(token_end) as last from token_spans").to_pylist()
    assert tiles["n"] == tiles["last"]


def test_an_open_session_tells_what_the_catalog_tells(formed: tuple[Project, Named], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilth.catalog.provenance._ROWS_A_BATCH", 3)
    project, _ = formed
    subset = project.store.get_named("subset", "all")
    rows = sql(project, 'select shard, "row" from farm order by path desc').to_pylist()
    places = [(row["shard"], row["row"]) for row in rows]
    provenance = Provenance(project.store, subset)
    for place, wanted in zip(places, documents_at(project.store, subset, places).to_pylist(), strict=True):
        found = provenance.at(*place)
        assert found.items() >= {name: wanted[name] for name in found if name != "encoding"}.items()
        assert found["encoding"] == "utf-8"
    assert len({shard for shard, _ in places}) == 4
    for shard, row in (("code/00000", 99), ("code/00000", -1), ("code/99999", 0)):
        with pytest.raises(NotFoundError):
            provenance.at(shard, row)
    provenance.close()
    assert not list((project.store.root / "catalog").glob("*.arrow"))


def test_places_in_long_files_are_sums_of_blocks(formed: tuple[Project, Named], monkeypatch: pytest.MonkeyPatch) -> None:
    project, _ = formed
    with TokenShard(project, "all/train") as whole, TokenShard(project, "all/train") as blocks:
        offsets = random.Random(0).sample(range(whole.tokens.n_tokens), 300)
        wanted = [whole.at(offset) for offset in offsets]
        monkeypatch.setattr("tilth.pipeline.trace._BLOCK", 16)
        assert [blocks.at(offset) for offset in offsets] == wanted
        assert len(blocks._n_bytes_of) > 20


def test_pages_are_what_they_are_without_a_form(formed: tuple[Project, Named], plain: tuple[Project, Named]) -> None:
    texts = {}
    for project, _ in (formed, plain):
        with TokenShard(project, "all") as shard:
            rows = shard.tokens.rows(range(shard.tokens.n_documents)).to_pylist()
            pages = [place for place, row in enumerate(rows) if row["shard"].startswith("pages/")]
            texts[project.folder] = [shard.tokenizer.decode(shard.tokens.document(place)) for place in pages]
            for place in pages:
                ids = shard.tokens.document(place)[:-1]
                assert ids.tolist() == shard.tokenizer.encode(shard.tokenizer.decode(ids)).tolist()
    first, second = texts.values()
    assert first == second
    assert len(first) == 4


def test_repositories_are_training_documents(formed: tuple[Project, Named]) -> None:
    project, _ = formed
    with TokenShard(project, "all") as shard:
        assert shard.tokens.n_documents == 3 + 4
        text = shard.tokenizer.decode(shard.tokens.document(0))
    assert re.match(r"<repo_name>farm\d<file_sep>LICENSE\n", text)
    places = [text.index(f"<file_sep>pkg/m{i}.py\n") for i in range(8)]
    # m0 imports m1 and so on, m7 imports m0: the walk begins at m0 and breaks the cycle there.
    assert places == sorted(places, reverse=True)


def test_the_same_inputs_give_the_same_tokens_and_spans(tmp_path: Path, inputs: Path, formed: tuple[Project, Named]) -> None:
    _, again = _tokens(tmp_path / "project", inputs, FORM)
    assert [part.digest for part in again.parts] == [part.digest for part in formed[1].parts]
    _, other = _tokens(tmp_path / "other", inputs, CodeForm(order="path"))
    assert other.parts != again.parts


def test_places_that_are_not_there_are_named(formed: tuple[Project, Named]) -> None:
    project, _ = formed
    assert trace_token(project, "all/train:0").token == "<repo_name>"
    with TokenShard(project, "all") as shard:
        assert trace_token(project, "all:9").context == shard.at(9).context
    for place in ("all/train:999999999", "all/test:0", "nothing:0", "all", "all:-1"):
        with pytest.raises(NotFoundError):
            trace_token(project, place)


def test_the_verb_prints_where_a_token_comes_from(formed: tuple[Project, Named]) -> None:
    project, _ = formed
    place = next(place for place in range(9, 99) if trace_token(project, f"all:{place}").kind == "text")
    run = partial(CliRunner().invoke, cli, env={"TILTH_PROJECT": str(project.folder)})
    shown = run(["trace", f"all/train:{place}"])
    assert shown.exit_code == 0, shown.output
    assert all(word in shown.output for word in ("bytes as read", "raw_swhid", "swh:1:cnt:", "licence", "MIT"))
    as_json = json.loads(run(["trace", f"all/train:{place}", "--json"]).output)
    assert as_json["source_end"] > as_json["source_start"] >= 0
    assert run(["trace", "all"]).exit_code == 2


def test_tokens_of_a_subset_that_was_picked_anew_are_not_traced(tmp_path: Path, inputs: Path) -> None:
    project, _ = _tokens(tmp_path / "project", inputs, FORM)
    pick(project, "all", "source = 'code'", corpus="farm", validation_share=0.0)
    with pytest.raises(StoreError, match="picked anew"):
        TokenShard(project, "all/train")


def test_a_form_needs_a_tokenizer() -> None:
    with pytest.raises(RecipeError, match="needs a tokenizer"):
        Corpus(sources=[Folder("pages", "pages")], tokenizer=None, training_form=CodeForm())
