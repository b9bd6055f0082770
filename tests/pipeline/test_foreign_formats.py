"""Checkpoints of the papers' own code: what is imported computes what their equations say, written here once more in fp64."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import conv1d, scaled_dot_product_attention, silu, softplus

import tilth
from tilth.errors import ContractError, SourceError
from tilth.pipeline.foreign_models import import_model

Weights = Mapping[str, Tensor]
VOCAB = 24
pytestmark = pytest.mark.usefixtures("one_thread", "fixed_seed")


def check(tmp_path: Path, config: dict[str, Any], weights: Weights, reference: Callable[[Tensor], Tensor], **extra: Any) -> Any:
    """Import the checkpoint; its logits are those of the reference to 1e-5 of their size. Returns the model."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config))
    for name, values in extra.items():
        (source / f"{name}.json").write_text(json.dumps(values))
    torch.save({name: tensor.float() for name, tensor in weights.items()}, source / "pytorch_model.bin")
    import_model(source, tmp_path / "model")
    model = tilth.load_model(tmp_path / "model")
    ids = torch.randint(0, model.config.vocab_size, (2, 11))
    expected = reference(ids)[..., : model.config.vocab_size]
    with torch.no_grad():
        found = model(ids).double()
    assert (found - expected).abs().max() < 1e-5 * max(1, float(expected.abs().max()))
    return model


