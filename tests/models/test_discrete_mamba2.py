"""The mixer of Llamba: its equation, its state, documents apart, and what it is before it is trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import silu, softplus

from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.layout import lay_out
from tilth.models.mixers.discrete_mamba2 import DiscreteMamba2

CONFIG = ModelConfig(vocab_size=8, d_model=24, layers="D", d_ff=0, expand=1, d_state=6, ssm_head_dim=4, n_groups=3, chunk_size=4)


def mixer(dtype: torch.dtype = torch.float64) -> DiscreteMamba2:
    made = DiscreteMamba2(CONFIG).to(dtype)
    for name, weight in made.named_parameters():
        torch.nn.init.normal_(weight, std=0.6 if "weight" in name else 1.0)
    return made


def matrix_form(layer: DiscreteMamba2, u_BTD: Tensor) -> Tensor:
    """y_t = sum over s <= t of exp(-sum of softplus(a) over s < k <= t) (C_t . B_s) x_s, then the gate."""
    xBC, z, a = layer.in_proj(u_BTD).split([24 + 36, 24, 6], -1)
    shifted = [torch.nn.functional.pad(xBC, (0, 0, k, 0))[:, : xBC.shape[1]] for k in range(3, -1, -1)]
    xBC = sum(taps * rows for taps, rows in zip(layer.conv_weight.T, shifted, strict=True)) + layer.conv_bias
    x, B, C = xBC.split([24, 18, 18], -1)
    x = x.unflatten(-1, (6, 4))
    B, C = (t.unflatten(-1, (3, 6)).repeat_interleave(2, 2) for t in (B, C))
    decay = softplus(a).cumsum(1)
    weights = torch.exp(-(decay[:, :, None] - decay[:, None, :]))
    causal = torch.ones(u_BTD.shape[1], u_BTD.shape[1], dtype=torch.bool).tril()
    scores = torch.einsum("bthn,bshn->btsh", C, B) * weights.masked_fill(~causal[None, :, :, None], 0)
    y = torch.einsum("btsh,bshp->bthp", scores, x) + layer.D[:, None] * x
    return layer.out_proj(y.flatten(-2) * silu(z + layer.z_bias))


def test_it_is_its_materialised_matrix() -> None:
    layer, u = mixer(), torch.randn(2, 11, 24, dtype=torch.float64)
    found = layer(u, lay_out(CONFIG, torch.zeros(2, 11, dtype=torch.long), None, 0))
    torch.testing.assert_close(found, matrix_form(layer, u), rtol=0, atol=1e-12)


def test_a_decay_that_rounds_to_one_gives_no_nan() -> None:
    """softplus(-200) is 0, which x must not be divided by."""
    layer, u = mixer(torch.float32), torch.randn(1, 5, 24)
    with torch.no_grad():
        layer.in_proj.weight[-6:] = 0
        layer.in_proj.weight[-6:, 0] = -200 / u[0, :, 0].abs().min()
    u[..., 0] = u[..., 0].abs()
    found = layer(u, lay_out(CONFIG, torch.zeros(1, 5, dtype=torch.long), None, 0))
    torch.testing.assert_close(found, matrix_form(layer, u), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_prompt", [1, 4, 9])
def test_steps_continue_a_prompt(n_prompt: int, make_model: Callable[..., Decoder]) -> None:
    model = make_model("DAD", n_groups=2).double()
    ids = torch.randint(0, 43, (2, 12))
    states = model.empty_states(2)
    logits = model.prefill(ids[:, :n_prompt], states)
    expected = model(ids)
    for t in range(n_prompt, 12):
        torch.testing.assert_close(logits, expected[:, t - 1], rtol=0, atol=1e-10)
        logits = model.step(ids[:, t], states)
    torch.testing.assert_close(logits, expected[:, -1], rtol=0, atol=1e-10)


def test_packed_documents_stay_apart(make_model: Callable[..., Decoder]) -> None:
    model = make_model("DD", n_groups=2).double()
    ids = torch.randint(0, 43, (1, 13))
    segments = torch.tensor([[0] * 5 + [1] * 8])
    packed = model(ids, segments)
    apart = torch.cat([model(ids[:, :5]), model(ids[:, 5:])], 1)
    torch.testing.assert_close(packed, apart, rtol=0, atol=1e-10)
    assert (model(ids) - apart).abs().max() > 1e-3


def test_a_fresh_mixer_hands_values_on() -> None:
    """MOHAWK's beginning: the convolution is the identity and the gate is 1, so that B, C and x can be k, q and v."""
    layer, u = DiscreteMamba2(CONFIG).double(), torch.randn(1, 7, 24, dtype=torch.float64)
    rows = layer.in_proj(u)
    mixed = layer.mix(rows, lay_out(CONFIG, torch.zeros(1, 7, dtype=torch.long), None, 0))
    x, B, C = (rows[..., start:end] for start, end in ((0, 24), (24, 42), (42, 60)))
    first = torch.einsum("hn,hn,hp->hp", *(t[0, 0].view(3, 6).repeat_interleave(2, 0) for t in (C, B)), x[0, 0].view(6, 4))
    # to fp32, in which the bias of the gate was made
    torch.testing.assert_close(mixed[0, 0], (first + x[0, 0].view(6, 4)).flatten(), rtol=1e-7, atol=1e-7)
    assert not rows[..., 60:84].any()


@pytest.mark.parametrize("n_ranks", [2, 4])
def test_slices_of_heads_add_up_to_the_mixer(n_ranks: int) -> None:
    config = dataclasses.replace(CONFIG, d_model=32, n_groups=4)
    whole = DiscreteMamba2(config).double()
    u, layout = torch.randn(2, 6, 32, dtype=torch.float64), lay_out(config, torch.zeros(2, 6, dtype=torch.long), None, 0)
    for weight in whole.parameters():
        torch.nn.init.normal_(weight, std=0.6)
    cuts, total = DiscreteMamba2.cuts(config), torch.zeros(2, 6, 32, dtype=torch.float64)
    assert cuts.keys() == dict(whole.named_parameters()).keys()
    for rank in range(n_ranks):
        part = DiscreteMamba2(config, n_ranks).double()
        for name, weight in part.named_parameters():
            axis, sizes = cuts[name]
            pieces = [piece.chunk(n_ranks, axis)[rank] for piece in whole.get_parameter(name).split(sizes, axis)]
            weight.data = torch.cat(pieces, axis)
        total = total + part(u, layout)
    torch.testing.assert_close(total, whole(u, layout), rtol=1e-12, atol=1e-12)
