"""datatrove's steps as parts of a recipe: decisions are signals, changed texts edits, keys follow settings and code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("datatrove", reason="datatrove is not installed: pip install 'tilth[interchange]'")

from datatrove.pipeline.base import PipelineStep
from datatrove.pipeline.filters import (
    C4QualityFilter,
    FineWebQualityFilter,
    GopherQualityFilter,
    GopherRepetitionFilter,
    LambdaFilter,
    RegexFilter,
    SamplerFilter,
)
from datatrove.pipeline.formatters import PIIFormatter, SymbolLinesFormatter

from tilth import Corpus
from tilth.catalog.pick import pick
from tilth.catalog.sql import run_sql
from tilth.corpus import JsonLines
from tilth.corpus.edits import apply_edits
from tilth.errors import BuildError, ContractError, RecipeError
from tilth.pipeline.build import build, plan_build
from tilth.pipeline.composed_edits import Change, compose
from tilth.pipeline.interchange import DatatroveStep
from tilth.pipeline.interchange.step_description import describe, libraries_of
from tilth.pipeline.interchange.text_difference import text_edits
from tilth.pipeline.project import Project

TEXTS = [
    "the quick brown fox jumps over the lazy dog and that was that " * 10,
    "# # # # # #",
    "",
    "Ünïcödé wörds that have to be with the of " * 8,
]


def _batches(texts: list[str], size: int = 3) -> list[pa.RecordBatch]:
    n = len(texts)
    table = pa.table({
        "shard": ["s"] * n,
        "row": pa.array(range(n), pa.int32()),
        "text": pa.array(texts, pa.large_string()),
        "url": pa.array([f"http://a.example/{i}" for i in range(n)], pa.string()),
        "language": pa.array(["en"] * n, pa.string()),
        "meta": pa.array([[("title", "T")]] * n, pa.map_(pa.string(), pa.string())),
    })  # fmt: skip
    return table.to_batches(size)


def _signals(name: str, step: Any, texts: list[str], size: int = 3) -> dict[str, list[Any]]:
    found = pa.concat_tables(DatatroveStep(name, step).signals(_batches(texts, size)))
    return {column.removeprefix(f"{name}_"): found.column(column).to_pylist() for column in found.column_names}


def _after(step: Any, texts: list[str], size: int = 3) -> list[str]:
    spans: dict[int, list[Change]] = {}
    for edit in DatatroveStep("x", step).edits(_batches(texts, size)).to_pylist():
        spans.setdefault(edit["row"], []).append(Change(edit["start"], edit["end"], edit["replacement"], ""))
    return [_applied(text, spans.get(row, [])) for row, text in enumerate(texts)]


def _applied(text: str, changes: list[Change]) -> str:
    at, parts = 0, []
    for start, end, replacement, _ in changes:
        assert at <= start <= end <= len(text)
        parts += [text[at:start], replacement]
        at = end
    return "".join([*parts, text[at:]])


def _outcome(step: Any, text: str) -> tuple[bool, str]:
    from datatrove.data import Document

    found = step.filter(Document(text, "0"))
    kept, reason = found if isinstance(found, tuple) else (found, "" if found else "dropped")
    return bool(kept), reason


def test_a_filter_is_signals() -> None:
    step = GopherQualityFilter(min_doc_words=20)
    found = _signals("gopher_dt", step, TEXTS)
    assert list(zip(found["keeps"], found["reason"])) == [_outcome(step, text) for text in TEXTS]
    assert any(found["reason"])
    assert found["undefined"] == [None] * len(TEXTS)
    assert found["row"] == [0, 1, 2, 3]


def test_a_step_sees_urls_languages_and_meta() -> None:
    step = LambdaFilter(lambda d: d.metadata == {"title": "T", "url": "http://a.example/1", "language": "en"})
    assert _signals("sees", step, ["a", "b"])["keeps"] == [False, True]


def test_metadata_that_a_step_sets_is_kept() -> None:
    def annotates(document: Any) -> bool:
        document.metadata["n_chars"] = len(document.text)
        return True

    assert _signals("counts", LambdaFilter(annotates), ["abc"])["annotations"] == ['{"n_chars":3}']


def test_steps_follow_on_each_other_and_tell_who_dropped() -> None:
    chain = [SymbolLinesFormatter(["|"]), RegexFilter("bad"), LambdaFilter(lambda d: "|" not in d.text)]
    found = _signals("chain", chain, ["a\n|\nb", "bad", "a | b"])
    assert found["keeps"] == [True, False, False]
    assert found["reason"] == ["", "dropped", "dropped"]
    assert _after(chain, ["a\n|\nb", "bad", "a | b"])[0] == SymbolLinesFormatter(["|"]).format("a\n|\nb")


@pytest.mark.parametrize("size", [1, 4, 100])
def test_a_step_with_a_state_runs_once_over_a_shard(size: int) -> None:
    texts = [str(i) for i in range(40)]
    step = SamplerFilter(0.5, seed=3)
    wanted = [_outcome(step, text)[0] for text in texts]
    assert _signals("sampled", SamplerFilter(0.5, seed=3), texts, size)["keeps"] == wanted
    assert len(set(wanted)) == 2


class LateFilter(PipelineStep):
    """Gives documents back in pairs, the later one first, and drops some without a word."""

    name, type = "late", "x"

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        held = []
        for document in data:
            if "drop" in document.text:
                continue
            held.append(document)
            document.text += "!"
            if len(held) == 2:
                yield from reversed(held)
                held = []
        yield from held


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(st.sampled_from(["a", "b c", "drop", "ä\nd"]), max_size=9), size=st.integers(1, 4))
def test_documents_may_come_late_and_out_of_order(texts: list[str], size: int) -> None:
    found = _signals("late", LateFilter(), texts, size) if texts else {"keeps": []}
    assert found["keeps"] == [text != "drop" for text in texts]
    assert _after(LateFilter(), texts, size) == [text if text == "drop" else f"{text}!" for text in texts]


def test_a_formatter_is_edits() -> None:
    texts = ["write to me@mail.com or 8.8.8.8 now", "nothing here", "a@gmail.com\nline two\nb@gmail.com"]
    formatter = PIIFormatter()
    assert _after(PIIFormatter(), texts) == [formatter.format(text) for text in texts]
    edits = DatatroveStep("pii_dt", PIIFormatter()).edits(_batches(texts))
    assert set(edits.column("row").to_pylist()) == {0, 2}
    assert set(edits.column("reason").to_pylist()) == {"pii_dt"}


def test_lines_that_a_formatter_takes_away_are_edits_of_lines() -> None:
    texts = ["keep\n| | |\nkeep this too\n| | |\nend"]
    assert _after(SymbolLinesFormatter(["|"]), texts) == [SymbolLinesFormatter(["|"]).format(texts[0])]
    assert DatatroveStep("symbols", SymbolLinesFormatter(["|"])).edits(_batches(texts)).num_rows >= 2


def test_what_a_step_drops_is_not_edited() -> None:
    assert _after(RegexFilter("x"), ["x", "y"]) == ["x", "y"]


class Doubles(PipelineStep):
    name, type = "doubles", "x"

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Any]:
        for document in data:
            yield document
            yield document


def test_a_step_that_is_no_map_of_documents_is_refused() -> None:
    with pytest.raises(ContractError, match="gives document `0` twice"):
        _signals("twice", Doubles(), ["a"])


def test_a_step_that_fails_names_itself_the_document_and_the_line() -> None:
    def fails(document: Any) -> bool:
        raise ValueError(f"no such thing as {document.text}")

    with pytest.raises(BuildError) as caught:
        _signals("odd", LambdaFilter(fails), ["a"])
    assert caught.value.what == "the step `odd` failed: ValueError: no such thing as a"
    assert str(caught.value.where).startswith("document s:0; ")
    assert Path(__file__).name in str(caught.value.where)


# Keys


def test_equal_steps_are_described_alike_and_others_are_not() -> None:
    assert describe(GopherQualityFilter()) == describe(GopherQualityFilter())
    assert describe(GopherQualityFilter()) != describe(GopherQualityFilter(min_doc_words=3))
    assert describe(PIIFormatter()) != describe(PIIFormatter(only_remove_public_ips=False))
    assert describe(SamplerFilter(0.5, seed=1)) == describe(SamplerFilter(0.5, seed=1))
    assert describe(SamplerFilter(0.5, seed=1)) != describe(SamplerFilter(0.5, seed=2))
    limits = [describe(LambdaFilter(lambda d, n=n: len(d.text) > n)) for n in (1, 2, 1)]
    assert limits[0] == limits[2] != limits[1]


USERS = """
from datatrove.pipeline.base import PipelineStep
LIMIT = {limit}
def long(text):
    return len(text) {sign} LIMIT
