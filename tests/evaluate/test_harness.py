"""EleutherAI's harness on an exported model: what is refused, what is read back, and, where it is installed, the real one."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tilth.errors import NotFoundError, SourceError, TilthError, UserError
from tilth.evaluate import harness
from tilth.evaluate.harness import run_harness
from tilth.models.decoder import Decoder
from tilth.models.weights import load_model, save_model
from tilth.pipeline.foreign_models import export_model
from tilth.tokenize.bpe import Tokenizer, train_bpe

pytestmark = pytest.mark.usefixtures("one_thread", "fixed_seed")
# Stands in for the harness: says what it was asked, as the real one says its results.
STAND_IN = """
import json, os, pathlib, sys
words = sys.argv[1:]
told = dict(zip(words[1::2], words[2::2]))
if "broken" in told["--tasks"]:
    sys.exit("ValueError: Tasks not found: broken")
out = pathlib.Path(told["--output_path"]) / "model"
out.mkdir()
result = {"alias": "sums", "sample_len": 4, "acc,none": 0.25, "acc_stderr,none": 0.2, "exact_match,strict-match": 1, "name": "sums", "x,none": "N/A"}
told |= {"offline": os.environ.get("HF_DATASETS_OFFLINE"), "cwd": os.getcwd(), "verb": words[0]}
(out / "results_2026.json").write_text(json.dumps({"results": {"sums": result}, "n-samples": {"sums": {"original": 9, "effective": 4}}, "told": told}))
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module lm_eval for the processes that this one starts, and an exported folder."""
    package = tmp_path / "packages" / "lm_eval"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(STAND_IN)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    monkeypatch.delenv("HF_DATASETS_OFFLINE", raising=False)
    monkeypatch.setattr(harness, "check_installed", lambda: None)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text("{}")
    return tmp_path / "hf"


def test_scores_come_back_by_task_and_metric(stand_in: Path, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    found = run_harness(stand_in, ["sums", "more"], task_folder=tmp_path / "tasks", n_shots=2, limit=4, seed=5, batch_size=3)
    assert found.scores == {"sums": {"acc": 0.25, "acc_stderr": 0.2, "exact_match,strict-match": 1.0}}
    assert found.n_samples == {"sums": 4}
    told = found.raw["told"]
    assert (told["verb"], told["--tasks"], told["--num_fewshot"], told["--limit"]) == ("run", "sums,more", "2", "4")
    assert (told["--seed"], told["--batch_size"], told["offline"], told["cwd"]) == ("5", "3", "1", str(tmp_path / "tasks"))
    assert told["--model_args"] == f"pretrained={stand_in},dtype=float32"
    online = run_harness(stand_in, ["sums"], is_offline=False).raw["told"]
    assert online["offline"] is None
    assert "--num_fewshot" not in online


def test_a_failure_shows_the_last_lines_of_the_harness(stand_in: Path) -> None:
    with pytest.raises(TilthError, match="Tasks not found: broken") as caught:
        run_harness(stand_in, ["broken"])
    assert "is_offline" in (caught.value.fix or "")


def test_what_cannot_be_scored_is_refused(stand_in: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no exported model"):
        run_harness(tmp_path, ["sums"])
    with pytest.raises(NotFoundError, match="no folder of tasks"):
        run_harness(stand_in, ["sums"], task_folder=tmp_path / "none")
    with pytest.raises(UserError, match="no task"):
        run_harness(stand_in, [])


@pytest.mark.parametrize(
    ("is_there", "found", "match"),
    [(False, "", "not installed"), (True, "0.4.9", "too old"), (True, "0.4.13", None), (True, "0.5", None)],
)
def test_a_missing_or_old_harness_is_refused_with_the_command(
    is_there: bool, found: str, match: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if is_there else None)
    monkeypatch.setattr(harness, "version", lambda name: found)
    if match is None:
        harness.check_installed()
        return
    with pytest.raises(UserError, match=match) as caught:
        harness.check_installed()
    assert caught.value.fix == 'pip install "tilth[harness]"'


@pytest.mark.slow
@pytest.mark.parametrize("layers", ["AA", "MA"])
def test_the_real_harness_says_what_our_own_model_says(layers: str, tmp_path: Path, make_model: Callable[..., Decoder]) -> None:
    pytest.importorskip("transformers")
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm_eval is not installed")
    tokenizer_json = train_bpe(["Question: What is 1 + 2?\nAnswer: 3\n", "the quick brown fox " * 20], 300)
    save_model(tmp_path / "ours", make_model(layers, vocab_size=300), tokenizer_json)
    export_model(tmp_path / "ours", tmp_path / "hf")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    rows = [
        {"question": f"What is {a} + {b}?", "choices": [str(a + b), str(a * 7 + 1), "none"], "gold": 0}
        for a in range(4)
        for b in range(5)
    ]
    (tasks / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tasks / "sums.yaml").write_text(
        "task: sums\ndataset_path: json\ndataset_kwargs: {data_files: {test: sums.jsonl}}\ntest_split: test\n"
        'output_type: multiple_choice\ndoc_to_text: "Question: {{question}}\\nAnswer:"\ndoc_to_choice: "{{choices}}"\n'
        "doc_to_target: gold\nmetric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
    )
    found = run_harness(tmp_path / "hf", ["sums"], task_folder=tasks)
    # the same by our own model: the likeliest continuation after the separator and the prompt
    model, tokenizer = load_model(tmp_path / "ours"), Tokenizer(tokenizer_json)
    n_right = 0
    for row in rows:
        prompt = [tokenizer.separator_id, *tokenizer.encode(f"Question: {row['question']}\nAnswer:").tolist()]
        log_ps = []
        for choice in row["choices"]:
            ids = [tokenizer.separator_id, *tokenizer.encode(f"Question: {row['question']}\nAnswer: {choice}").tolist()]
            with torch.no_grad():
                log_p_TV = model(torch.tensor([ids[:-1]]))[0].log_softmax(-1)
            log_ps.append(sum(float(log_p_TV[t, ids[t + 1]]) for t in range(len(prompt) - 1, len(ids) - 1)))
        n_right += log_ps.index(max(log_ps)) == row["gold"]
    assert found.n_samples == {"sums": len(rows)}
    assert found.scores["sums"]["acc"] == pytest.approx(n_right / len(rows))
    assert 0 < n_right < len(rows)
