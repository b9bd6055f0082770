"""A Llama of HF's as a run: arithmetic in its own tokens, runs that begin from it, answers and preferences, served and traced."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from tilth.corpus.questions.arithmetic import Arithmetic
from tilth.corpus.questions.problem import document_of
from tilth.corpus.sources.preferences import Preferences
from tilth.corpus.sources.questions import Questions
from tilth.deploy.server.serve import ServeOptions, open_served
from tilth.errors import NotFoundError, RecipeError, SourceError
from tilth.inference.generate import generate
from tilth.models.weights import load_model
from tilth.pipeline.build import build, plan_build
from tilth.pipeline.curate import pick, sql
from tilth.pipeline.distill import distill
from tilth.pipeline.foreign_models import export_model
from tilth.pipeline.imported_runs import import_run
from tilth.pipeline.inventory import inventory
from tilth.pipeline.launch import train
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import Bpe, CodeForm, Corpus, Distill, PretrainedTokenizer, Train
from tilth.pipeline.served_models import find_models
from tilth.pipeline.trace import trace
from tilth.pipeline.why import Why
from tilth.report import write_report
from tilth.tokenize.bpe import Tokenizer
from tilth.tokenize.mixture import Source, TokenMixture
from tilth.tokenize.text_ends import text_ends

transformers = pytest.importorskip("transformers")
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore")]

SUMS = Arithmetic(n=80, n_steps=(1, 2), largest=30)
# The splitting pattern of Llama 3's published tokenizer.json.
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SETTINGS: dict[str, Any] = {
    "steps": 3, "seq_len": 64, "global_batch": 4, "lr": 1e-3, "seed": 5, "eval_batches": 1, "device": "cpu", "document_losses": True
}  # fmt: skip


def write_tokenizer(path: Path) -> None:
    library = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated")
    library.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    library.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = [document_of(problem) for problem in SUMS.problems()]
    library.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=380, initial_alphabet=alphabet, show_progress=False))
    library.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    first = library.token_to_id("<|begin_of_text|>")
    library.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", first)]
    )
    library.save(str(path))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as HF publishes models: config, weights, tokenizer."""
    folder = tmp_path_factory.mktemp("hf") / "llama"
    folder.mkdir()
    write_tokenizer(folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "tokenizer_class": "PreTrainedTokenizerFast"}
        )
    )
    torch.manual_seed(2)
    config = transformers.LlamaConfig(
        vocab_size=Tokenizer.open(folder).vocab_size, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, max_position_embeddings=256, tie_word_embeddings=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.2)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def project(llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with arithmetic and preferences in the tokens of the Llama, which is its run `llama`."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "recipes").mkdir()
    pairs = [
        {"prompt": f"Question: {each.question}", "chosen": f" #### {each.answer}", "rejected": f" #### {int(each.answer) + 1}"}
        for each in SUMS.problems()
    ]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs[:30]))
    made = Project(folder)
    corpus = Corpus(
        sources=[Questions("sums", SUMS), Preferences("pairs", str(folder / "pairs.jsonl"))],
        signals=(),
        tokenizer=PretrainedTokenizer(str(llama)),
    )
    build(made, "arithmetic", corpus)
    pick(made, "sums", "source = 'sums'", corpus="arithmetic", validation_share=0.1)
    pick(made, "pairs", "source = 'pairs'", corpus="arithmetic", validation_share=0.0)
    import_run(made, "llama", llama)
    return made


def hf_loss(llama: Path, tokens: Path, settings: dict[str, Any]) -> float:
    """The loss of HF's model on the first step of a run, document by document."""
    model = transformers.AutoModelForCausalLM.from_pretrained(llama).eval()
    held = TokenMixture.open([Source("sums", tokens)])
    total, count = 0.0, 0
    for plan in held.order(settings["seq_len"], settings["global_batch"], settings["seed"]).batch(0):
        ids, targets, segments = (torch.from_numpy(column) for column in held.sequence(plan))
        for number in segments.unique():
            own = segments == number
            with torch.no_grad():
                log_p = torch.log_softmax(model(ids[own][None]).logits[0].double(), -1)
            asked = targets[own] >= 0
            total -= float(log_p[asked].gather(1, targets[own][asked, None]).sum())
            count += int(asked.sum())
    return total / count