class Mine(PipelineStep):
    def __init__(self, mark): self.mark = mark
    def run(self, data, rank=0, world_size=1):
        for d in data:
            if long(d.text):
                d.text += self.mark
                yield d
"""


def _users(limit: int = 1, sign: str = ">", mark: str = "!", more: str = "") -> Any:
    made: dict[str, Any] = {"__name__": "my_recipe"}
    exec(USERS.format(limit=limit, sign=sign) + more, made)
    return describe(made["Mine"](mark))


def test_the_code_of_a_users_step_and_what_it_calls_is_in_the_key() -> None:
    assert _users() == _users(more="def other(): pass")
    told = [_users(), _users(limit=2), _users(sign=">="), _users(mark="?")]
    assert all(one != other for i, one in enumerate(told) for other in told[:i])


def test_descriptions_are_the_same_in_another_process() -> None:
    code = (
        "from datatrove.pipeline.filters import *\n"
        "from tilth.artifacts.spec import canonical_json\n"
        "from tilth.pipeline.interchange import DatatroveStep\n"
        "step = DatatroveStep('a', [GopherQualityFilter(), FineWebQualityFilter(), C4BadWordsFilter(seed=1)])\n"
        "print(canonical_json(step.description).decode())"
    )
    told = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    }
    assert len(told) == 1
    assert "min_doc_words" in told.pop()


def test_versions_of_libraries_are_in_the_key() -> None:
    assert libraries_of(PIIFormatter()) == ("datatrove",)
    assert {"datatrove", "unicode"} <= set(DatatroveStep("a", LateFilter()).libraries)


def test_what_cannot_be_described_is_refused() -> None:
    with pytest.raises(RecipeError, match="generator"):
        DatatroveStep("odd", LambdaFilter(row for row in [1]))  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="a object is no step"):
        DatatroveStep("odd", object())
    with pytest.raises(RecipeError, match="the class RegexFilter itself"):
        DatatroveStep("odd", RegexFilter)
    with pytest.raises(RecipeError, match="columns"):
        DatatroveStep("Not a name", RegexFilter("x"))


# Differences and their composition

TEXT = st.text(alphabet=st.sampled_from("ab\n\r\u2028é𝕬 "), max_size=60)


@settings(max_examples=300, deadline=None)
@given(old=TEXT, new=TEXT)
def test_edits_turn_the_old_text_into_the_new(old: str, new: str) -> None:
    assert _applied(old, [Change(*span, "") for span in text_edits(old, new)]) == new


@st.composite
def changes(draw: st.DrawFn, text: str, reason: str) -> list[Change]:
    places = sorted(draw(st.lists(st.integers(0, len(text)), max_size=8)))
    spans = [(start, end) for start, end in zip(places[::2], places[1::2])]
    found = [Change(start, end, draw(st.text("xyz", max_size=3)), reason) for start, end in spans]
    kept: list[Change] = []
    for one in found:
        is_something = one.end > one.start or one.replacement
        if is_something and (not kept or (one.start, one.end) > (kept[-1].end, kept[-1].end)):
            kept.append(one)
    return kept


@settings(max_examples=500, deadline=None)
@given(data=st.data(), text=st.text("abcdefgh", max_size=20))
def test_edits_of_edited_texts_are_edits_of_the_text(data: st.DataObject, text: str) -> None:
    first = data.draw(changes(text, "one"))
    between = _applied(text, first)
    second = data.draw(changes(between, "two"))
    composed = compose(text, first, second)
    assert _applied(text, composed) == _applied(between, second)
    assert {one.reason for one in composed} <= {"one", "two", "one_and_two", "two_and_one"}
    if not second:
        assert composed == first


# In a recipe


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    """Pages in two files."""
    pages = [
        "<b>Soil</b> is made ready by jane@farm.com for seed and rye. " * 6,
        "| | | |\nA furrow is ploughed in spring, and that is the work of the day.\n| | |",
        "short",
        "mojibake: sÃ¼Ã\x9f @ jane@farm.com",
    ]
    for name in ("a", "b"):
        records = [{"text": f"{page} {name}", "id": f"{name}{i}"} for i, page in enumerate(pages)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (tmp_path / "project" / "recipes").mkdir(parents=True)
    return tmp_path


def _corpus(folder: Path, **settings: Any) -> Corpus:
    sources = [JsonLines(name, str(folder / f"{name}.jsonl")) for name in ("a", "b")]
    return Corpus(sources=sources, **{"signals": (), "tokenizer": None, **settings})


def _made(project: Project, corpus: Corpus) -> list[str]:
    """The steps that a build would make."""
    return sorted({item.node.step.name for item in plan_build(project, "c", corpus) if item.part is None})


def test_a_build_keeps_what_a_filter_drops_and_says_why(documents: Path) -> None:
    project = Project(documents / "project")
    corpus = _corpus(
        documents,
        signals=[
            DatatroveStep("gopher_dt", GopherQualityFilter(min_doc_words=10, min_stop_words=0, max_non_alpha_words_ratio=0.1))
        ],
    )
    build(project, "c", corpus)
    rows = run_sql(project.store, "select text, gopher_dt_keeps as keeps, gopher_dt_reason as reason from c").to_pylist()
    assert len(rows) == 8
    step = GopherQualityFilter(min_doc_words=10, min_stop_words=0, max_non_alpha_words_ratio=0.1)
    assert [(row["keeps"], row["reason"]) for row in rows] == [_outcome(step, row["text"]) for row in rows]
    assert {row["keeps"] for row in rows} == {True, False}
    assert not _made(project, corpus)
    other = _corpus(
        documents,
        signals=[
            DatatroveStep("gopher_dt", GopherQualityFilter(min_doc_words=11, min_stop_words=0, max_non_alpha_words_ratio=0.1))
        ],
    )
    assert _made(project, other) == ["signals.gopher_dt"]


def test_edits_of_steps_are_made_in_their_order_and_told_of_the_text_as_it_was_read(documents: Path) -> None:
    from tilth import RedactPersonalData

    shout = LambdaFilter(_shouts)
    steps = [DatatroveStep("symbols", SymbolLinesFormatter(["|"])), RedactPersonalData(), DatatroveStep("shout", shout)]
    project = Project(documents / "project")
    build(project, "c", _corpus(documents, edits=steps))
    store = project.store
    texts = {row["id"]: row["text"] for row in run_sql(store, "select meta['id'] as id, text from c").to_pylist()}
    assert "JANE" not in texts["a0"]
    assert texts["a0"] == texts["a0"].upper()
    assert texts["a1"].startswith("\nA FURROW") or texts["a1"].startswith("A FURROW")
    read = {part.shard: store.artifact(part).path for part in store.get_named("corpus", "c").of("read")}
    import pyarrow.parquet as pq

    for part in store.get_named("corpus", "c").of("edit"):
        before = pq.read_table(read[part.shard] / "documents.parquet").combine_chunks().to_batches()[0]
        edits = pq.read_table(store.artifact(part).path / "edits.parquet")
        again = apply_edits(before, edits)
        assert again.column("text").to_pylist() == [texts[f"{part.shard[0]}{i}"] for i in range(4)]


def _shouts(document: Any) -> bool:
    document.text = document.text.upper()
    return True


def test_a_change_of_encoding_does_not_bring_an_address_back(documents: Path) -> None:
    pytest.importorskip("ftfy", reason="ftfy is not installed")
    from datatrove.pipeline.formatters import FTFYFormatter

    from tilth import RedactPersonalData

    project = Project(documents / "project")
    build(project, "c", _corpus(documents, edits=[DatatroveStep("ftfy", FTFYFormatter()), RedactPersonalData()]))
    rows = run_sql(project.store, "select text from c").to_pylist()
    assert not [row for row in rows if "jane@" in row["text"]]
    assert any("süß" in row["text"] for row in rows)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"signals": [RegexFilter("x")]}, "holds RegexFilter"),
        ({"edits": [SymbolLinesFormatter(["|"])]}, "holds SymbolLinesFormatter"),
        ({"signals": [DatatroveStep("gopher", RegexFilter("x"))]}, "name of a family"),
        ({"signals": [DatatroveStep("a", RegexFilter("x")), DatatroveStep("a", RegexFilter("y"))]}, "are named `a`"),
        ({"edits": [DatatroveStep("a", RegexFilter("x")), DatatroveStep("a", RegexFilter("y"))]}, "are named `a`"),
        ({"edits": [DatatroveStep("a", RegexFilter("x")), "lines"]}, "as they were read"),
    ],
)
def test_mistakes_are_said(documents: Path, settings: dict[str, Any], message: str) -> None:
    from tilth import RepeatedLines

    if "lines" in settings.get("edits", ()):
        settings = {"edits": [settings["edits"][0], RepeatedLines()]}
    with pytest.raises(RecipeError, match=message):
        plan_build(Project(documents / "project"), "c", _corpus(documents, **settings))


def test_two_parts_of_a_corpus_cannot_make_the_same_output(documents: Path) -> None:
    from tilth import Bpe

    corpus = _corpus(documents, signals=[DatatroveStep("tokens", RegexFilter("x"))], tokenizer=Bpe(300))
    with pytest.raises(RecipeError, match=r"two parts of the corpus make `signals.tokens`"):
        plan_build(Project(documents / "project"), "c", corpus)


RECIPE = """
from datatrove.pipeline.base import PipelineStep
from tilth import Corpus
from tilth.corpus import JsonLines
from tilth.pipeline.interchange import DatatroveStep

