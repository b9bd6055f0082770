"""The decoder as a whole: causality, initial loss, marks, learning."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder, mark_parameters, store_in
from tilth.models.layout import lay_out

PATTERNS = ["M", "A", "MMA", "AM"]


@pytest.mark.parametrize("layers", PATTERNS)
def test_a_later_token_never_changes_earlier_logits(layers: str, make_model: Callable[..., Decoder]) -> None:
    model = make_model(layers)
    ids = torch.randint(0, 43, (2, 29))
    before = model(ids)
    for position in (1, 7, 8, 16, 28):
        changed = ids.clone()
        changed[:, position] = (changed[:, position] + 1) % 43
        after = model(changed)
        assert torch.equal(after[:, :position], before[:, :position])
        # the control: the token itself and what follows do depend on it
        assert (after[:, position:] - before[:, position:]).abs().amax(-1).min() > 1e-6


@pytest.mark.parametrize("layers", ["MMMA*2", "A*4", "M*4"])
def test_initial_loss_is_near_that_of_a_uniform_guess(layers: str) -> None:
    model = Decoder(ModelConfig(vocab_size=500, d_model=64, n_heads=4, layers=layers))
    ids, targets = torch.randint(0, 500, (2, 4, 64))
    loss, count = model.loss(ids, targets)
    assert count == 256
    # logits of variance 1 cost half a nat, and a tied head first guesses the token it reads
    assert math.log(500) - 0.1 < float(loss.detach() / count) < math.log(500) + 1


def test_initialisation_follows_the_reference() -> None:
    model = Decoder(ModelConfig(vocab_size=1000, d_model=256, n_heads=4, layers="MA*4", ssm_head_dim=8))
    mixer: Any = model.blocks[0].mixer
    dt = torch.nn.functional.softplus(mixer.dt_bias)
    dt = dt.detach()
    assert 1e-4 <= dt.min() < 0.01 < dt.max() <= 0.1 * (1 + 1e-4)
    A = mixer.A_log.detach().exp()
    assert 1 <= A.min() < 4
    assert 12 < A.max() <= 16
    assert torch.equal(mixer.D, torch.ones(64))
    assert model.embedding.weight[:1000].detach().std() == pytest.approx(model.config.d_model**-0.5, rel=0.02)
    # uniform(+-1/sqrt(fan_in)), over sqrt(writes to the stream) for the projections that write
    bound = 1 / math.sqrt(512)
    assert mixer.out_proj.weight.detach().abs().max() == pytest.approx(bound / math.sqrt(16), rel=1e-2)
    assert mixer.in_proj.weight.detach().abs().max() == pytest.approx(1 / math.sqrt(256), rel=1e-2)


def test_marks_tell_the_optimiser_what_not_to_decay(make_model: Callable[..., Decoder]) -> None:
    model = make_model("MA", tie_embeddings=False)
    names = {name for name, p in model.named_parameters() if getattr(p, "_no_weight_decay", False)}
    decayed = {name.rsplit(".", 2)[-2] for name, _ in model.named_parameters() if name not in names}
    assert decayed == {"in_proj", "out_proj", "qkv_proj", "gate_up_proj", "head", "mixer"}
    assert {n for n, _ in model.named_parameters() if n not in names and ".mixer.conv" in n} == {"blocks.0.mixer.conv_weight"}
    kept = {name for name, p in model.named_parameters() if getattr(p, "_keep_fp32", False)}
    assert kept == {"blocks.0.mixer.A_log", "blocks.0.mixer.dt_bias", "blocks.0.mixer.D"}
    assert kept < names
    twin = copy.deepcopy(model)
    mark_parameters(twin)
    assert {n for n, p in twin.named_parameters() if getattr(p, "_no_weight_decay", False)} == names


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_is_stored_in_a_dtype_but_for_what_stays_fp32(make_model: Callable[..., Decoder], dtype: torch.dtype) -> None:
    model = make_model("MDSA").bfloat16()
    store_in(model, dtype)
    for name, parameter in model.named_parameters():
        stays = name.rsplit(".", 1)[-1] in ("A_log", "dt_bias", "D")
        assert parameter.dtype == (torch.float32 if stays else dtype), name
        assert getattr(parameter, "_keep_fp32", False) == stays
    model(torch.zeros(1, 5, dtype=torch.long)).sum().backward()


def _copy_task(n_rows: int) -> tuple[Tensor, Tensor]:
    # six letters, a bar, the same letters again; only the second half can be predicted
    letters = torch.randint(1, 9, (n_rows, 6))
    row = torch.cat([letters, torch.zeros(n_rows, 1, dtype=torch.long), letters], dim=1)
    targets = row[:, 1:].clone()
    targets[:, :6] = -100
    return row[:, :-1], targets


@pytest.mark.parametrize("layers", ["MA", "AA"])
def test_a_tiny_model_learns_to_copy(layers: str) -> None:
    """Attention is needed: letters never repeat between rows, so a memorised table does not help."""
    model = Decoder(ModelConfig(vocab_size=9, d_model=64, n_heads=4, layers=layers, d_ff=128, d_state=16, ssm_head_dim=32))
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(250):
        loss, count = model.loss(*_copy_task(64))
        optimiser.zero_grad()
        (loss / count).backward()
        optimiser.step()
    ids, targets = _copy_task(64)
    right = (model(ids).argmax(-1) == targets)[targets != -100]
    assert right.float().mean() > 0.95


def test_a_mamba2_overfits_one_batch() -> None:
    model = Decoder(ModelConfig(vocab_size=50, d_model=32, layers="MM", d_state=16, ssm_head_dim=16))
    ids = torch.randint(0, 50, (4, 33))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(80):
        loss, count = model.loss(ids[:, :-1], ids[:, 1:])
        optimiser.zero_grad()
        (loss / count).backward()
        optimiser.step()
        losses.append(float(loss.detach() / count))
    assert losses[0] > 3.5
    assert losses[-1] < 0.1


def test_bfloat16_autocast_stays_close(make_model: Callable[..., Decoder]) -> None:
    model = make_model("MMA", scale=1.0)
    ids, targets = torch.randint(0, 43, (2, 2, 24))
    exact, count = model.loss(ids, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough, _ = model.loss(ids, targets)
    (rough / count).backward()
    assert abs(float((rough - exact).detach() / count)) < 0.02
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


def test_blocks_are_pre_norm_around_one_stream(make_model: Callable[..., Decoder]) -> None:
    """The composition written out: SwiGLU by its formula, norms by theirs, the mixers taken as they are."""
    model = make_model("AM", tie_embeddings=False).double()
    ids = torch.randint(0, 43, (2, 11))
    layout = lay_out(model.config, ids, None, 0)
    weights = {name: p.detach() for name, p in model.named_parameters()}

    def norm(x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weights[name]

    x = weights["embedding.weight"][ids]
    for index, block in enumerate(model.blocks):
        mixer: Any = block.mixer
        x = x + mixer(norm(x, f"blocks.{index}.mixer_norm.weight"), layout).detach()
        rows = norm(x, f"blocks.{index}.mlp_norm.weight") @ weights[f"blocks.{index}.mlp.gate_up_proj.weight"].T
        gate, up = rows[..., :48], rows[..., 48:]
        x = x + (gate * up / (1 + torch.exp(-gate))) @ weights[f"blocks.{index}.mlp.out_proj.weight"].T
    wanted = norm(x, "norm.weight") @ weights["head.weight"][:43].T
    assert (model(ids) - wanted).abs().max() < 1e-12
