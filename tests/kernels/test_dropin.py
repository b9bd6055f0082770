"""The functions under other libraries' names compute what those libraries' documentation says, written here in plain torch."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tilth.kernels.dropin import bitdelta, causal_conv1d, flash_attn, mamba_ssm


@pytest.fixture(autouse=True)
def _seed(fixed_seed: None) -> None:
    pass


def plain_attention(q: Tensor, k: Tensor, v: Tensor, causal: bool, left: int = -1, softcap: float = 0.0) -> tuple[Tensor, Tensor]:
    """(B, T, H, D) and (B, S, G, D) -> output and log-sum-exp (B, H, T); causal is bottom-right aligned."""
    n_queries, n_keys = q.shape[1], k.shape[1]
    k, v = (t.repeat_interleave(q.shape[2] // t.shape[2], dim=2) for t in (k, v))
    scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])
    if softcap:
        scores = softcap * torch.tanh(scores / softcap)
    place = torch.arange(n_queries)[:, None] + n_keys - n_queries
    distance = place - torch.arange(n_keys)
    hidden = (distance < 0) & torch.tensor(causal)
    if left >= 0:
        hidden |= distance > left
    scores = scores.masked_fill(hidden, -torch.inf)
    return torch.einsum("bhts,bshd->bthd", scores.softmax(-1), v), scores.logsumexp(-1)


@pytest.mark.parametrize("window", [(-1, -1), (None, None), (3, 0)])
@pytest.mark.parametrize("causal", [False, True])
def test_flash_attn_func(causal: bool, window: tuple[int | None, int | None]) -> None:
    q, k, v = torch.randn(2, 9, 4, 16), torch.randn(2, 9, 2, 16), torch.randn(2, 9, 2, 16)
    if window == (3, 0) and not causal:
        pytest.skip("a right limit of 0 is causal")
    expected, lse = plain_attention(q, k, v, causal, left=window[0] if window[0] is not None else -1, softcap=5.0)
    found = flash_attn.flash_attn_func(q, k, v, causal=causal, window_size=window, softcap=5.0, return_lse=True)
    torch.testing.assert_close(found, (expected, lse))


def test_options_after_v_are_by_keyword() -> None:
    for function in (flash_attn.flash_attn_func, flash_attn.flash_attn_varlen_func, flash_attn.flash_attn_with_kvcache):
        kinds = [parameter.kind for parameter in list(inspect.signature(function).parameters.values())[3:]]
        assert set(kinds) == {inspect.Parameter.KEYWORD_ONLY}


def test_flash_attn_varlen_func() -> None:
    lengths = [3, 0, 5, 1]
    bounds = torch.tensor([0, 3, 3, 8, 9], dtype=torch.int32)
    q, k, v = torch.randn(9, 4, 16), torch.randn(9, 2, 16), torch.randn(9, 2, 16)
    found = flash_attn.flash_attn_varlen_func(
        q, k, v, cu_seqlens_q=bounds, cu_seqlens_k=bounds, max_seqlen_q=5, max_seqlen_k=5, causal=True
    )
    parts = [tuple(t[None] for t in part) for part in zip(*(t.split(lengths) for t in (q, k, v)), strict=True)]
    torch.testing.assert_close(found, torch.cat([plain_attention(*part, True)[0][0] for part in parts if part[0].shape[1]]))


@pytest.mark.parametrize("is_paged", [False, True])
def test_flash_attn_with_kvcache_appends_and_attends(is_paged: bool) -> None:
    k, v = torch.randn(2, 13, 2, 16), torch.randn(2, 13, 2, 16)
    q, held = torch.randn(2, 2, 4, 16), torch.tensor([11, 4], dtype=torch.int32)
    caches = [torch.full((2, 16, 2, 16), torch.nan) for _ in "kv"]
    for cache, full in zip(caches, (k, v), strict=True):
        for b, n in enumerate(held.tolist()):
            cache[b, :n] = full[b, :n]
    table = None
    if is_paged:
        table = torch.tensor([[3, 0, 1, 2], [7, 6, 5, 4]], dtype=torch.int32)
        caches = [torch.empty(8, 4, 2, 16).index_copy_(0, table.flatten().long(), c.view(8, 4, 2, 16)) for c in caches]
    new = [torch.stack([full[b, n : n + 2] for b, n in enumerate(held.tolist())]) for full in (k, v)]
    found = flash_attn.flash_attn_with_kvcache(q, *caches, k=new[0], v=new[1], cache_seqlens=held, page_table=table, causal=True)
    for b, n in enumerate(held.tolist()):
        expected, _ = plain_attention(q[b : b + 1], k[b : b + 1, : n + 2], v[b : b + 1, : n + 2], True)
        torch.testing.assert_close(found[b : b + 1], expected)


def test_apply_rotary_emb() -> None:
    x, angles = torch.randn(2, 5, 3, 12), torch.rand(8, 4)
    cos, sin = angles.cos(), angles.sin()
    a, b = x[..., :4], x[..., 4:8]
    c, s = cos[:5, None], sin[:5, None]
    expected = torch.cat([a * c - b * s, a * s + b * c, x[..., 8:]], dim=-1)
    torch.testing.assert_close(flash_attn.apply_rotary_emb(x, cos, sin), expected)
    pairs = x[..., :8].unflatten(-1, (4, 2))
    turned = torch.stack([pairs[..., 0] * c - pairs[..., 1] * s, pairs[..., 0] * s + pairs[..., 1] * c], dim=-1).flatten(-2)
    torch.testing.assert_close(
        flash_attn.apply_rotary_emb(x, cos, sin, interleaved=True), torch.cat([turned, x[..., 8:]], dim=-1)
    )


def test_causal_conv1d_fn_and_update() -> None:
    x, weight, bias = torch.randn(2, 6, 9), torch.randn(6, 4), torch.randn(6)
    before = torch.randn(2, 6, 3)
    full = torch.cat([before, x], dim=-1)
    expected = functional.silu(functional.conv1d(full, weight[:, None], bias, groups=6))
    y, final = causal_conv1d.causal_conv1d_fn(
        x, weight, bias, initial_states=before, return_final_states=True, activation="swish"
    )
    torch.testing.assert_close((y, final), (expected, full[..., -3:]))
    state = before.clone()
    one = causal_conv1d.causal_conv1d_update(x[..., 0], state, weight, bias, activation="silu")
    more = causal_conv1d.causal_conv1d_update(x[..., 1:], state, weight, bias, activation="silu")
    torch.testing.assert_close(torch.cat([one[..., None], more], dim=-1), expected)
    torch.testing.assert_close(state, full[..., -3:])
    with pytest.raises(ValueError, match="activation is 'gelu'"):
        causal_conv1d.causal_conv1d_fn(x, weight, activation="gelu")


def plain_ssd(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
    """One step after the other: x (B, T, H, P), dt (B, T, H), B and C (B, T, G, N), S (B, H, P, N)."""
    B, C = (t.repeat_interleave(x.shape[2] // t.shape[2], dim=2) for t in (B, C))
    rows = []
    for t in range(x.shape[1]):
        S = (dt[:, t] * A).exp()[..., None, None] * S + torch.einsum("bh,bhp,bhn->bhpn", dt[:, t], x[:, t], B[:, t])
        rows.append(torch.einsum("bhpn,bhn->bhp", S, C[:, t]) + D[:, None] * x[:, t])
    return torch.stack(rows, dim=1), S


def ssd_inputs(n_tokens: int = 9) -> tuple[Tensor, ...]:
    heads, groups, channels, states = 4, 2, 8, 16
    return (
        torch.randn(2, n_tokens, heads, channels),
        torch.randn(2, n_tokens, heads),
        -torch.rand(heads) - 0.1,
        torch.randn(2, n_tokens, groups, states),
        torch.randn(2, n_tokens, groups, states),
        torch.randn(heads),
        torch.randn(2, heads, channels, states),
    )


def test_mamba_chunk_scan_combined_and_state_update() -> None:
    x, dt, A, B, C, D, S = ssd_inputs()
    bias, z = torch.randn(4), torch.randn_like(x)
    y, final = plain_ssd(x, functional.softplus(dt + bias), A, B, C, D, S)
    found = mamba_ssm.mamba_chunk_scan_combined(
        x, dt, A, B, C, 4, D=D, z=z, dt_bias=bias, initial_states=S, dt_softplus=True, return_final_states=True
    )
    torch.testing.assert_close(found, (y * functional.silu(z), final))
    with pytest.raises(ValueError, match="needs cu_seqlens"):
        mamba_ssm.mamba_chunk_scan_combined(x, dt, A, B, C, 4, return_varlen_states=True)
    # as mamba_ssm's own modules call it: what a head shares is repeated as a view
    state, rows = S.clone(), []
    for t in range(x.shape[1]):
        rows.append(
            mamba_ssm.selective_state_update(
                state,
                x[:, t],
                dt[:, t, :, None].expand(-1, -1, 8),
                A[:, None, None].expand(-1, 8, 16),
                B[:, t],
                C[:, t],
                D=D[:, None].expand(-1, 8),
                z=z[:, t],
                dt_bias=bias[:, None].expand(-1, 8),
                dt_softplus=True,
            )
        )
    torch.testing.assert_close(torch.stack(rows, dim=1), found[0])
    torch.testing.assert_close(state, final)
    with pytest.raises(ValueError, match="A must be the same"):
        mamba_ssm.selective_state_update(state, x[:, 0], dt[:, 0], torch.randn(4, 8, 16), B[:, 0], C[:, 0])


def test_the_whole_mixer_in_one_call() -> None:
    x, dt, A, B, C, D, _ = ssd_inputs()
    weight, bias, norm, out = torch.randn(96, 4), torch.randn(96), torch.randn(32), torch.randn(5, 32)
    z, dt_bias = torch.randn(2, 9, 32), torch.randn(4)
    xBC = torch.cat([x.flatten(-2), B.flatten(-2), C.flatten(-2)], dim=-1)
    found = mamba_ssm.mamba_split_conv1d_scan_combined(
        torch.cat([z, xBC, dt], dim=-1), weight, bias, dt_bias, A, D, 4, rmsnorm_weight=norm, rmsnorm_eps=1e-5,
        outproj_weight=out, headdim=8, ngroups=2, norm_before_gate=False,
    )  # fmt: skip
    padded = functional.pad(xBC.transpose(1, 2), (3, 0))
    mixed = functional.silu(functional.conv1d(padded, weight[:, None], bias, groups=96)).transpose(1, 2)
    x, B, C = mixed.split([32, 32, 32], dim=-1)
    steps = functional.softplus(dt + dt_bias)
    y, _ = plain_ssd(x.unflatten(-1, (4, 8)), steps, A, *(t.unflatten(-1, (2, 16)) for t in (B, C)), D, torch.zeros(2, 4, 8, 16))
    gated = (y.flatten(-2) * functional.silu(z)).unflatten(-1, (2, 16))
    normed = (gated * torch.rsqrt(gated.square().mean(-1, keepdim=True) + 1e-5)).flatten(-2) * norm
    torch.testing.assert_close(found, normed @ out.T, rtol=1e-4, atol=1e-4)


def test_selective_scan_fn_and_state_update() -> None:
    u, delta, z = (torch.randn(2, 6, 9) for _ in range(3))
    A, B, C, D, bias = -torch.rand(6, 4), torch.randn(2, 4, 9), torch.randn(2, 4, 9), torch.randn(6), torch.randn(6)
    state, rows = torch.zeros(2, 6, 4), []
    dt = functional.softplus(delta + bias[:, None])
    for t in range(9):
        state = (dt[..., t, None] * A).exp() * state + (dt[..., t] * u[..., t])[..., None] * B[:, None, :, t]
        rows.append((state * C[:, None, :, t]).sum(-1) + D * u[..., t])
    expected = torch.stack(rows, dim=-1) * functional.silu(z)
    found = mamba_ssm.selective_scan_fn(u, delta, A, B, C, D, z=z, delta_bias=bias, delta_softplus=True, return_last_state=True)
    torch.testing.assert_close(found, (expected, state))
    running = torch.zeros(2, 6, 4)
    one = [
        mamba_ssm.selective_state_update(
            running, u[..., t], delta[..., t], A, B[..., t], C[..., t], D=D, z=z[..., t], dt_bias=bias, dt_softplus=True
        )
        for t in range(9)
    ]
    torch.testing.assert_close(torch.stack(one, dim=-1), expected)


def test_norms() -> None:
    x, weight, z = torch.randn(3, 12), torch.randn(12), torch.randn(3, 12)

    def norm(x: Tensor) -> Tensor:
        groups = x.unflatten(-1, (3, 4))
        return (groups * torch.rsqrt(groups.square().mean(-1, keepdim=True) + 1e-6)).flatten(-2) * weight

    torch.testing.assert_close(mamba_ssm.rmsnorm_fn(x, weight, z=z, group_size=4), norm(x) * functional.silu(z))
    found = mamba_ssm.rmsnorm_fn(x, weight, z=z, group_size=4, norm_before_gate=False)
    torch.testing.assert_close(found, norm(x * functional.silu(z)))
    y, stream = mamba_ssm.rms_norm_fn(x.bfloat16(), weight, residual=z.bfloat16(), prenorm=True, residual_in_fp32=True)
    torch.testing.assert_close(stream, x.bfloat16().float() + z.bfloat16().float())
    torch.testing.assert_close(y.float(), functional.rms_norm(stream, (12,), weight, 1e-6), rtol=1e-2, atol=1e-2)


def test_bitdelta_packs_the_lowest_bit_first_and_multiplies() -> None:
    signs = torch.rand(2, 64, 5) < 0.5
    packed = bitdelta.pack(signs)
    assert packed.shape == (2, 2, 5)
    bits = [(int(packed[1, 1, 3]) >> j) & 1 for j in range(32)]
    assert bits == signs[1, 32:, 3].int().tolist()
    assert torch.equal(bitdelta.unpack(packed), signs)
    a = torch.randn(2, 3, 64)
    torch.testing.assert_close(bitdelta.binary_bmm(a, packed), a @ (2.0 * signs - 1))
    torch.testing.assert_close(bitdelta.binary_matmul(a[0], packed[0]), a[0] @ (2.0 * signs[0] - 1))
    with pytest.raises(ValueError, match="multiple of 32"):
        bitdelta.pack(signs[:, :40])
