"""What one step computes: the schedule, the groups, the batch, and starting from a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from tilth.errors import BackendError, ContractError, RecipeError, StaleError, SubsetError, TrainError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.weights import save_model, weights_digest
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.order import RunOrder
from tilth.tokenize.shards import TokenSet, write_tokens
from tilth.trainer.config import TrainConfig
from tilth.trainer.data import Batch
from tilth.trainer.loop import TrainResult
from tilth.trainer.metrics import read_metrics
from tilth.trainer.next_token import NextToken
from tilth.trainer.optim import learning_rate, make_optimizer

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch.utils.tensorboard", "ignore::DeprecationWarning:tensorboard"
)
Run = Callable[..., TrainResult]


def schedule(**changed: Any) -> TrainConfig:
    return TrainConfig(
        **{"steps": 101, "seq_len": 8, "global_batch": 1, "lr": 2.0, "warmup_steps": 10, "min_lr_ratio": 0.1, **changed}
    )


@pytest.mark.parametrize(
    ("decay", "step", "lr"),
    [
        ("cosine", 0, 0.2),
        ("cosine", 9, 2.0),
        ("cosine", 10, 2.0),
        ("cosine", 55, 1.1),  # half way: the mean of 2 and 0.2
        ("cosine", 100, 0.2),
        ("wsd", 4, 1.0),
        ("wsd", 50, 2.0),
        ("wsd", 90, 2.0),
        ("wsd", 95, 1.1),
        ("wsd", 100, 0.2),
    ],
)
def test_schedule(decay: str, step: int, lr: float) -> None:
    assert learning_rate(step, schedule(decay=decay)) == pytest.approx(lr, rel=1e-9)


def test_schedules_at_their_edges() -> None:
    assert learning_rate(0, schedule(steps=1, warmup_steps=0)) == 2.0
    assert learning_rate(0, schedule(steps=1, warmup_steps=1)) == 2.0
    rates = [learning_rate(step, schedule(decay="cosine")) for step in range(10, 101)]
    assert rates == sorted(rates, reverse=True)


def test_the_metrics_hold_the_rates_of_the_schedule(run: Run, config: TrainConfig) -> None:
    result = run()
    assert [line["lr"] for line in read_metrics(result.folder)] == [learning_rate(step, config) for step in range(20)]


def test_only_matrices_that_are_not_marked_decay(model_config: ModelConfig, config: TrainConfig) -> None:
    model = Decoder(model_config)
    optimizer = make_optimizer(model, config)
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    found = {name for name, parameter in model.named_parameters() if decays[id(parameter)] > 0}
    assert len(decays) == len(list(model.parameters()))
    assert any("out_proj" in name for name in found)
    assert not any(part in name for name in found for part in ("norm", "A_log", "dt_bias", "embedding", "bias"))


def test_one_step_of_adamw_by_hand(run: Run, model_config: ModelConfig, tokens: Path) -> None:
    torch.manual_seed(0)
    model = Decoder(model_config)
    before = {name: value.clone() for name, value in model.named_parameters()}
    data = TokenSet.open(tokens)
    order = RunOrder(data.lengths, 48, 4, 0)
    rows = [tuple(map(torch.from_numpy, data.sequence(plan))) for plan in order.sequences(0)]
    ids, targets, segments = (torch.stack(column) for column in zip(*rows, strict=True))
    loss = cross_entropy(model(ids, segments).flatten(0, 1), targets.flatten(), ignore_index=-100)
    loss.backward()
    norm = math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters()))
    result = run(steps=1, warmup_steps=0, lr=0.01, clip_norm=0.5)
    line = read_metrics(result.folder)[0]
    assert line["loss"] == pytest.approx(loss.item(), rel=1e-6)
    assert line["grad_norm"] == pytest.approx(norm, rel=1e-5)
    found = load_file(result.folder / "model.safetensors")
    for name, parameter in model.named_parameters():
        # At the first step both moments are unbiased: the update is g / (|g| + eps), whatever the betas.
        grad = parameter.grad * min(1.0, 0.5 / norm)
        decay = 0.1 if not getattr(parameter, "_no_weight_decay", False) and parameter.ndim > 1 else 0.0
        wanted = before[name] * (1 - 0.01 * decay) - 0.01 * grad / (grad.abs() + 1e-8)
        sure = grad.abs() > 1e-5  # elsewhere rounding decides the sign
        torch.testing.assert_close(found[name][sure], wanted[sure], rtol=1e-3, atol=1e-5)


def test_accumulated_gradients_equal_one_large_batch(run: Run) -> None:
    runs = [run(f"micro-{size}", micro_batch=size, steps=3, warmup_steps=0) for size in (None, 1, 3)]
    curves = [[(line["loss"], line["grad_norm"]) for line in read_metrics(result.folder)] for result in runs]
    for curve in curves[1:]:
        np.testing.assert_allclose(curve, curves[0], rtol=1e-6)
    first = load_file(runs[0].folder / "model.safetensors")
    for name, value in load_file(runs[1].folder / "model.safetensors").items():
        torch.testing.assert_close(value, first[name], rtol=0, atol=2e-5)


def test_a_trace_names_the_token_that_the_model_read(run: Run, config: TrainConfig, tokens: Path, monkeypatch: Any) -> None:
    """Traces are computed, not logged: here what went into the model is kept and compared."""
    read: list[np.ndarray] = []
    loss = Decoder.loss

    def keep(model: Decoder, ids_BT: torch.Tensor, *rest: Any) -> Any:
        read.append(ids_BT.numpy().copy())
        return loss(model, ids_BT, *rest)

    monkeypatch.setattr(Decoder, "loss", keep)
    run(steps=5)
    ids = np.concatenate(read).reshape(5, config.global_batch, config.seq_len)
    held = TokenSet.open(tokens)
    order = RunOrder(held.lengths, config.seq_len, config.global_batch, config.seed)
    for place, token in np.ndenumerate(ids):
        found = order.locate(*place)
        assert held.document(found.document)[found.offset] == token


def test_packing_does_not_leak(run: Run, model_config: ModelConfig, tokens: Path) -> None:
    """The loss of a packed batch is the token-weighted mean of its documents, each read alone behind a separator."""
    result = run(steps=1, warmup_steps=0, seq_len=256)
    data = TokenSet.open(tokens)
    torch.manual_seed(0)
    model = Decoder(model_config)
    total, count, n_pieces = 0.0, 0, 0
    for plan in RunOrder(data.lengths, 256, 4, 0).sequences(0):
        for place, piece in enumerate(plan):
            n_pieces += 1
            own = data.document(piece.document)[piece.start : piece.start + piece.length].astype(np.int64)
            ids = torch.from_numpy(np.append(data.separator_id, own) if place else own)
            if len(ids) > 1:
                total += cross_entropy(model(ids[None, :-1])[0], ids[1:], reduction="sum").item()
                count += len(ids) - 1
    assert n_pieces > 12
    assert read_metrics(result.folder)[0]["n_tokens"] == count
    assert result.first_loss == pytest.approx(total / count, rel=1e-6)


def test_the_validation_loss_is_the_mean_over_its_tokens(run: Run, validation: Path) -> None:
    result = run(steps=2, warmup_steps=0, validation=validation, eval_batches=1_000)
    data = TokenSet.open(validation)
    n_sequences = data.n_tokens // 48
    model = Decoder(ModelConfig.from_dict({**run_config(result.folder)}))
    model.load_state_dict(load_file(result.folder / "model.safetensors"))
    total, count = 0.0, 0
    for plan in RunOrder(data.lengths, 48, n_sequences, 0).sequences(0):
        ids, targets, segments = (torch.from_numpy(x)[None] for x in data.sequence(plan))
        with torch.no_grad():
            total += float(cross_entropy(model(ids, segments)[0], targets[0], reduction="sum", ignore_index=-100))
        count += int((targets != -100).sum())
    assert result.validation_loss == pytest.approx(total / count, rel=1e-5)


def test_validation_reads_no_more_at_once_than_training(run: Run, validation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    score = NextToken.score

    def counted(self: NextToken, model: Decoder, batch: Batch) -> Any:
        sizes.append(len(batch[0]))
        return score(self, model, batch)

    monkeypatch.setattr(NextToken, "score", counted)
    for micro_batch, most in ((None, 4), (1, 1)):
        run(f"in {most}", steps=1, warmup_steps=0, validation=validation, eval_batches=3, micro_batch=micro_batch)
        assert set(sizes) == {most}
        assert sum(sizes) % 12 == 0
        sizes.clear()


def run_config(folder: Path) -> dict[str, Any]:
    from tilth.models.weights import load_config

    return load_config(folder).to_dict()


def test_fine_tuning_starts_from_the_given_weights(run: Run) -> None:
    first = run("base", steps=5, warmup_steps=0)
    second = run("tuned", steps=1, warmup_steps=0, initial=first.folder, lr=1e-30, weight_decay=0.0)
    assert second.weights_digest == first.weights_digest
    third = run("tuned more", steps=5, warmup_steps=0, initial=first.folder, seed=1)
    assert third.weights_digest != first.weights_digest
    assert third.first_loss < first.first_loss - 0.3


def test_fine_tuning_refuses_another_config_or_vocabulary(
    run: Run, model_config: ModelConfig, tokens: Path, tmp_path: Path
) -> None:
    other = Decoder(ModelConfig.from_dict({**model_config.to_dict(), "d_ff": 128}))
    save_model(tmp_path / "wide", other, (tokens / "tokenizer.json").read_bytes())
    with pytest.raises(StaleError, match=r"model\.d_ff: 128 -> 64"):
        run(initial=tmp_path / "wide")
    save_model(tmp_path / "foreign", Decoder(model_config), train_bpe(["quite other words"], 280))
    with pytest.raises(StaleError, match="vocabulary differs"):
        run(initial=tmp_path / "foreign")
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_seed_decides_the_weights_and_the_order(run: Run) -> None:
    results = [run(f"{i}", steps=2, warmup_steps=0, seed=seed) for i, seed in enumerate((0, 0, 1))]
    assert results[0].weights_digest == results[1].weights_digest
    assert results[0].first_loss != results[2].first_loss


def test_a_model_with_too_small_a_vocabulary_is_refused(run: Run, model_config: ModelConfig) -> None:
    small = ModelConfig.from_dict({**model_config.to_dict(), "vocab_size": 64})
    with pytest.raises(TrainError, match=r"vocabulary of \d+, the model knows 64"):
        run(model_config=small)


def write_documents(folder: Path, lengths: list[int]) -> Path:
    tokenizer = Tokenizer(train_bpe(["soil"], 280))
    folder.mkdir()
    write_tokens(folder, ((i.to_bytes(16, "big"), "web/0", i, np.full(n - 1, 7)) for i, n in enumerate(lengths)), tokenizer)
    return folder


def test_odd_token_sets(run: Run, tmp_path: Path) -> None:
    with pytest.raises(SubsetError, match="no tokens"):
        run(tokens=write_documents(tmp_path / "none", []))
    with pytest.raises(SubsetError, match="no tokens"):
        run(tokens=write_documents(tmp_path / "empty documents", [1] * 500))
    tiny = run("tiny", tokens=write_documents(tmp_path / "three tokens", [3]), steps=2, warmup_steps=0)
    # 49 tokens = 16 times the document and one token more: each but the first is a target
    assert read_metrics(tiny.folder)[0]["n_tokens"] == 4 * 48
    with pytest.raises(StaleError, match="another tokenizer"):
        run(validation=tmp_path / "three tokens")
    (tmp_path / "three tokens" / "tokens.bin").write_bytes(b"12345")
    with pytest.raises(ContractError, match="1 bytes too short"):
        run("cut", tokens=tmp_path / "three tokens")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"lr": "fast"}, "lr is 'fast'"),
        ({"warmup_steps": 20}, "warmup_steps is 20"),
        ({"decay": "cosin"}, "Did you mean `cosine`"),
        ({"beta2": 1.0}, "beta2 is 1.0"),
        ({"micro_batch": 0}, "micro_batch is 0"),
        ({"min_lr_ratio": 1.5}, "min_lr_ratio is 1.5"),
        ({"clip_norm": float("inf")}, "clip_norm is inf"),
        ({"learning_rate": 1.0}, "a run has no setting"),
        ({"objective": "mask"}, "Did you mean `masked`"),
        ({"optimizer": "moun"}, "Did you mean `muon`"),
        ({"precision": "bf16"}, "precision is 'bf16'"),
        ({"recompute": 1}, "recompute is 1"),
        ({"compile": "yes"}, "compile is 'yes'"),
        ({"skip_spikes": -1.0}, "skip_spikes is -1.0"),
        ({"skip_spikes": float("nan")}, "skip_spikes is nan"),
        ({"warmup": 1}, "Did you mean `warmup_steps`"),
    ],
)
def test_wrong_settings_are_named(config: TrainConfig, changed: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        TrainConfig.from_dict({**config.to_dict(), **changed})


def test_a_gpu_that_is_not_there_is_refused(run: Run) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(BackendError, match="no GPU"):
        run(device="cuda")


def test_the_result_says_what_the_folder_holds(run: Run, validation: Path) -> None:
    steps: list[dict[str, Any]] = []
    result = run(steps=4, warmup_steps=0, validation=validation, eval_every=2, on_step=steps.append)
    lines = read_metrics(result.folder)
    assert result.weights_digest == weights_digest(load_file(result.folder / "model.safetensors"))
    assert (result.first_loss, result.final_loss) == (lines[0]["loss"], lines[-1]["loss"])
    assert result.validation_loss == lines[-1]["validation_loss"]
    assert [line["step"] for line in lines if "validation_loss" in line] == [1, 3]
    assert result.start_validation_loss == lines[0]["start_validation_loss"] > result.validation_loss
    assert result.n_tokens == sum(line["n_tokens"] for line in lines)
    assert result.tokens_per_second == pytest.approx(4 * 4 * 48 / result.seconds)
    assert steps == lines
