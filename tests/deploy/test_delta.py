"""What a delta carries, what it leaves out, and which pairs of models and deltas it refuses."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from tilth.deploy.choice import Choice, kind_of, parse_choice
from tilth.deploy.delta import Delta, Encoded, add_in_place, compress, decode
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


def codecs(delta: Delta) -> dict[str, str]:
    return {name: own.codec for name, own in delta.encoded.items()}


def test_each_kind_of_tensor_gets_its_codec_and_what_did_not_change_gets_none() -> None:
    base, tuned = states()
    delta = compress(base, tuned, Choice("bitdelta", tables="16"))
    assert codecs(delta) == {
        "blocks.0.mixer.conv_weight": "whole",
        "blocks.0.mixer.in_proj.weight": "bitdelta",
        "blocks.0.mixer.out_proj.weight": "bitdelta",
        "blocks.0.mixer_norm.weight": "whole",
        "embedding.weight": "rows",
    }
    rebuilt = decode(delta, base)
    assert list(rebuilt) == list(base)
    for name in [*delta.of_kind("other"), "norm.weight"]:
        assert torch.equal(rebuilt[name], tuned[name])
    for name in delta.of_kind("matrices"):
        difference = tuned[name].numpy() - base[name].numpy()
        wanted = base[name].numpy() + np.float32(np.abs(difference).astype(np.float64).mean()) * np.where(difference >= 0, 1, -1)
        np.testing.assert_array_equal(rebuilt[name].numpy(), wanted.astype(np.float32))


def test_one_delta_mixes_codecs() -> None:
    base, tuned = states()
    choice = parse_choice(["blocks.*.in_proj.weight=residual:3", "low-rank:2", "blocks.0.*=whole"])
    delta = compress(base, tuned, choice)
    assert codecs(delta)["blocks.0.mixer.in_proj.weight"] == "residual"
    assert len(delta.encoded["blocks.0.mixer.in_proj.weight"].parts) == 3 * 4
    assert codecs(delta)["blocks.0.mixer.out_proj.weight"] == "whole"
    assert codecs(compress(base, tuned, parse_choice([])))["blocks.0.mixer.out_proj.weight"] == "rank1"
    rebuilt = decode(delta, base)
    assert torch.equal(rebuilt["blocks.0.mixer.out_proj.weight"], tuned["blocks.0.mixer.out_proj.weight"])


@pytest.mark.parametrize(
    ("words", "tables", "said"),
    [
        (["rank1", "bitdelta"], "auto", "two codecs for all matrices: rank1 and bitdelta"),
        (["blocks.*=rank2"], "auto", "Did you mean `rank1`"),
        (["rank1"], "2", "cannot be kept as `2`"),
        (["rank1"], "hole", "Did you mean `whole`"),
    ],
)
def test_choices_that_are_none_are_refused(words: list[str], tables: str, said: str) -> None:
    with pytest.raises(DeltaError, match=said):
        parse_choice(words, tables)


def test_a_pattern_of_no_matrix_is_refused() -> None:
    base, tuned = states()
    for pattern in ("blocks.0.mixer.in_proj.wieght", "embedding.weight"):
        with pytest.raises(DeltaError, match="no matrix is called") as caught:
            compress(base, tuned, parse_choice([f"{pattern}=bitdelta"]))
    with pytest.raises(DeltaError, match=re.escape("Did you mean `blocks.0.mixer.in_proj.weight`")):
        compress(base, tuned, parse_choice(["blocks.0.mixer.in_proj.wieght=bitdelta"]))
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("words", ["low-rank:9999", "residual:40"])
def test_more_bytes_than_the_whole_matrix_are_refused(words: str) -> None:
    base, tuned = states()
    with pytest.raises(DeltaError, match=f"{words} of blocks.0.mixer.in_proj.weight takes .* bytes, and 1,920"):
        compress(
            {name: t.bfloat16() for name, t in base.items()}, {name: t.bfloat16() for name, t in tuned.items()}, Choice(words)
        )
    # 24 of (24, 40) in fp16 and their scales take 3,168 of 3,840
    assert codecs(compress(base, tuned, Choice("low-rank:9999")))["blocks.0.mixer.in_proj.weight"] == "low-rank"


def test_a_vocabulary_table_is_off_by_a_256th_of_its_change_and_no_more() -> None:
    base, tuned = states()
    delta = compress(base, tuned, Choice(tables="16"))
    name = "embedding.weight"
    assert delta.encoded[name].n_bytes == 2 * 8 * 40 + 4 * 8
    change, error = (state[name].double() - base[name].double() for state in (tuned, decode(delta, base)))
    # half a step of bf16's 8 bits, and half a step of the fp32 sum
    assert ((error - change).abs() <= change.abs() / 256 + base[name].abs().double() * 2**-23).all()
    assert not torch.equal(error, change)


def test_a_table_costs_16_bits_where_few_rows_changed_and_fewer_where_all_did() -> None:
    generator = torch.Generator().manual_seed(0)
    base = {"embedding.weight": torch.randn(400, 64, generator=generator), "blocks.0.mlp.out_proj.weight": torch.zeros(64, 256)}
    tuned = {name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator) for name, tensor in base.items()}
    few = tuned | {"embedding.weight": base["embedding.weight"].clone()}
    few["embedding.weight"][[3, 9, 399]] += 1
    for state, codec in ((tuned, "rows-int"), (few, "rows")):
        delta = compress(base, state)
        assert codecs(delta)["embedding.weight"] == codec
        error = (decode(delta, base)["embedding.weight"] - state["embedding.weight"]).norm()
        assert error <= 0.2 * (state["embedding.weight"] - base["embedding.weight"]).norm()
    assert delta.encoded["embedding.weight"].n_bytes == 3 * (2 * 64 + 4)
    # rows of which one weight is all: 4 bits would lose more than a fifth of the change
    spiked = base | {"embedding.weight": base["embedding.weight"] + 1e-3}
    spiked["embedding.weight"][:, 5] += 1
    assert "codes" in compress(base, spiked).encoded["embedding.weight"].parts


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_table_of_16_bits_stays_exact(dtype: torch.dtype) -> None:
    base, tuned = ({name: tensor.to(dtype) for name, tensor in state.items()} for state in states())
    delta = compress(base, tuned, Choice(tables="16"))
    assert torch.equal(decode(delta, base)["embedding.weight"], tuned["embedding.weight"])


def test_an_unchanged_model_is_an_empty_delta() -> None:
    base, _ = states()
    delta = compress(base, base)
    assert delta.encoded == {}
    assert weights_digest(decode(delta, base)) == weights_digest(base)


def test_adding_in_place_is_decoding() -> None:
    base, tuned = states()
    delta = compress(base, tuned)
    decoded = decode(delta, base)
    with pytest.raises(DeltaError, match="another base"):
        add_in_place(delta, tuned)
    add_in_place(delta, base)
    assert weights_digest(base) == weights_digest(decoded)


def test_a_change_of_sign_of_zero_is_kept() -> None:
    base, _ = states()
    base["norm.weight"][0] = 0.0
    tuned = base | {"norm.weight": base["norm.weight"].clone()}
    tuned["norm.weight"][0] = -0.0
    assert codecs(compress(base, tuned)) == {"norm.weight": "whole"}


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
    chosen = {name for name, tensor in model.state_dict().items() if kind_of(name, tuple(tensor.shape)) == "matrices"}
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
    narrow = Encoded(
        "bitdelta", (24, 8), torch.float32, {"signs": torch.zeros(1, 24, dtype=torch.int32), "scale": torch.ones(())}
    )
    with pytest.raises(DeltaError, match=r"\(24, 8\) in the delta and torch.float32 \(24, 40\) in the base"):
        decode(replace(delta, encoded=delta.encoded | {name: narrow}), base)
    loose = Encoded("whole", (2,), torch.float32, {"values": torch.zeros(2)})
    with pytest.raises(DeltaError, match=r"the base has no tensor blocks\.7\.weight"):
        decode(replace(delta, encoded=delta.encoded | {"blocks.7.weight": loose}), base)
    halved = Encoded("whole", (40,), torch.float16, {"values": torch.zeros(40).half()})
    with pytest.raises(DeltaError, match=r"is torch.float16 \(40,\) in the delta and torch.float32 \(40,\) in the base"):
        decode(replace(delta, encoded=delta.encoded | {"norm.weight": halved}), base)
    with pytest.raises(DeltaError, match="does not say its type"):
        decode(replace(delta, encoded=delta.encoded | {"norm.weight": replace(halved, dtype=None)}), base)


def test_a_real_fine_tune_loses_what_theory_says(world: SimpleNamespace) -> None:
    delta = compress(world.base_state, world.tuned_state, Choice("bitdelta"))
    rebuilt = decode(delta, world.base_state)
    for name in delta.of_kind("matrices"):
        base, tuned = (state[name].double() for state in (world.base_state, world.tuned_state))
        distance = (tuned - base).square().sum()
        theory = distance - base.numel() * (tuned - base).abs().mean().square()
        torch.testing.assert_close((rebuilt[name].double() - tuned).square().sum(), theory, rtol=1e-4, atol=1e-9)
        assert theory < distance
