"""deploy() from folders to files: quality and size against exact expectations, and the same bytes every time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tilth.deploy
from tilth.deploy import Verification, apply_delta, deploy, load_delta, verify
from tilth.deploy.choice import Choice
from tilth.deploy.token_batches import read_batches
from tilth.errors import DeltaError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.weights import load_model, save_model, weights_digest

SETTINGS = {"distill_steps": 12, "seq_len": 64, "seed": 7}


@pytest.fixture(scope="module")
def deployed(world: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("out") / "delta"
    return SimpleNamespace(folder=folder, result=deploy(world.base, world.tuned, world.prose, folder, **SETTINGS))


def test_the_delta_keeps_nearly_all_of_the_fine_tune(deployed: SimpleNamespace) -> None:
    result = deployed.result
    gain = result.loss_base - result.loss_tuned
    assert gain > 0.1
    assert abs(result.loss_delta - result.loss_tuned) < 0.1 * gain
    assert 0 < result.mean_squared_logit_error < result.max_logit_error**2
    assert 4 * 4 * 64 * 0.9 < result.n_predictions <= 4 * 4 * 64


def test_the_sizes_are_those_that_the_shapes_give(world: SimpleNamespace, deployed: SimpleNamespace) -> None:
    result = deployed.result
    # (outputs, inputs): mamba2 in and out, attention qkv and out, and two MLPs of gate-up and down
    shapes: list[tuple[int, int]] = [(96 + 128 + 6, 48), (48, 96), (96, 48), (48, 48), *2 * [(144, 48), (48, 72)]]
    delta = load_delta(deployed.folder / "delta.safetensors")
    assert sorted(shapes) == sorted(own.shape for own in delta.of_kind("matrices").values())
    # signs by words of 32, 16 bits a row and a column, one fp32 scale
    assert result.matrix_bytes == sum(4 * n * -(-k // 32) + 2 * (n + k) + 4 for n, k in shapes)
    assert result.matrix_bf16_bytes == sum(2 * n * k for n, k in shapes)
    # 4 bits a weight, an fp32 scale and a number for each of the rows that changed
    assert result.table_bytes == len(delta.encoded["embedding.weight"].parts["rows"]) * (48 // 2 + 8)
    assert result.matrix_bytes + result.table_bytes + result.other_bytes == result.size_bytes
    assert result.bf16_bytes == 2 * sum(tensor.numel() for tensor in world.tuned_state.values())
    assert result.bf16_ratio == result.bf16_bytes / result.size_bytes
    assert result.size_bytes == (deployed.folder / "delta.safetensors").stat().st_size
    assert result.full_size_bytes == (world.tuned / "model.safetensors").stat().st_size
    assert result.ratio == result.full_size_bytes / result.size_bytes


def test_matrices_of_whole_words_are_sixteen_times_smaller_than_bf16(tmp_path: Path, world: SimpleNamespace) -> None:
    config = ModelConfig(vocab_size=512, d_model=128, layers="A", n_heads=4, d_ff=256)
    torch.manual_seed(0)
    model = Decoder(config)
    save_model(tmp_path / "base", model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.startswith("blocks."):
                weight += 0.01 * torch.randn_like(weight)
    save_model(tmp_path / "tuned", model)
    result = deploy(
        tmp_path / "base", tmp_path / "tuned", world.prose, tmp_path / "out", distill_steps=0, seq_len=32, seed=0,
        choice=Choice("bitdelta"), max_loss=10,
    )  # fmt: skip
    n_weights = 384 * 128 + 128 * 128 + 512 * 128 + 128 * 256
    assert result.matrix_bytes == n_weights // 8 + 4 * 4
    assert result.matrix_bf16_bytes / result.matrix_bytes == pytest.approx(16, rel=0.001)
    # the untouched embedding costs nothing: the file is the code, two norms of the block and a header
    assert result.table_bytes == 0
    assert 2 * 128 * 4 < result.other_bytes < 2 * 128 * 4 + 3000
    assert json.loads((tmp_path / "out/delta.json").read_text())["distillation"]["best_step"] == 0


def test_the_same_inputs_give_the_same_bytes(world: SimpleNamespace, deployed: SimpleNamespace, tmp_path: Path) -> None:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(4 if n_threads != 4 else 2)
    try:
        again = deploy(world.base, world.tuned, world.prose, tmp_path / "again", **SETTINGS)
    finally:
        torch.set_num_threads(n_threads)
    assert again == deployed.result
    for name in ("delta.safetensors", "delta.json"):
        assert (tmp_path / "again" / name).read_bytes() == (deployed.folder / name).read_bytes()
    other = deploy(world.base, world.tuned, world.prose, tmp_path / "other", **SETTINGS | {"seed": 8})
    assert other != again


def test_the_description_says_what_was_measured(world: SimpleNamespace, deployed: SimpleNamespace) -> None:
    described = json.loads((deployed.folder / "delta.json").read_text())
    assert Verification(**described["verification"]) == deployed.result
    assert described["base_digest"] == weights_digest(world.base_state)
    assert described["tuned_digest"] == weights_digest(world.tuned_state)
    assert described["settings"].items() >= (SETTINGS | {"tokens": world.prose.digest, "matrices": "rank1"}).items()
    assert described["distillation"]["loss_best"] < described["distillation"]["loss_start"]
    assert described["codecs"]["rank1"] == 8


def test_verify_agrees_with_losses_computed_apart(world: SimpleNamespace, deployed: SimpleNamespace) -> None:
    path = deployed.folder / "delta.safetensors"
    batches = read_batches(world.prose, n_batches=4, batch_size=4, seq_len=64, seed=7)
    result = verify(world.base, world.tuned, path, batches)
    assert result.loss_delta == pytest.approx(deployed.result.loss_delta, rel=1e-5)
    models = {"base": load_model(world.base), "tuned": load_model(world.tuned), "delta": apply_delta(path, world.base)}
    for name, model in models.items():
        with torch.no_grad():
            sums = [model.loss(b.ids_BT, b.targets_BT, b.segments_BT) for b in batches]
        loss = sum(total for total, _ in sums) / sum(count for _, count in sums)
        assert getattr(result, f"loss_{name}") == pytest.approx(loss.item(), rel=1e-5)
        with torch.no_grad():
            likeliest = [model(b.ids_BT, b.segments_BT)[b.kept].argmax(1) == b.targets_BT[b.kept] for b in batches]
        assert getattr(result, f"accuracy_{name}") == pytest.approx(torch.cat(likeliest).float().mean().item(), abs=0.003)


def test_verify_refuses_another_fine_tune_and_empty_sequences(world: SimpleNamespace, deployed: SimpleNamespace) -> None:
    path = deployed.folder / "delta.safetensors"
    batches = read_batches(world.prose, n_batches=1, batch_size=1, seq_len=32, seed=7)
    with pytest.raises(DeltaError, match="made from another fine-tune"):
        verify(world.base, world.base, path, batches)
    with pytest.raises(DeltaError, match="made for another base"):
        verify(world.tuned, world.tuned, path, batches)
    with pytest.raises(DeltaError, match="no token to verify on"):
        verify(world.base, world.tuned, path, [])


def test_two_models_of_different_shape_are_refused_and_leave_no_file(world: SimpleNamespace, tmp_path: Path) -> None:
    other = Decoder(ModelConfig(vocab_size=512, d_model=32, layers="A", n_heads=4, d_ff=32))
    save_model(tmp_path / "other", other)
    with pytest.raises(DeltaError, match="not models of the same shape"):
        deploy(world.base, tmp_path / "other", world.prose, tmp_path / "out", **SETTINGS)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(("layers", "tie"), [("MM", True), ("MM", False), ("A", False)])
def test_other_architectures_pass_through(world: SimpleNamespace, tmp_path: Path, layers: str, tie: bool) -> None:
    sizes = {"d_model": 32, "n_heads": 4, "d_ff": 0, "d_state": 16, "ssm_head_dim": 16, "chunk_size": 16}
    torch.manual_seed(1)
    model = Decoder(ModelConfig(vocab_size=512, layers=layers, tie_embeddings=tie, **sizes))
    save_model(tmp_path / "base", model)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.02 * torch.randn_like(weight)
    save_model(tmp_path / "tuned", model)
    result = deploy(
        tmp_path / "base", tmp_path / "tuned", world.prose, tmp_path / "out", distill_steps=4, seq_len=32, seed=0, max_loss=10
    )
    delta = load_delta(tmp_path / "out/delta.safetensors")
    assert len(delta.of_kind("matrices")) == 2 * len(layers)
    assert delta.of_kind("tables").keys() == {"embedding.weight"} | (set() if tie else {"head.weight"})
    assert delta.encoded["norm.weight"].codec == "whole"
    rebuilt = apply_delta(tmp_path / "out/delta.safetensors", tmp_path / "base")
    assert rebuilt.config == model.config
    # 4 bits at 0.335 standard deviations: half a step, and what lies past 7 of them
    assert (rebuilt.embedding.weight - model.embedding.weight).square().mean().sqrt() < 0.02 * 0.15
    assert result.mean_squared_logit_error > 0


def test_the_room_is_light_and_its_exports_exist() -> None:
    script = "import sys, tilth.deploy; assert 'torch' not in sys.modules; assert 'safetensors' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert all(callable(getattr(tilth.deploy, name)) for name in tilth.deploy.__all__)
    with pytest.raises(AttributeError, match="no attribute 'deplyo'"):
        _ = tilth.deploy.deplyo
