"""Rotary positions: a share of the channels, and positions stretched as published."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from tilth.errors import RecipeError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.layout import lay_out
from tilth.models.rotary import frequencies

LLAMA31 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


def test_llama3_keeps_fast_pairs_divides_slow_ones_and_blends() -> None:
    plain = frequencies(500_000.0, 64, None, torch.device("cpu"))
    found = frequencies(500_000.0, 64, LLAMA31, torch.device("cpu"))
    kinds = set()
    for base, got in zip(plain.tolist(), found.tolist(), strict=True):
        wavelength = 2 * math.pi / base
        if wavelength < 8192 / 4:
            kinds.add("kept")
            expected = base
        elif wavelength > 8192 / 1:
            kinds.add("divided")
            expected = base / 8
        else:
            kinds.add("blended")
            smooth = (8192 / wavelength - 1) / (4 - 1)
            expected = (1 - smooth) * base / 8 + smooth * base
        assert got == pytest.approx(expected, rel=1e-12)
    assert kinds == {"kept", "divided", "blended"}


def test_linear_scaling_is_a_position_divided() -> None:
    config = {"vocab_size": 8, "d_model": 8, "layers": "A", "n_heads": 1}
    ids = torch.zeros(1, 13, dtype=torch.long)
    plain = lay_out(ModelConfig(**config), ids, None, 0).rotation
    slow = lay_out(ModelConfig(**config, rope_scaling={"factor": 4}), ids, None, 0).rotation
    assert plain
    assert slow
    for fast_table, slow_table in zip(plain[:2], slow[:2], strict=True):
        torch.testing.assert_close(slow_table[::4], fast_table[:4])
        assert not torch.allclose(slow_table[1:4], fast_table[1:4])


def test_with_a_share_the_other_channels_know_no_position(make_model: Callable[..., Decoder]) -> None:
    """Attention on channels beyond the share alone is the same at every place; on those within it, it is not."""
    model = make_model("A", rope_share=0.5, n_kv_heads=4, d_ff=0, head_dim=8)
    mixer = model.blocks[0].mixer
    queries_and_keys = mixer.qkv_proj.weight.data[: 2 * 4 * 8].view(2, 4, 8, -1)
    ids = torch.randint(0, 43, (1, 6))
    moved = torch.cat([torch.full((1, 5), 3), ids], dim=1)
    segments = torch.tensor([[0] * 5 + [1] * 6])

    def same_within_the_row() -> bool:
        layout = lay_out(model.config, moved, None, 0)
        restarted = lay_out(model.config, moved, segments, 0)
        tables = [t[:1] for t in layout.rotation[:2]]  # type: ignore[index]
        x = model.embedding(moved)
        flat = mixer(
            x,
            type(layout)(
                restarted.segments_BT, restarted.positions_BT, None, (*tables, torch.zeros_like(segments, dtype=torch.int32))
            ),
        )
        return torch.allclose(mixer(x, restarted), flat, atol=1e-6)

    assert not same_within_the_row()
    queries_and_keys[:, :, :4] = 0
    assert same_within_the_row()


@pytest.mark.parametrize(
    ("scaling", "words"),
    [
        ({}, "give factor"),
        ({"factor": 2, "beta": 1}, "give factor"),
        ({"factor": 0}, "positive"),
        ({"factor": True}, "positive"),
        ("linear", "give factor"),
        ({**LLAMA31, "low_freq_factor": 4}, "below high_freq_factor"),
    ],
)
def test_a_bad_scaling_is_refused(scaling: object, words: str) -> None:
    with pytest.raises(RecipeError, match=words):
        ModelConfig(vocab_size=8, d_model=8, layers="A", n_heads=1, rope_scaling=scaling)  # type: ignore[arg-type]


def test_a_scaling_without_positions_is_refused() -> None:
    with pytest.raises(RecipeError, match="there are none"):
        ModelConfig(vocab_size=8, d_model=8, layers="A", n_heads=1, rope_theta=None, rope_scaling={"factor": 2})


def test_a_scaled_config_is_the_same_after_json() -> None:
    config = ModelConfig(vocab_size=8, d_model=8, layers="A", n_heads=1, rope_scaling=LLAMA31, rope_share=0.5)
    assert ModelConfig.from_dict(config.to_dict()) == config
