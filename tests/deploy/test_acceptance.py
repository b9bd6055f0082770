"""What is refused for losing too much, and the task that it is scored on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tilth.deploy.acceptance import check_acceptable
from tilth.deploy.choice import Choice
from tilth.deploy.release import deploy
from tilth.deploy.task import read_task
from tilth.deploy.verification import Verification
from tilth.errors import DeltaError, SourceError
from tilth.inference.generate import generate
from tilth.models.weights import load_model
from tilth.tokenize.bpe import Tokenizer, train_bpe


def verified(**values: float) -> Verification:
    """A verification with these figures, and none elsewhere."""
    names = ["accuracy_base", "accuracy_tuned", "accuracy_delta", "agreement", "max_logit_error", "mean_squared_logit_error"]
    names += ["n_predictions", "size_bytes", "full_size_bytes", "ratio", "bf16_bytes", "bf16_ratio", "matrix_bytes"]
    names += ["table_bytes", "other_bytes", "matrix_bf16_bytes"]
    return Verification(**dict.fromkeys(names, 0), **values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("base", "tuned", "delta", "max_loss", "is_fine"),
    [
        (5.0, 4.0, 4.24, 0.25, True),
        (5.0, 4.0, 4.26, 0.25, False),
        (5.0, 4.0, 4.0001, 0.0, False),
        (5.0, 4.0, 3.9, 0.0, True),
        (5.0, 4.0, 5.9, 2.0, True),
        # gains under 0.02 nats, and losses, count as 0.02: a quarter of it is allowed
        (4.0, 4.0, 4.004, 0.25, True),
        (4.0, 4.3, 4.304, 0.25, True),
        (4.0, 4.3, 4.306, 0.25, False),
        (5.0, 4.0, float("nan"), 0.25, False),
    ],
)
def test_a_share_of_the_gain_may_be_lost(base: float, tuned: float, delta: float, max_loss: float, is_fine: bool) -> None:
    found = verified(loss_base=base, loss_tuned=tuned, loss_delta=delta)
    if is_fine:
        check_acceptable(found, max_loss)
        return
    with pytest.raises(DeltaError, match="of what the fine-tune gained") as caught:
        check_acceptable(found, max_loss)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(("task_delta", "is_fine"), [(0.8, True), (0.65, True), (0.64, False)])
def test_right_answers_count_as_well(task_delta: float, is_fine: bool) -> None:
    found = verified(loss_base=5.0, loss_tuned=4.0, loss_delta=4.0)
    found = replace(found, task_base=0.2, task_tuned=0.8, task_delta=task_delta, n_task_answers=100)
    if is_fine:
        check_acceptable(found, 0.25)
    else:
        with pytest.raises(DeltaError, match="of the task's answers"):
            check_acceptable(found, 0.25)


def test_one_answer_more_or_less_is_no_loss() -> None:
    found = verified(loss_base=5.0, loss_tuned=4.0, loss_delta=4.0)
    check_acceptable(replace(found, task_base=0.5, task_tuned=0.5, task_delta=0.4, n_task_answers=10), 0.25)


def test_a_refused_delta_raises_from_deploy(world: SimpleNamespace, tmp_path: Path) -> None:
    settings = {"distill_steps": 0, "seq_len": 64, "seed": 7, "choice": Choice("low-rank:1", tables="1")}
    with pytest.raises(DeltaError, match="nats per token"):
        deploy(world.base, world.tuned, world.prose, tmp_path / "a", max_loss=0.01, **settings)
    assert not list((tmp_path / "a").iterdir())
    deploy(world.base, world.tuned, world.prose, tmp_path / "a", max_loss=2.0, **settings)
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert sorted(before) == ["delta.json", "delta.safetensors"]
    with pytest.raises(DeltaError, match="nats per token"):
        deploy(world.base, world.tuned, world.prose, tmp_path / "a", max_loss=0.02, **settings)
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before


@pytest.mark.parametrize("share", [float("nan"), -0.1])
def test_a_share_that_is_none_is_refused_before_any_work(tmp_path: Path, share: float) -> None:
    nowhere = tmp_path / "nothing"
    with pytest.raises(DeltaError, match="cannot be lost"):
        deploy(nowhere, nowhere, None, tmp_path / "out", distill_steps=0, seq_len=64, seed=7, max_loss=share)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_an_exact_answer_is_what_greedy_decoding_gives(world: SimpleNamespace, tmp_path: Path, texts: SimpleNamespace) -> None:
    tokenizer = Tokenizer(train_bpe([*texts.code, *texts.prose], 512))
    model = load_model(world.tuned)
    prompts = [text[:40] for text in texts.prose[:12]]
    items = []
    for number, prompt in enumerate(prompts):
        ids = generate(model, [tokenizer.separator_id, *tokenizer.encode(prompt).tolist()], 3, temperature=0.0)
        answer = tokenizer.decode(ids)
        items.append({"prompt": prompt, "answer": answer + "?" * (number % 2)})
    path = tmp_path / "task.jsonl"
    path.write_text("\n".join(json.dumps(item) for item in items) + "\n\n")
    task = read_task(path, tokenizer)
    assert [len(batch.ids_BT) for batch in task] == [8, 4]
    n_exact = 0
    for batch in task:
        for ids_T, targets_T in zip(batch.ids_BT, batch.targets_BT, strict=True):
            kept = targets_T != -100
            start = int(kept.nonzero()[0])
            wanted = targets_T[kept].tolist()
            got = generate(model, ids_T[: start + 1].tolist(), len(wanted), temperature=0.0)
            n_exact += list(got) == wanted
            assert wanted[-1] == tokenizer.separator_id
            assert ids_T[0] == tokenizer.separator_id
    result = deploy(
        world.base, world.tuned, world.prose, tmp_path / "out", distill_steps=0, seq_len=64, seed=7, task=task, max_loss=9
    )
    assert result.task_tuned == n_exact / 12
    assert result.n_task_answers == 12
    assert result.task_accuracy_tuned is not None
    assert result.task_accuracy_tuned > (result.task_accuracy_base or 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the task has no line"),
        ("{", "is no prompt with its answer"),
        ("[]", "is no prompt with its answer"),
        ('{"prompt": "a"}', "is no prompt with its answer"),
        ('{"prompt": "a", "answer": 3}', "is no prompt with its answer"),
        ('{"prompt": "a", "answer": ""}', "empty answer"),
    ],
)
def test_a_task_that_is_none_is_refused(tmp_path: Path, texts: SimpleNamespace, text: str, said: str) -> None:
    tokenizer = Tokenizer(train_bpe(texts.code, 512))
    (tmp_path / "task.jsonl").write_text(text)
    with pytest.raises(SourceError, match=said):
        read_task(tmp_path / "task.jsonl", tokenizer)
    with pytest.raises(SourceError, match="no task file"):
        read_task(tmp_path / "nothing.jsonl", tokenizer)


def test_padding_changes_no_answer(world: SimpleNamespace, tmp_path: Path, texts: SimpleNamespace) -> None:
    tokenizer = Tokenizer(train_bpe([*texts.code, *texts.prose], 512))
    path = tmp_path / "task.jsonl"
    path.write_text('{"prompt": "a", "answer": "b"}\n{"prompt": "a longer prompt", "answer": "with more to say"}\n')
    (batch,) = read_task(path, tokenizer)
    path.write_text('{"prompt": "a", "answer": "b"}\n')
    (alone,) = read_task(path, tokenizer)
    model = load_model(world.tuned)
    with torch.no_grad():
        both = model(batch.ids_BT, batch.segments_BT)[0, : alone.ids_BT.shape[1]]
        one = model(alone.ids_BT, alone.segments_BT)[0]
    torch.testing.assert_close(both, one, rtol=1e-4, atol=1e-4)
    assert batch.targets_BT[0, : alone.ids_BT.shape[1]].tolist() == alone.targets_BT[0].tolist()