def draw(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """fp64 weights whose values fp32 holds exactly, large enough for an error to show."""
    drawn = {name: 0.4 * torch.randn(shape).double() for name, shape in shapes.items()}
    return {name: tensor + (1 if name.endswith("norm.weight") or ".norm" in name else 0) for name, tensor in drawn.items()}


def rms(x: Tensor, weight: Tensor, groups: int = 1) -> Tensor:
    x = x.unflatten(-1, (groups, -1))
    return (x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(-2) * weight


def causal_conv(x_BTC: Tensor, weight_C1K: Tensor, bias_C: Tensor) -> Tensor:
    n_channels, _, width = weight_C1K.shape
    padded = torch.nn.functional.pad(x_BTC.transpose(1, 2), (width - 1, 0))
    return conv1d(padded, weight_C1K, bias_C, groups=n_channels).transpose(1, 2)


def recurrence(x_BTHP: Tensor, decay_BTH: Tensor, B_BTHN: Tensor, C_BTHN: Tensor) -> Tensor:
    state = x_BTHP.new_zeros(*x_BTHP.shape[:1], *x_BTHP.shape[2:], B_BTHN.shape[-1])
    outputs = []
    for t in range(x_BTHP.shape[1]):
        state = decay_BTH[:, t, :, None, None] * state + x_BTHP[:, t, ..., None] * B_BTHN[:, t, :, None]
        outputs.append((state * C_BTHN[:, t, :, None]).sum(-1))
    return torch.stack(outputs, 1)


def part(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def swiglu(x: Tensor, w: Weights) -> Tensor:
    return (silu(x @ w["gate_proj.weight"].T) * (x @ w["up_proj.weight"].T)) @ w["down_proj.weight"].T


def mamba2(u: Tensor, w: Weights, heads: int, groups: int, d_state: int) -> Tensor:
    inner = w["out_proj.weight"].shape[1]
    z, xBC, dt = (u @ w["in_proj.weight"].T).split([inner, inner + 2 * groups * d_state, heads], -1)
    x, B, C = silu(causal_conv(xBC, w["conv1d.weight"], w["conv1d.bias"])).split([inner, groups * d_state, groups * d_state], -1)
    x = x.unflatten(-1, (heads, -1))
    B, C = (t.unflatten(-1, (groups, -1)).repeat_interleave(heads // groups, 2) for t in (B, C))
    dt = softplus(dt + w["dt_bias"])
    y = recurrence(x * dt[..., None], (-dt * w["A_log"].exp()).exp(), B, C) + w["D"][:, None] * x
    return rms(y.flatten(-2) * silu(z), w["norm.weight"], groups) @ w["out_proj.weight"].T


def mamba1(u: Tensor, w: Weights) -> Tensor:
    x, z = (u @ w["in_proj.weight"].T).chunk(2, -1)
    x = silu(causal_conv(x, w["conv1d.weight"], w["conv1d.bias"]))
    n_states = w["A_log"].shape[1]
    rank = w["dt_proj.weight"].shape[1]
    dt, B, C = (x @ w["x_proj.weight"].T).split([rank, n_states, n_states], -1)
    dt = softplus(dt @ w["dt_proj.weight"].T + w["dt_proj.bias"])
    state, outputs = x.new_zeros(len(x), x.shape[-1], n_states), []
    for t in range(x.shape[1]):
        state = (-dt[:, t, :, None] * w["A_log"].exp()).exp() * state + (dt * x)[:, t, :, None] * B[:, t, None]
        outputs.append((state * C[:, t, None]).sum(-1))
    return ((torch.stack(outputs, 1) + w["D"] * x) * silu(z)) @ w["out_proj.weight"].T


def rotate(x_BHTD: Tensor, n_channels: int, theta: float) -> Tensor:
    half = n_channels // 2
    angles = torch.arange(x_BHTD.shape[2])[:, None] * theta ** (-torch.arange(half).double() / half)
    first, second, rest = x_BHTD.split([half, half, x_BHTD.shape[-1] - n_channels], -1)
    turned = [first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()]
    return torch.cat([*turned, rest], -1)


def mamba1_shapes(d_model: int, d_state: int, rank: int) -> dict[str, tuple[int, ...]]:
    inner = 2 * d_model
    between = {"x_proj.weight": (rank + 2 * d_state, inner), "dt_proj.weight": (inner, rank), "dt_proj.bias": (inner,)}
    shapes = {"conv1d.weight": (inner, 1, 4), "conv1d.bias": (inner,), "A_log": (inner, d_state), "D": (inner,)}
    return {"in_proj.weight": (2 * inner, d_model), "out_proj.weight": (d_model, inner)} | between | shapes


def mamba2_shapes(d_model: int, inner: int, heads: int, groups: int, d_state: int) -> dict[str, tuple[int, ...]]:
    conv = inner + 2 * groups * d_state
    shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("dt_bias", "A_log", "D"), (heads,))
    matrices = {"in_proj.weight": (inner + conv + heads, d_model), "out_proj.weight": (d_model, inner)}
    return shapes | matrices | {"conv1d.weight": (conv, 1, 4), "conv1d.bias": (conv,), "norm.weight": (inner,)}


def within(prefix: str, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}{name}": shape for name, shape in shapes.items()}


@pytest.mark.parametrize("kind", ["Mamba1", "Mamba2"])
def test_mamba_ssm_with_attention_and_mlps(kind: str, tmp_path: Path) -> None:
    """Rows that pad the vocabulary, [up, gate] in one matrix, q k v in one, half of the channels rotated."""
    ssm = {"layer": kind, "d_state": 8, **({"headdim": 16, "ngroups": 2} if kind == "Mamba2" else {})}
    attention = {
        "causal": True,
        "num_heads": 2,
        "head_dim": 12,
        "qkv_proj_bias": False,
        "out_proj_bias": False,
        "rotary_emb_dim": 6,
    }
    config = {"d_model": 32, "n_layer": 3, "d_intermediate": 100, "vocab_size": 22, "ssm_cfg": ssm, "attn_layer_idx": [1]}
    config |= {"attn_cfg": attention, "pad_vocab_size_multiple": 32, "rms_norm": True, "fused_add_norm": True}
    mixer = mamba2_shapes(32, 64, 4, 2, 8) if kind == "Mamba2" else mamba1_shapes(32, 8, 2)
    shapes: dict[str, tuple[int, ...]] = {"backbone.embedding.weight": (32, 32), "backbone.norm_f.weight": (32,)}
    for i in range(3):
        here = {"in_proj.weight": (72, 32), "out_proj.weight": (32, 24)} if i == 1 else mixer
        block = {"norm.weight": (32,), "norm2.weight": (32,), "mlp.fc1.weight": (256, 32), "mlp.fc2.weight": (32, 128)}
        shapes |= within(f"backbone.layers.{i}.", block | within("mixer.", here))
    weights = draw(shapes)
    weights["lm_head.weight"] = weights["backbone.embedding.weight"]

    def attend(u: Tensor, w: Weights) -> Tensor:
        q, k, v = (u @ w["in_proj.weight"].T).unflatten(-1, (3, 2, 12)).permute(2, 0, 3, 1, 4)
        y = scaled_dot_product_attention(rotate(q, 6, 1e4), rotate(k, 6, 1e4), v, is_causal=True)
        return y.transpose(1, 2).flatten(-2) @ w["out_proj.weight"].T

    def reference(ids: Tensor) -> Tensor:
        x = weights["backbone.embedding.weight"][ids]
        for i in range(3):
            w = part(weights, f"backbone.layers.{i}.")
            mix = attend if i == 1 else (lambda u, w: mamba2(u, w, 4, 2, 8)) if kind == "Mamba2" else mamba1
            x = x + mix(rms(x, w["norm.weight"]), part(w, "mixer."))
            up, gate = (rms(x, w["norm2.weight"]) @ w["mlp.fc1.weight"].T).chunk(2, -1)
            x = x + (up * silu(gate)) @ w["mlp.fc2.weight"].T
        return rms(x, weights["backbone.norm_f.weight"]) @ weights["backbone.embedding.weight"].T

    model = check(tmp_path, config, weights, reference)
    assert model.config.pattern == ("MAM" if kind == "Mamba2" else "SAS")
    assert model.embedding.weight.shape == (24, 32)
    assert not model.embedding.weight[22:].any()


def test_mamba_ssm_attention_with_a_convolution_is_refused(tmp_path: Path) -> None:
    """As in the released mamba2attn-2.7b: without it the model would be another, at the same shapes of q, k and v."""
    attention = {"causal": True, "d_conv": 4, "head_dim": 128, "num_heads": 30, "out_proj_bias": False, "qkv_proj_bias": False}
    config = {"d_model": 2560, "n_layer": 64, "vocab_size": 50277, "ssm_cfg": {"layer": "Mamba2"}, "attn_layer_idx": [9]}
    (tmp_path / "config.json").write_text(json.dumps(config | {"attn_cfg": attention}))
    with pytest.raises(SourceError, match="d_conv = 4"):
        import_model(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("is_repeated_first", [False, True])
def test_mamba_in_llama(is_repeated_first: bool, tmp_path: Path) -> None:
    """x and B have two heads, repeated for the four of C, before or after the convolution."""
    llama = {"model_type": "llama", "vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama |= {"num_key_value_heads": 2, "intermediate_size": 40, "rms_norm_eps": 1e-5, "rope_theta": 10_000.0}
    ssm = {"expand": 1, "ngroups": 4, "d_state": 8, "repeat_kv_before_conv": is_repeated_first}
    mamba = {"d_model": 32, "ssm_cfg": ssm, "rms_norm_eps": 1e-5, "vocab_size": None, "d_inner": 32, "d_xb": 16}
    mamba |= {"intermediate_size": 40, "hidden_act": "silu", "n_layer": 2, "attn_layers": [1]}
    inner, few = 32, 16
    conv = 3 * inner if is_repeated_first else inner + 2 * few
    mixer = mamba2_shapes(32, inner, 4, 4, 8) | {"conv1d.weight": (conv, 1, 4), "conv1d.bias": (conv,)}
    mixer["in_proj.weight"] = (2 * inner + 2 * few + 4, 32)
    attention = {f"{n}_proj.weight": (32 if n in "qo" else 16, 32) for n in "qkvo"}
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCAB, 32),
        "lm_head.weight": (VOCAB, 32),
        "model.norm.weight": (32,),
    }
    for i in range(2):
        mlp = {"gate_proj.weight": (40, 32), "up_proj.weight": (40, 32), "down_proj.weight": (32, 40)}
        norms = {"input_layernorm.weight": (32,), "post_attention_layernorm.weight": (32,)}
        here = within("self_attn.", attention) if i == 1 else within("mamba.", mixer)
        shapes |= within(f"model.layers.{i}.", norms | within("mlp.", mlp) | here)
    weights = draw(shapes)

    def repeat(t: Tensor) -> Tensor:
        return t.unflatten(-1, (2, 8)).repeat_interleave(2, -2).flatten(-2)

    def mamba_layer(u: Tensor, w: Weights) -> Tensor:
        z, x, B, C, dt = (u @ w["in_proj.weight"].T).split([inner, few, few, inner, 4], -1)
        if is_repeated_first:
            x, B = repeat(x), repeat(B)
        sizes = [x.shape[-1], B.shape[-1], inner]
        x, B, C = silu(causal_conv(torch.cat([x, B, C], -1), w["conv1d.weight"], w["conv1d.bias"])).split(sizes, -1)
        if not is_repeated_first:
            x, B = repeat(x), repeat(B)
        x, B, C = (t.unflatten(-1, (4, 8)) for t in (x, B, C))
        dt = softplus(dt + w["dt_bias"])
        y = recurrence(x * dt[..., None], (-dt * w["A_log"].exp()).exp(), B, C) + w["D"][:, None] * x
        return rms(y.flatten(-2) * silu(z), w["norm.weight"], 4) @ w["out_proj.weight"].T

    def attend(u: Tensor, w: Weights) -> Tensor:
        q, k, v = ((u @ w[f"{n}_proj.weight"].T).unflatten(-1, (-1, 8)).transpose(1, 2) for n in "qkv")
        k, v = (t.repeat_interleave(2, 1) for t in (k, v))
        y = scaled_dot_product_attention(rotate(q, 8, 1e4), rotate(k, 8, 1e4), v, is_causal=True)
        return y.transpose(1, 2).flatten(-2) @ w["o_proj.weight"].T

    def reference(ids: Tensor) -> Tensor:
        x = weights["model.embed_tokens.weight"][ids]
        for i in range(2):
            w = part(weights, f"model.layers.{i}.")
            u = rms(x, w["input_layernorm.weight"])
            x = x + (attend(u, part(w, "self_attn.")) if i == 1 else mamba_layer(u, part(w, "mamba.")))
            x = x + swiglu(rms(x, w["post_attention_layernorm.weight"]), part(w, "mlp."))
        return rms(x, weights["model.norm.weight"]) @ weights["lm_head.weight"].T

    assert check(tmp_path, llama, weights, reference, mamba_config=mamba).config.pattern == "MA"


def test_llamba(tmp_path: Path) -> None:
    """A decay of its own, x not scaled by it, no activation after the convolution, no norm, a bias of the gate."""
    ssm = {"d_state": 8, "n_v_heads": 4, "n_qk_heads": 2, "expand": 1, "chunk_size": 4, "activation": "identity", "bias": False}
    config = {"model_type": "llamba", "vocab_size": VOCAB, "d_model": 32, "n_layer": 2, "tie_embeddings": True, "ssm_cfg": ssm}
    config |= {"mlp_cfg": {"intermediate_size": 40, "bias": False, "act_fn": "silu"}, "norm_epsilon": 1e-5}
    mixer = {"in_proj.weight": (64 + 32 + 4, 32), "z_bias": (32,), "conv1d.weight": (64, 1, 4), "conv1d.bias": (64,), "D": (4,)}
    mixer["out_proj.weight"] = (32, 32)
    shapes: dict[str, tuple[int, ...]] = {"backbone.embedding.weight": (VOCAB, 32), "backbone.final_layernorm.weight": (32,)}
    for i in range(2):
        mlp = {"gate_proj.weight": (40, 32), "up_proj.weight": (40, 32), "down_proj.weight": (32, 40)}
        norms = {"input_layernorm.weight": (32,), "post_attention_layernorm.weight": (32,)}
        shapes |= within(f"backbone.layers.{i}.", norms | within("mlp.", mlp) | within("mixer.", mixer))
    weights = draw(shapes)

    def mix(u: Tensor, w: Weights) -> Tensor:
        xBC, z, a = (u @ w["in_proj.weight"].T).split([64, 32, 4], -1)
        x, B, C = causal_conv(xBC, w["conv1d.weight"], w["conv1d.bias"]).split([32, 16, 16], -1)
        x = x.unflatten(-1, (4, 8))
        B, C = (t.unflatten(-1, (2, 8)).repeat_interleave(2, 2) for t in (B, C))
        y = recurrence(x, (-softplus(a)).exp(), B, C) + w["D"][:, None] * x
        return (y.flatten(-2) * silu(z + w["z_bias"])) @ w["out_proj.weight"].T

    def reference(ids: Tensor) -> Tensor:
        x = weights["backbone.embedding.weight"][ids]
        for i in range(2):
            w = part(weights, f"backbone.layers.{i}.")
            x = x + mix(rms(x, w["input_layernorm.weight"]), part(w, "mixer."))
            x = x + swiglu(rms(x, w["post_attention_layernorm.weight"]), part(w, "mlp."))
        return rms(x, weights["backbone.final_layernorm.weight"]) @ weights["backbone.embedding.weight"].T

    assert check(tmp_path, config, weights, reference).config.pattern == "DD"


def caduceus(n_layers: int, *, rcps: bool, fused: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A checkpoint under the names of the official code, whose config was written with its keys sorted as text."""
    pairs = {**{i: i for i in range(12)}, 7: 10, 8: 9, 9: 8, 10: 7}
    config = {
        "model_type": "caduceus",
        "d_model": 12,
        "n_layer": n_layers,
        "vocab_size": 12,
        "rcps": rcps,
        "fused_add_norm": fused,
    }
    config |= {"ssm_cfg": {"d_state": 4, "dt_rank": "auto"}, "bidirectional_strategy": "add", "bidirectional_weight_tie": True}
    config |= {"rms_norm": True, "complement_map": {str(i): pairs[i] for i in sorted(pairs, key=str)}}
    deeper, norm = ".submodule" if rcps else "", ".submodule" if rcps and not fused else ""
    stem, embedding = "caduceus.backbone", ".embedding" if rcps else ""
    table = f"{stem}.embeddings.word_embeddings{embedding}.weight"
    shapes: dict[str, tuple[int, ...]] = {table: (16, 12), f"{stem}.norm_f{norm}.weight": (12,)}
    for i in range(n_layers):
        shapes[f"{stem}.layers.{i}.norm{norm}.weight"] = (12,)
        for direction in ("fwd", "rev"):
            shapes |= within(f"{stem}.layers.{i}.mixer{deeper}.mamba_{direction}.", mamba1_shapes(12, 4, 1))
    weights = draw(shapes)
    for name in [name for name in weights if "mamba_rev" in name and name.endswith(("in_proj.weight", "out_proj.weight"))]:
        weights[name] = weights[name.replace("mamba_rev", "mamba_fwd")]
    if rcps:
        weights["lm_head.lm_head.weight"] = weights[table]
    else:
        weights["lm_head.weight"] = weights[table]
    return config, weights


def caduceus_logits(ids: Tensor, config: dict[str, Any], weights: Weights) -> Tensor:
    """The official graph on doubled channels, with what its fused norm does to their halves."""
    rcps, swap = config["rcps"], config["rcps"] and config["fused_add_norm"]
    w = {name.replace(".submodule", "").removeprefix("caduceus.backbone."): tensor for name, tensor in weights.items()}
    table = next(tensor for name, tensor in w.items() if "word_embeddings" in name)
    complement = torch.tensor([int(config["complement_map"].get(str(i), i)) for i in range(16)])

    def both(function: Callable[[Tensor], Tensor], h: Tensor) -> Tensor:
        if not rcps:
            return function(h)
        first, second = h.chunk(2, -1)
        return torch.cat([function(first), function(second.flip(1, 2)).flip(1, 2)], -1)

    def mix(u: Tensor, i: int) -> Tensor:
        forwards, backwards = (part(w, f"layers.{i}.mixer.mamba_{direction}.") for direction in ("fwd", "rev"))
        return mamba1(u, forwards) + mamba1(u.flip(1), backwards).flip(1)

    x = table[ids]
    if rcps:
        x = torch.cat([x, table[complement[ids.flip(1)]].flip(1, 2)], -1)
    for i in range(config["n_layer"]):
        if swap:
            x = torch.cat(x.chunk(2, -1)[::-1], -1)
        x = x + both(lambda u, i=i: mix(rms(u, w[f"layers.{i}.norm.weight"]), i), x)  # type: ignore[misc]
    x = both(lambda u: rms(u, w["norm_f.weight"]), x)
    if not rcps:
        return x @ table.T
    own, other = x.chunk(2, -1)
    return own @ table.T + other.flip(2) @ table[complement].T


@pytest.mark.parametrize("n_layers", [1, 2, 3])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("rcps", [True, False])
def test_caduceus(rcps: bool, fused: bool, n_layers: int, tmp_path: Path) -> None:
    config, weights = caduceus(n_layers, rcps=rcps, fused=fused)
    source = tmp_path / "source"
    source.mkdir()
    (source / "config.json").write_text(json.dumps(config))
    tensors = {name: tensor.float().clone() for name, tensor in weights.items()}
    if rcps:
        pairs = torch.tensor([int(config["complement_map"].get(str(i), i)) for i in range(16)])
        names = ("caduceus.backbone.embeddings.word_embeddings.complement_map", "lm_head.complement_map")
        tensors |= {name: pairs.clone() for name in names}
    save_file(tensors, source / "model.safetensors")
    import_model(source, tmp_path / "model")
    model = tilth.load_model(tmp_path / "model")
    assert model.config.rcps_swap == (rcps and fused)
    ids = torch.randint(0, 12, (2, 9))
    expected = caduceus_logits(ids, config, weights)
    with torch.no_grad():
        found = model(ids).double()
    assert (found - expected).abs().max() < 1e-5 * float(expected.abs().max())
    if rcps:
        unswapped = caduceus_logits(ids, config | {"fused_add_norm": not fused}, weights)
        assert (unswapped - expected).abs().max() > 1e-2, "the swap must matter for this test to mean anything"
        tensors["lm_head.complement_map"] = torch.arange(16)
        save_file(tensors, source / "model.safetensors")
        with pytest.raises(ContractError, match="other complements"):
            import_model(source, tmp_path / "other")
