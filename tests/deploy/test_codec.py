"""What a delta carries, what it leaves out, and which pairs of models and deltas it refuses."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from tilth.deploy.codec import Encoded, compress, decode, is_encodable
from tilth.errors import DeltaError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.weights import weights_digest


def states() -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    base = {
        "embedding.weight": torch.randn(8, 40, generator=generator),
        "blocks.0.mixer.in_proj.weight": torch.randn(24, 40, generator=generator),
        "blocks.0.mixer.out_proj.weight": torch.randn(40, 32, generator=generator),
        "blocks.0.mixer.conv_weight": torch.randn(24, 4, generator=generator),
        "blocks.0.mixer_norm.weight": torch.ones(40),
        "norm.weight": torch.ones(40),
    }
    tuned = {name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator) for name, tensor in base.items()}
    tuned["norm.weight"] = base["norm.weight"].clone()
    return base, tuned


def test_matrices_are_encoded_and_the_rest_travels_whole_where_it_changed() -> None:
    base, tuned = states()
    delta = compress(base, tuned)
    assert sorted(delta.encoded) == ["blocks.0.mixer.in_proj.weight", "blocks.0.mixer.out_proj.weight"]
    assert list(delta.rounded) == ["embedding.weight"]
    assert sorted(delta.whole) == ["blocks.0.mixer.conv_weight", "blocks.0.mixer_norm.weight"]
    rebuilt = decode(delta, base)
    assert list(rebuilt) == list(base)
    for name in [*delta.whole, "norm.weight"]:
        assert torch.equal(rebuilt[name], tuned[name])
    for name in delta.encoded:
        difference = tuned[name].numpy() - base[name].numpy()
        wanted = base[name].numpy() + np.float32(np.abs(difference).astype(np.float64).mean()) * np.where(difference >= 0, 1, -1)
        np.testing.assert_array_equal(rebuilt[name].numpy(), wanted.astype(np.float32))


def test_a_vocabulary_table_is_off_by_a_256th_of_its_change_and_no_more() -> None:
    base, tuned = states()
    delta = compress(base, tuned)
    name = "embedding.weight"
    assert delta.rounded[name].nbytes == 2 * 8 * 40
    change, error = (state[name].double() - base[name].double() for state in (tuned, decode(delta, base)))
    # half a step of bf16's 8 bits, and half a step of the fp32 sum
    assert ((error - change).abs() <= change.abs() / 256 + base[name].abs().double() * 2**-23).all()
    assert not torch.equal(error, change)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_table_of_16_bits_stays_exact(dtype: torch.dtype) -> None:
    base, tuned = ({name: tensor.to(dtype) for name, tensor in state.items()} for state in states())
    delta = compress(base, tuned)
    assert not delta.rounded
    assert torch.equal(decode(delta, base)["embedding.weight"], tuned["embedding.weight"])


def test_an_unchanged_model_is_an_empty_delta() -> None:
    base, _ = states()
    delta = compress(base, base)
    assert (delta.encoded, delta.rounded, delta.whole) == ({}, {}, {})
    assert weights_digest(decode(delta, base)) == weights_digest(base)


def test_a_change_of_sign_of_zero_is_kept() -> None:
    base, _ = states()
    base["norm.weight"][0] = 0.0
    tuned = base | {"norm.weight": base["norm.weight"].clone()}
    tuned["norm.weight"][0] = -0.0
    assert list(compress(base, tuned).whole) == ["norm.weight"]


def test_bf16_models_keep_their_type() -> None:
    base, tuned = ({name: tensor.bfloat16() for name, tensor in state.items()} for state in states())
    rebuilt = decode(compress(base, tuned), base)
    assert {tensor.dtype for tensor in rebuilt.values()} == {torch.bfloat16}
    name = "blocks.0.mixer.in_proj.weight"
    error = (rebuilt[name] - tuned[name]).float().square().mean()
    assert error < 0.6 * (base[name] - tuned[name]).float().square().mean()


@pytest.mark.parametrize("tie", [True, False])
def test_every_linear_layer_of_a_decoder_is_encoded_and_nothing_else(tie: bool) -> None:
    config = ModelConfig(
        vocab_size=64, d_model=48, layers="MA", n_heads=4, d_ff=64, d_state=16, ssm_head_dim=16, tie_embeddings=tie
    )
    model = Decoder(config)
    chosen = {name for name, tensor in model.state_dict().items() if is_encodable(name, tensor)}
    modules = model.blocks.named_modules(prefix="blocks")
    linear = {f"{name}.weight" for name, module in modules if isinstance(module, torch.nn.Linear)}
    assert chosen == linear
    assert len(chosen) == 8
    assert ("head.weight" in model.state_dict()) is not tie


@pytest.mark.parametrize("break_it", ["missing", "shape", "dtype", "extra"])
def test_models_of_different_shapes_are_refused(break_it: str) -> None:
    base, tuned = states()
    if break_it == "missing":
        del tuned["norm.weight"]
    elif break_it == "extra":
        tuned["blocks.1.mixer_norm.weight"] = torch.ones(40)
    elif break_it == "shape":
        tuned["embedding.weight"] = torch.zeros(16, 40)
    else:
        tuned["embedding.weight"] = tuned["embedding.weight"].half()
    with pytest.raises(DeltaError, match="not models of the same shape") as caught:
        compress(base, tuned)
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize("name", ["embedding.weight", "blocks.0.mixer.in_proj.weight"])
def test_a_fine_tune_that_is_not_finite_is_refused(name: str) -> None:
    base, tuned = states()
    tuned[name][0, 0] = float("nan")
    with pytest.raises(DeltaError, match=f"{name} holds a value that is not finite"):
        compress(base, tuned)


def test_another_base_is_refused() -> None:
    base, tuned = states()
    delta = compress(base, tuned)
    other = base | {"norm.weight": base["norm.weight"] + 1e-6}
    with pytest.raises(DeltaError, match="made for another base"):
        decode(delta, other)


def test_parts_that_do_not_fit_the_base_are_refused() -> None:
    base, tuned = states()
    delta = compress(base, tuned)
    name = "blocks.0.mixer.in_proj.weight"
    narrow = Encoded((24, 8), {"signs": torch.zeros(1, 24, dtype=torch.int32), "scale": torch.tensor(1.0)})
    with pytest.raises(DeltaError, match=r"\(24, 8\) in the delta and \(24, 40\) in the base"):
        decode(replace(delta, encoded=delta.encoded | {name: narrow}), base)
    with pytest.raises(DeltaError, match=r"the base has no tensor blocks\.7\.weight"):
        decode(replace(delta, whole=delta.whole | {"blocks.7.weight": torch.zeros(2)}), base)


def test_an_unknown_codec_or_version_is_refused() -> None:
    base, tuned = states()
    with pytest.raises(DeltaError, match="Did you mean `bitdelta`"):
        compress(base, tuned, "bitdelto")
    with pytest.raises(DeltaError, match="has version 1 here, and the delta was made by version 2"):
        decode(replace(compress(base, tuned), version=2), base)


def test_a_real_fine_tune_loses_what_theory_says(world: SimpleNamespace) -> None:
    rebuilt = decode(world.delta, world.base_state)
    for name in world.delta.encoded:
        base, tuned = (state[name].double() for state in (world.base_state, world.tuned_state))
        distance = (tuned - base).square().sum()
        theory = distance - base.numel() * (tuned - base).abs().mean().square()
        torch.testing.assert_close((rebuilt[name].double() - tuned).square().sum(), theory, rtol=1e-4, atol=1e-9)
        assert theory < distance
