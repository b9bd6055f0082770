"""ModelConfig: derived sizes, its dict form, its counts, its errors."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from tilth.errors import RecipeError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder

BASE: dict[str, Any] = {"vocab_size": 101, "d_model": 64, "n_heads": 4}


def test_derived_sizes() -> None:
    config = ModelConfig(vocab_size=101, d_model=192, n_heads=6, layers="MMMA*2")
    assert config.pattern == "MMMAMMMA"
    assert (config.kv_heads, config.attention_head_dim, config.mlp_width) == (6, 32, 512)
    assert (config.d_inner, config.n_ssm_heads, config.conv_width) == (384, 6, 512)
    assert (config.padded_vocab_size, config.n_sublayers) == (104, 16)


def test_dict_round_trip_is_explicit() -> None:
    config = ModelConfig(**BASE)
    values = config.to_dict()
    assert {name for name, value in values.items() if value is None} == {"rope_scaling", "complement"}  # None is their meaning
    assert ModelConfig.from_dict(values) == config


CONFIGS: list[dict[str, Any]] = [
    {},
    {"layers": "M*3", "n_heads": 0},
    {"layers": "A*2", "n_kv_heads": 2, "rope_theta": None},
    {"layers": "A", "head_dim": 24},
    {"layers": "MA", "d_ff": 0},
    {"layers": "MMA", "tie_embeddings": False, "d_ff": 100},
    {"layers": "MA", "n_groups": 2, "d_state": 16, "ssm_head_dim": 32, "d_conv": 3, "expand": 3},
    {"layers": "SM", "dt_rank": 7},
    {"layers": "SMA", "bidirectional": True},
    {"layers": "MA", "residual": "desync-2x", "desync_ranks": 2, "n_groups": 2},
]


@pytest.mark.parametrize("changes", CONFIGS)
def test_parameter_count_is_that_of_the_model(changes: dict[str, Any]) -> None:
    config = ModelConfig(**(BASE | changes))
    assert config.n_parameters() == sum(p.numel() for p in Decoder(config).parameters())


def test_flops_of_a_transformer_by_hand() -> None:
    config = ModelConfig(vocab_size=104, d_model=64, n_heads=4, layers="A*2", d_ff=100, n_kv_heads=2)
    matrices = 2 * (64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 100) + 104 * 64
    attention = 2 * 2 * 2 * 64 * (9 + 1) / 2
    assert config.flops_per_token(9) == pytest.approx(3 * (2 * matrices + attention))


def test_flops_of_a_mamba2_do_not_grow_beyond_a_chunk() -> None:
    config = ModelConfig(vocab_size=104, d_model=64, layers="M*2", d_ff=0, chunk_size=16)
    assert config.flops_per_token(16) == config.flops_per_token(4096) > config.flops_per_token(8)
    # a chunk of one token is the recurrence: CB^T and the products with x, one state update, one read-out
    one = 2 * 64 + 2 * 128 + 4 * 128 * 64
    matrices = 2 * (64 * (2 * 128 + 2 * 64 + 2) + 256 * 4 + 128 * 64) + 104 * 64
    assert config.flops_per_token(1) == pytest.approx(3 * (2 * matrices + 2 * one))


@pytest.mark.parametrize(
    ("changes", "where", "words"),
    [
        ({"layers": "MMX"}, "layers", "'X'"),
        ({"layers": 3}, "layers", "3"),
        ({"vocab_size": 0}, "vocab_size", "at least 1"),
        ({"d_model": 64.0}, "d_model", "integer"),
        ({"d_ff": -1}, "d_ff", "at least 0"),
        ({"n_heads": 0}, "n_heads", "give n_heads"),
        ({"n_heads": 5}, "n_heads", "divide"),
        ({"n_kv_heads": 3}, "n_kv_heads", "divide"),
        ({"n_kv_heads": 0}, "n_kv_heads", "at least 1"),
        ({"head_dim": 7}, "head_dim", "even"),
        ({"rope_theta": -1.0}, "rope_theta", "None"),
        ({"ssm_head_dim": 48}, "ssm_head_dim", "divide"),
        ({"n_groups": 3}, "n_groups", "divide"),
        ({"norm_eps": 0.0}, "norm_eps", "between"),
        ({"norm_eps": "small"}, "norm_eps", "'small'"),
        ({"rope_theta": "1e4"}, "rope_theta", "'1e4'"),
        ({"rope_theta": float("nan")}, "rope_theta", "positive number"),
        ({"rope_theta": float("inf")}, "rope_theta", "positive number"),
        ({"tie_embeddings": "no"}, "tie_embeddings", "True or False"),
        ({"residual": ["standard"]}, "residual", "Did you mean `standard`"),
        ({"residual": "standart"}, "residual", "Did you mean `standard`"),
    ],
)
def test_bad_values_are_named(changes: dict[str, Any], where: str, words: str) -> None:
    with pytest.raises(RecipeError) as caught:
        ModelConfig(**(BASE | changes))
    assert where in (caught.value.where or "")
    assert words in str(caught.value)


def test_unknown_and_missing_keys() -> None:
    with pytest.raises(RecipeError, match="Did you mean `d_model`"):
        ModelConfig.from_dict(BASE | {"d_modle": 3})
    with pytest.raises(RecipeError, match="vocab_size"):
        ModelConfig.from_dict({"d_model": 64})


def test_config_needs_no_torch() -> None:
    code = "import sys, tilth.models; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_padding_rows_are_zero_and_never_predicted() -> None:
    model = Decoder(ModelConfig(**BASE))
    assert model.embedding.weight.shape == (104, 64)
    assert torch.count_nonzero(model.embedding.weight[101:]) == 0
    ids = torch.randint(0, 101, (1, 9))
    assert model(ids).shape == (1, 9, 101)
    loss, _ = model.loss(ids, ids)
    loss.backward()
    assert model.embedding.weight.grad is not None
    assert torch.count_nonzero(model.embedding.weight.grad[101:]) == 0