def test_the_corpus_has_the_models_tokens(project: Project, llama: Path) -> None:
    named = project.store.get_named("corpus", "arithmetic")
    folder = project.store.artifact(named.one("tokenizer")).path
    assert (folder / "tokenizer.json").read_bytes() == (llama / "tokenizer.json").read_bytes()
    tokenizer = Tokenizer.open(folder)
    assert tokenizer.separator == "<|end_of_text|>"
    rows = sql(project, "select text, n_tokens, meta['answer'] as answer from arithmetic where source = 'sums'").to_pylist()
    assert len(rows) == 80
    theirs = transformers.AutoTokenizer.from_pretrained(llama)
    for row in rows:
        ids = theirs(row["text"], add_special_tokens=False)["input_ids"]
        assert (row["n_tokens"], tokenizer.encode(row["text"]).tolist()) == (len(ids) + 1, ids)
        assert row["text"].endswith(f"#### {row['answer']}")


def test_a_run_begins_with_the_imported_weights(project: Project, llama: Path) -> None:
    launched = train(project, "tuned", Train(subset="sums", initial="llama", settings=SETTINGS))
    losses = sql(project, "select step, loss from losses where run = 'tuned' order by step").to_pylist()
    tokens = project.store.artifact(launched.named.one("tokens.train")).path
    assert losses[0]["loss"] == pytest.approx(hf_loss(llama, tokens, SETTINGS), rel=1e-5)
    # documents are read as HF's tokenizer begins a text, and the tuned model is asked so, too
    theirs = transformers.AutoTokenizer.from_pretrained(llama)("a")["input_ids"][0]
    held = TokenMixture.open([Source("sums", tokens)])
    ids, _, _ = held.sequence(held.order(SETTINGS["seq_len"], SETTINGS["global_batch"], SETTINGS["seed"]).batch(0)[0])
    assert theirs in ids
    assert held.sets[0].separator_id not in ids
    run = project.store.artifact(launched.named.one("train")).path
    assert text_ends(Tokenizer.open(run), run).first_ids == (theirs,)
    assert losses[-1]["loss"] < losses[0]["loss"]
    assert launched.named.meta["base"] == "llama"
    assert Tokenizer.open(launched.artifact.path).separator == "<|end_of_text|>"
    reads = Why(project, "tuned").step(0)
    assert {read.document["source"] for read in reads} == {"sums"}
    assert all(read.loss is not None for read in reads if read.n_tokens > 1)
    traced = trace(project, "tuned", 0, 1, 3)
    assert traced.document["source"] == "sums"
    assert f"⟦{traced.token}⟧" in traced.context
    page = write_report(project.store, project.folder / "report.html").read_text()
    assert 'data-link="run/llama run/tuned"' in page
    assert "imported" in page


