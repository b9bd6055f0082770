"""Bytes of the geometries: the paper's number, and those that a model's own states take."""

from __future__ import annotations

import pytest
import torch

from tilth.inference.cache.quantized import Exact, Int8
from tilth.inference.replay.geometries import GEOMETRIES, Geometry
from tilth.models.config import ModelConfig
from tilth.models.states import AttentionState, empty_states


def test_the_papers_checkpoint_takes_what_it_says() -> None:
    costs = GEOMETRIES["marconi-7b"].costs
    assert costs.checkpoint_bytes == pytest.approx(26.79e6, rel=1e-3)
    assert costs.kv_bytes == 65_536
    assert GEOMETRIES["modern"].int8_checkpoint_bytes < costs.checkpoint_bytes < GEOMETRIES["modern"].costs.checkpoint_bytes


@pytest.mark.parametrize("layers", ["MMA", "SA", "DMA"])
def test_a_models_geometry_is_what_its_states_take(layers: str) -> None:
    config = ModelConfig(vocab_size=48, d_model=32, layers=layers, n_heads=4, ssm_head_dim=16, d_state=8)
    states = empty_states(config, 1, torch.device("cpu"), torch.float32)
    recurrent = [state for state in states.layers if not isinstance(state, AttentionState)]
    tensors = [tensor for state in recurrent for tensor in vars(state).values()]
    geometry = Geometry.of("tiny", config)
    assert geometry.costs.checkpoint_bytes == Exact().size_bytes(tensors)
    assert geometry.int8_checkpoint_bytes == Int8().size_bytes(tensors)
