"""The matrix of a mixer, applied to its values, is what its scan or its attention computes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tilth.errors import RecipeError
from tilth.models.decoder import Decoder
from tilth.models.layout import SequenceLayout, lay_out, pairs_read

LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 16}
PACKED = [[7, 1, 12], [1, 1, 18]]


def segments_of(rows: list[list[int]]) -> Tensor:
    numbers = [torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)) for lengths in rows]
    return torch.stack(numbers).to(torch.int32)


def one_layer(make_model: Callable[..., Decoder], letter: str, **changes: Any) -> tuple[Any, Decoder]:
    """The mixer in fp64 with every parameter random, so that none is at a value that hides it."""
    model = make_model(letter, **changes).double()
    mixer: Any = model.blocks[0].mixer
    with torch.no_grad():
        for name, weight in mixer.named_parameters():
            if "proj" not in name:
                weight += 0.5 * torch.randn_like(weight)
    return mixer, model


def inputs(model: Decoder, rows: list[list[int]] | None) -> tuple[Tensor, SequenceLayout]:
    x_BTD = torch.randn(2, 20, model.config.d_model, dtype=torch.float64)
    segments = segments_of(rows) if rows else None
    return x_BTD, lay_out(model.config, torch.zeros(2, 20, dtype=torch.long), segments, 0)


@pytest.mark.parametrize("rows", [None, PACKED], ids=["one document", "packed"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"n_kv_heads": 1}, {"n_kv_heads": 4, "rope_theta": None}, {"head_dim": 6}, {"rope_share": 0.5}, {"rope_scaling": LLAMA3},
     {"bidirectional": True}],
    ids=str,
)  # fmt: skip
def test_of_attention(changes: dict[str, Any], rows: list[list[int]] | None, make_model: Callable[..., Decoder]) -> None:
    mixer, model = one_layer(make_model, "A", **changes)
    x_BTD, layout = inputs(model, rows)
    n_values = model.config.kv_heads * mixer.head_dim
    v_BTGD = mixer.qkv_proj(x_BTD)[..., -n_values:].unflatten(-1, (-1, mixer.head_dim))
    matrices_BHTT = mixer.matrices(x_BTD, layout)
    assert matrices_BHTT.shape == (2, 4, 20, 20)
    values_BHTD = v_BTGD.repeat_interleave(4 // mixer.n_kv_heads, 2).transpose(1, 2)
    found = mixer.out_proj((matrices_BHTT @ values_BHTD).transpose(1, 2).flatten(-2))
    torch.testing.assert_close(found, mixer(x_BTD, layout), rtol=0, atol=1e-10)


@pytest.mark.parametrize("rows", [None, PACKED], ids=["one document", "packed"])
@pytest.mark.parametrize("changes", [{}, {"n_groups": 2}, {"n_groups": 4, "d_conv": 2}, {"expand": 3, "d_conv": 1}], ids=str)
@pytest.mark.parametrize("letter", ["M", "D"])
def test_of_a_scan(
    letter: str, changes: dict[str, Any], rows: list[list[int]] | None, make_model: Callable[..., Decoder]
) -> None:
    mixer, model = one_layer(make_model, letter, **changes)
    x_BTD, layout = inputs(model, rows)
    parts = [mixer.d_inner, sum(mixer.conv_parts), mixer.n_heads]
    if letter == "M":
        z_BTI, xBC_BTC, _ = mixer.in_proj(x_BTD).split(parts, -1)
    else:
        xBC_BTC, z_BTI, _ = mixer.in_proj(x_BTD).split([parts[1], parts[0], parts[2]], -1)
    values_BTHP, _, _ = mixer.convolve(xBC_BTC, layout, None, False, "silu" if letter == "M" else None)
    matrices_BHTT = mixer.matrices(x_BTD, layout)
    assert matrices_BHTT.shape == (2, mixer.n_heads, 20, 20)
    mixed_BTHP = (matrices_BHTT @ values_BTHP.transpose(1, 2)).transpose(1, 2) + mixer.D[:, None] * values_BTHP
    if letter == "M":
        wanted = mixer.norm(mixed_BTHP.flatten(-2), gate=z_BTI)
    else:
        wanted = mixed_BTHP.flatten(-2) * torch.nn.functional.silu(z_BTI + mixer.z_bias)
    torch.testing.assert_close(mixer.out_proj(wanted), mixer(x_BTD, layout), rtol=0, atol=1e-10)


def test_an_element_of_a_scan_is_the_product_of_the_decays(make_model: Callable[..., Decoder]) -> None:
    """M[t, s] = C_t . B_s dt_s prod over s < k <= t of exp(dt_k A), written out for one head of one document."""
    mixer, model = one_layer(make_model, "M")
    x_BTD, layout = inputs(model, PACKED)
    _, xBC, dt = mixer.in_proj(x_BTD).split([mixer.d_inner, sum(mixer.conv_parts), mixer.n_heads], -1)
    _, B, C = (t[0].detach().numpy() for t in mixer.convolve(xBC, layout, None, False, "silu"))
    head, start, end = 2, 8, 20
    step = np.log1p(np.exp(dt[0, :, head].detach().numpy() + mixer.dt_bias[head].item()))
    decay = np.exp(-step * math.exp(mixer.A_log[head].item()))
    wanted = np.zeros((20, 20))
    for t in range(start, end):
        for s in range(start, t + 1):
            wanted[t, s] = C[t, 0] @ B[s, 0] * step[s] * np.prod(decay[s + 1 : t + 1])
    found = mixer.matrices(x_BTD, layout)[0, head].detach().numpy()
    np.testing.assert_allclose(found[start:end], wanted[start:end], rtol=0, atol=1e-12)
    assert np.abs(wanted).max() > 0.1


@given(rows=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=5), min_size=1, max_size=3), causal=st.booleans())
@settings(max_examples=20, deadline=None)
def test_pairs_that_are_read(rows: list[list[int]], causal: bool, make_model: Callable[..., Decoder]) -> None:
    n_tokens = max(sum(lengths) for lengths in rows)
    rows = [[*lengths, *[1] * (n_tokens - sum(lengths))] for lengths in rows]
    documents = [[number for number, length in enumerate(lengths) for _ in range(length)] for lengths in rows]
    ids = torch.zeros(len(rows), n_tokens, dtype=torch.long)
    found = pairs_read(lay_out(make_model("A").config, ids, segments_of(rows), 0), causal)
    wanted = [
        [[row[t] == row[s] and (s <= t or not causal) for s in range(n_tokens)] for t in range(n_tokens)] for row in documents
    ]
    assert found[:, 0].tolist() == wanted


@pytest.mark.parametrize("letter", ["A", "M", "D"])
def test_strong_decays_and_scores_give_no_nan(letter: str, make_model: Callable[..., Decoder]) -> None:
    mixer: Any = make_model(letter, scale=60.0).blocks[0].mixer
    x_BTD = torch.randn(2, 20, 32, requires_grad=True)
    layout = lay_out(make_model(letter).config, torch.zeros(2, 20, dtype=torch.long), segments_of(PACKED), 0)
    matrices = mixer.matrices(x_BTD, layout)
    matrices.square().mean().backward()
    assert x_BTD.grad is not None
    assert x_BTD.grad.isfinite().all()
    assert not matrices.triu(1).any()
    assert not matrices[0, :, 8:, :8].any()


@pytest.mark.parametrize("letter", ["A", "M", "D"])
def test_half_precision_rounds_what_is_multiplied_and_not_the_matrices(letter: str, make_model: Callable[..., Decoder]) -> None:
    model = make_model(letter, scale=1.0)
    mixer: Any = model.blocks[0].mixer
    x_BTD, layout = torch.randn(2, 20, 32), lay_out(model.config, torch.zeros(2, 20, dtype=torch.long), None, 0)
    wanted = mixer.matrices(x_BTD, layout)
    with torch.autocast("cpu", torch.bfloat16):
        found = mixer.matrices(x_BTD, layout)
    assert found.dtype == torch.float32
    assert 0 < (found - wanted).abs().max() < 0.02 * wanted.abs().max()


@pytest.mark.parametrize("layers", ["A", "MAD", "SM"])
def test_streams_lie_between_the_layers(layers: str, make_model: Callable[..., Decoder]) -> None:
    model = make_model(layers, n_groups=2).double()
    ids, segments = torch.randint(0, 43, (2, 20)), segments_of(PACKED)
    streams = model.streams(ids, segments)
    assert len(streams) == len(layers) + 1
    assert torch.equal(streams[0], model.embedding(ids))
    torch.testing.assert_close(model.norm(streams[-1]), model.hidden(ids, segments), rtol=0, atol=1e-12)
    outputs = model.layer_outputs(dict(enumerate(streams[:-1])), segments)
    assert list(outputs) == list(range(len(layers)))
    for number, output in outputs.items():
        torch.testing.assert_close(output, streams[number + 1], rtol=0, atol=1e-12)
    # the documents are those of the segments
    apart = model.streams(ids[:1, :7])[-1]
    torch.testing.assert_close(streams[-1][:1, :7], apart, rtol=0, atol=1e-12)


def test_a_model_without_mlps_has_streams_too(make_model: Callable[..., Decoder]) -> None:
    model, ids = make_model("AM", d_ff=0).double(), torch.randint(0, 43, (1, 9))
    torch.testing.assert_close(model.norm(model.streams(ids)[-1]), model.hidden(ids), rtol=0, atol=1e-12)


@pytest.mark.parametrize("changes", [{"residual": "ladder"}, {"residual": "ladder", "residual_from": 1}, {"rcps": True}], ids=str)
def test_where_no_stream_lies_between_two_layers_it_says_so(changes: dict[str, Any], make_model: Callable[..., Decoder]) -> None:
    if "rcps" in changes:
        changes |= {"bidirectional": True, "complement": tuple(reversed(range(43)))}
    model = make_model("MM", **changes)
    ids = torch.zeros(1, 4, dtype=torch.long)
    for call in (lambda: model.streams(ids), lambda: model.layer_outputs({0: torch.zeros(1, 4, 32)})):
        with pytest.raises(RecipeError, match="no one stream lies between two layers"):
            call()


@pytest.mark.parametrize(
    ("layers", "changes"), [("MS", {}), ("MM", {"bidirectional": True}), ("MM", {"residual": "desync-2x", "desync_ranks": 2})]
)
def test_a_mixer_without_a_matrix_is_named(layers: str, changes: dict[str, Any], make_model: Callable[..., Decoder]) -> None:
    model = make_model(layers, n_groups=2, **changes)
    with pytest.raises(RecipeError, match=f"the mixer of layer 1, {layers[1]}, is no one matrix"):
        model.layer_matrices({1: torch.zeros(1, 4, 32)}, None, lambda number, matrices: matrices)


def test_no_matrix_is_kept_for_the_gradient(make_model: Callable[..., Decoder]) -> None:
    """Of the layers' matrices nothing outlives its layer; the gradients are those of a graph that keeps all of them."""
    model = make_model("ADM", n_groups=2).double()
    given = {number: torch.randn(1, 64, 32, dtype=torch.float64) for number in range(3)}
    kept: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        losses = model.layer_matrices(given, None, lambda number, matrices: (number + 1) * matrices.square().sum())
    assert max(kept) < 64 * 64
    torch.stack(list(losses.values())).sum().backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    layout = lay_out(model.config, torch.zeros(1, 64, dtype=torch.long), None, 0)
    for number, x_BTD in given.items():
        mixer: Any = model.blocks[number].mixer
        ((number + 1) * mixer.matrices(x_BTD, layout).square().sum()).backward()
    wanted = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-12, atol=1e-12)