def test_it_is_served_as_what_it_was_published_as(
    project: Project, llama: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(project.folder)
    found = find_models("llama")
    served, _ = open_served(ServeOptions(base=found.folder), load_model(found.folder))
    assert (served.tokenizer.separator, found.name) == ("<|end_of_text|>", "llama")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(llama).eval()
    ids = served.tokenizer.encode("Question: 2 + 3\nAnswer:").tolist()
    wanted = theirs.generate(torch.tensor([ids]), max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert generate(load_model(found.folder), ids, 6, temperature=0.0) == wanted[0, len(ids) :].tolist()


def test_answers_and_preferences_are_learnt_from_it(project: Project) -> None:
    answers = Train(subset="sums", initial="llama", settings={**SETTINGS, "objective": "answers"})
    launched = train(project, "answering", answers)
    assert launched.named.meta["start_loss"] > launched.named.meta["end_loss"]
    tokens = TokenMixture.open([Source("sums", project.store.artifact(launched.named.one("tokens.train")).path)])
    tokenizer = tokens.sets[0].tokenizer()
    for sequence, read in enumerate(Why(project, "answering").step(1)):
        assert read.loss is not None
        first = [trace(project, "answering", 1, sequence, position) for position in (1, 2, 8)]
        assert {one.document["row"] for one in first} == {read.document["row"]}
        assert [one.offset for one in first] == [0, 1, 7]
        assert first[0].token == "Question" or "Question".startswith(first[0].token)
        with pytest.raises(NotFoundError, match="begins with is a separator"):
            trace(project, "answering", 1, sequence, 0)
    preferring = Train(subset="pairs", initial="answering", settings={**SETTINGS, "objective": "preferences", "beta": 0.5})
    chosen = train(project, "preferring", preferring)
    assert chosen.named.meta["start_loss"] == pytest.approx(0.6931, abs=1e-3)
    assert chosen.named.meta["end_loss"] < 0.69
    (read, *_) = Why(project, "preferring").step(0, 0)
    assert read.document["source"] == "pairs"
    assert tokenizer.separator == "<|end_of_text|>"
    with pytest.raises(RecipeError, match=r"\d+ of \d+ documents of `sums` are no pairs"):
        train(project, "no", Train(subset="sums", initial="llama", settings={**SETTINGS, "objective": "preferences"}))
    fresh = {"layers": "A", "d_model": 32, "n_heads": 2}
    with pytest.raises(RecipeError, match="needs a reference"):
        train(project, "no", Train(subset="pairs", model=fresh, settings={**SETTINGS, "objective": "preferences"}))


def test_an_imported_run_is_known_by_its_bytes(project: Project, llama: Path, tmp_path: Path) -> None:
    named, made = import_run(project, "again", llama)
    assert made is None
    assert named.one("train") == project.store.get_named("run", "llama").one("train")
    assert named.meta["imported"] == "HF Llama"
    for path in llama.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    generation = tmp_path / "generation_config.json"
    generation.write_text(json.dumps({"eos_token_id": 3}))
    _, made = import_run(project, "other", tmp_path)
    assert made is not None
    told = {row["name"]: row for row in inventory(project, "runs")}
    assert "imported as HF Llama" in str(told["other"])
    for ask in (lambda: Why(project, "llama"), lambda: trace(project, "llama", 0)):
        with pytest.raises(NotFoundError, match="was imported: what it was trained on is not here"):
            ask()
    back = export_model(project.store.artifact(named.one("train")).path, tmp_path / "out")
    assert transformers.AutoConfig.from_pretrained(back.folder).max_position_embeddings == 256


DIE = """
import os, sys
from pathlib import Path
from tilth.pipeline import imported_runs
from tilth.pipeline.project import Project
whole = imported_runs.write_imported
imported_runs.write_imported = lambda *given: (whole(*given), os.kill(os.getpid(), 9))
imported_runs.import_run(Project(Path(sys.argv[1])), "llama", Path(sys.argv[2]))
"""


def test_of_a_killed_import_nothing_stays(llama: Path, tmp_path: Path) -> None:
    project = Project(tmp_path)
    (tmp_path / "recipes").mkdir()
    done = subprocess.run([sys.executable, "-c", DIE, str(tmp_path), str(llama)], check=False)
    assert done.returncode == -9
    partials = project.store.root / "partial"
    assert any(partials.iterdir())
    assert project.store.sweep() == 1
    assert not any(partials.iterdir())
    named, converted = import_run(project, "llama", llama)
    assert converted is not None
    assert converted.tokenizer_files == ["tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    assert project.store.artifact(named.one("train")).path.is_dir()


def test_what_is_no_model_with_a_tokenizer_is_refused(project: Project, llama: Path, tmp_path: Path) -> None:
    for path in llama.iterdir():
        if path.name != "tokenizer.json":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(SourceError, match=r"no tokenizer\.json"):
        import_run(project, "bare", tmp_path)
    with pytest.raises(NotFoundError, match="no such folder"):
        import_run(project, "bare", tmp_path / "nothing")
    with pytest.raises(RecipeError, match="cannot be a name"):
        import_run(project, "1st", llama)
    train(project, "own", Train(subset="sums", initial="llama", settings={**SETTINGS, "steps": 1}))
    with pytest.raises(RecipeError, match="which was trained here"):
        import_run(project, "own", llama)
    assert project.store.find_named("run", "bare") is None


def test_a_corpus_of_another_tokenizer_does_not_fit_the_model(project: Project) -> None:
    build(project, "others", Corpus(sources=[Questions("sums", SUMS)], signals=(), tokenizer=Bpe(300)))
    pick(project, "others", "true", corpus="others", validation_share=0.0)
    with pytest.raises(RecipeError, match="another tokenizer"):
        train(project, "no", Train(subset="others", initial="llama", settings=SETTINGS))


def test_what_decides_the_tokenizer_of_a_corpus(project: Project, llama: Path, tmp_path: Path) -> None:
    def planned(**changes: Any) -> Any:
        settings: dict[str, Any] = {
            "sources": [Questions("sums", SUMS)],
            "signals": (),
            "tokenizer": PretrainedTokenizer(str(llama)),
        } | changes
        return next(item for item in plan_build(project, "arithmetic", Corpus(**settings)) if item.node.id == "tokenizer")

    assert planned().part is not None  # it is there, though the corpus is another one
    copy = tmp_path / "copied.json"
    copy.write_bytes((llama / "tokenizer.json").read_bytes())
    assert planned(tokenizer=PretrainedTokenizer(str(copy))).part is not None  # wherever it lies
    assert planned(tokenizer=PretrainedTokenizer("llama")).part is not None  # of the run
    with pytest.raises(RecipeError, match=r"no tokenizer\.json"):
        planned(tokenizer=PretrainedTokenizer("alpaca"))
    assert planned(tokenizer=PretrainedTokenizer(str(copy), "<|eot_id|>")).part is None
    with pytest.raises(RecipeError, match="has no special token `<repo_name>`"):
        planned(training_form=CodeForm())
    copy.write_bytes(copy.read_bytes() + b"\n")
    assert planned(tokenizer=PretrainedTokenizer(str(copy))).part is None


def test_a_separator_that_its_name_does_not_tell_goes_with_the_run(
    project: Project, llama: Path, caplog: pytest.LogCaptureFixture
) -> None:
    corpus = Corpus(sources=[Questions("sums", SUMS)], signals=(), tokenizer=PretrainedTokenizer(str(llama), "<|eot_id|>"))
    build(project, "chats", corpus)
    pick(project, "chats", "true", corpus="chats", validation_share=0.0)
    settings = {**SETTINGS, "steps": 1, "objective": "answers"}
    launched = train(project, "chatting", Train(subset="chats", initial="llama", settings=settings))
    told = "its texts end with `<|end_of_text|>`, these with `<|eot_id|>`"
    assert f"run `llama`: {told}, which is learnt anew" in caplog.text
    kd = {**SETTINGS, "steps": 1, "objective": "distillation"}
    with pytest.raises(RecipeError, match=r"subset `chats`: its texts end with `<\|end_of_text\|>`, these with `<\|eot_id\|>`"):
        distill(project, "no", Distill("chats", "llama", "DA", [kd]))
    tokenizer = Tokenizer.open(launched.artifact.path)
    assert tokenizer.separator == "<|eot_id|>"
    tokens = TokenMixture.open([Source("chats", project.store.artifact(launched.named.one("tokens.train")).path)])
    assert tokens.sets[0].document(0)[-1] == tokenizer.special_ids["<|eot_id|>"]
    config = json.loads((launched.artifact.path / "tokenizer_config.json").read_text())
    assert config == {"eos_token": "<|eot_id|>", "bos_token": "<|begin_of_text|>", "add_bos_token": True}


def test_a_student_of_the_imported_model(project: Project) -> None:
    """All stages of MOHAWK and answers, of a teacher with grouped keys whose tokens nobody counted."""
    names = ("orientation", "alignment", "distillation", "answers")
    stages = [{**SETTINGS, "objective": name} for name in names]
    found = distill(project, "student", Distill("sums", "llama", "DA", stages, cached_logits=16))
    assert [stage.launched.named.name for stage in found] == [*(f"student-{name}" for name in names[:3]), "student"]
    assert {stage.n_teacher_tokens for stage in found} == {None}
    losses = [stage.teacher_loss for stage in found]
    assert losses[0] == losses[1] == losses[2] != losses[3]  # that of the answers alone
    assert all(stage.gap is not None for stage in found)
    assert trace(project, "student", 1, 2, 3).document["doc_id"]
    assert Tokenizer.open(found[-1].launched.artifact.path).separator == "<|end_of_text|>"
    with pytest.raises(RecipeError, match="no answer"):
        distill(project, "other", Distill("sums", "llama", "DA", [{**stages[3], "answers_after": "Reply:"}]))


def test_the_verb(project: Project, llama: Path, tilth: Callable[..., Any]) -> None:
    done = tilth("import-hf", str(llama), "--run", "typed", "--json", cwd=project.folder)
    facts = json.loads(done.stdout)
    assert facts["run"].startswith("run/typed@")
    assert "imported as HF Llama" in tilth("ls", "runs", cwd=project.folder).stdout
    tilth("import-hf", str(llama), cwd=project.folder, expect=2)
    tilth("import-hf", str(llama), "out", "--run", "both", cwd=project.folder, expect=2)