LIMIT = 10

class Mine(PipelineStep):
    name, type = "mine", "x"
    def run(self, data, rank=0, world_size=1):
        for document in data:
            if len(document.text) > LIMIT:
                document.text = document.text.replace("|", "")
                yield document

def corpus() -> Corpus:
    sources = [JsonLines(name, f"{folder}/{{name}}.jsonl") for name in ("a", "b")]
    return Corpus(sources, signals=[DatatroveStep("mine", Mine())], edits=[DatatroveStep("bars", Mine())], tokenizer=None)
"""


@pytest.mark.cluster
def test_a_class_of_the_recipe_goes_to_the_workers(documents: Path, tilth: Callable[..., Any]) -> None:
    project = documents / "project"
    (project / "recipes" / "mine.py").write_text(RECIPE.format(folder=documents))
    tilth("build", "mine", "--workers", "2", cwd=project)
    (row,) = json.loads(tilth("sql", "select sum(mine_keeps::int) as n, count(*) as m from mine", "--json", cwd=project).stdout)
    assert row == {"n": 6, "m": 8}
    assert "up to date" in tilth("build", "mine", cwd=project).stderr  # the same keys in this process


def test_without_datatrove_the_extra_is_named(tmp_path: Path, tilth: Callable[..., Any]) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "mine.py").write_text(RECIPE.format(folder=tmp_path))
    (tmp_path / "hidden" / "datatrove").mkdir(parents=True)
    (tmp_path / "hidden" / "datatrove" / "__init__.py").write_text(
        "raise ModuleNotFoundError('No module named datatrove', name='datatrove')"
    )
    path = os.pathsep.join([str(tmp_path / "hidden"), *filter(None, [os.environ.get("PYTHONPATH")])])
    said = tilth("build", "mine", cwd=tmp_path, expect=2, PYTHONPATH=path).stderr
    assert "pip install 'tilth[interchange]'" in said


@pytest.mark.data
def test_policies_pick_what_datatrove_keeps(tmp_path: Path, test_data: Path) -> None:
    """`@gopher`, `@c4` and `@fineweb` against datatrove's own filters over real documents, through `pick`."""
    pytest.importorskip("spacy", reason="datatrove cuts English words with spaCy")
    (tmp_path / "recipes").mkdir()
    project = Project(tmp_path)
    after_c4 = [C4QualityFilter(filter_no_terminal_punct=False), FineWebQualityFilter()]
    corpus = Corpus(
        sources=[JsonLines("docs", str(test_data / "rpv2_reference" / "docs.jsonl"), max_bytes=600_000)],
        signals=[
            "gopher", "gopher_repetition", "c4", "fineweb", "language",
            DatatroveStep("gopher_dt", [GopherRepetitionFilter(), GopherQualityFilter()]),
            DatatroveStep("c4_dt", C4QualityFilter()),
            DatatroveStep("fineweb_dt", [GopherRepetitionFilter(), GopherQualityFilter(), *after_c4]),
        ],
        tokenizer=None,
    )  # fmt: skip
    build(project, "web", corpus)
    for policy, theirs in (
        ("@gopher", "gopher_dt_keeps"),
        ("@c4", "c4_dt_keeps"),
        ("@fineweb", "fineweb_dt_keeps and lid_language = 'en' and lid_score >= 0.65"),
    ):
        found = run_sql(
            project.store, f"select count(*) filter ({policy}) as n, count(*) filter (({policy}) <> ({theirs})) as o from web"
        )
        (row,) = found.to_pylist()
        assert row["o"] == 0, policy
        if row["n"]:
            assert (
                pick(project.store, "web", "x", policy).n_documents
                == pick(project.store, "web", "y", theirs).n_documents
                == row["n"]
            )
    assert run_sql(project.store, "select count(*) as n from web where @gopher").to_pylist()[0]["n"] > 10
