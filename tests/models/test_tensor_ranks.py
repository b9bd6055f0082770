"""Two processes with half of each layer compute what one does with all of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tilth.errors import RecipeError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.sharding import check_cuts, gather, shard
from tilth.models.tensor_ranks import TensorRanks

SCRIPT = Path(__file__).with_name("run_ranks.py")
SMALL: dict[str, Any] = {"vocab_size": 43, "d_model": 32, "n_heads": 4, "d_state": 8, "ssm_head_dim": 8, "n_groups": 2}


def test_two_ranks_equal_one_in_values_and_gradients(tmp_path: Path) -> None:
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    arguments = [str(tmp_path / "meeting")]
    ranks = [
        subprocess.Popen([sys.executable, str(SCRIPT), str(rank), *arguments], env=env, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=240)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    for output in outputs:
        cases = json.loads(output)
        assert len(cases) == 17
        wrong = [(case, off) for case, off in cases if max(off.values()) > 1e-12]
        assert not wrong


def test_slices_differ_and_join_to_the_whole() -> None:
    whole = Decoder(ModelConfig.from_dict({**SMALL, "layers": "MA"}))
    parts = [shard(whole, TensorRanks(rank, 2)).state_dict() for rank in range(2)]
    name = "blocks.1.mixer.qkv_proj.weight"
    assert parts[0][name].shape[0] * 2 == whole.state_dict()[name].shape[0]
    assert not torch.equal(parts[0][name], parts[1][name])
    assert all(torch.equal(value, gather(whole)[key]) for key, value in whole.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "n", "word"),
    [
        ({"layers": "MA", "n_groups": 1}, 2, "n_groups"),
        ({"layers": "AA"}, 3, "mlp_width"),
        ({"layers": "AA", "n_kv_heads": 1}, 2, "n_kv_heads"),
        ({"layers": "SS"}, 2, "mamba1"),
        ({"layers": "AA", "residual": "desync-2x", "desync_ranks": 2}, 4, "desync"),
    ],
)
def test_a_model_that_cannot_be_cut_says_why(settings: dict[str, Any], n: int, word: str) -> None:
    with pytest.raises(RecipeError, match=word):
        check_cuts(ModelConfig.from_dict({**SMALL, **settings}), n)
