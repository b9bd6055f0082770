"""A small decoder with random weights that are large enough for an error to show."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder

MakeModel = Callable[..., Decoder]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> Iterator[None]:
    """These tensors are tiny: a second thread only waits, and waits long where others use the machine."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture(autouse=True)
def fixed_seed() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(7)
        yield


@pytest.fixture(scope="session")
def make_model() -> MakeModel:
    def make(layers: str = "MMA", *, scale: float = 3.0, **changes: Any) -> Decoder:
        sizes: dict[str, Any] = {
            "vocab_size": 43,
            "d_model": 32,
            "n_heads": 4,
            "n_kv_heads": 2,
            "d_ff": 48,
            "d_state": 8,
            "ssm_head_dim": 16,
            "chunk_size": 8,
        }
        model = Decoder(ModelConfig(layers=layers, **(sizes | changes)))
        with torch.no_grad():
            # at initialisation the layers hardly change the stream, and a leak would hide below 1e-6
            for name, weight in model.named_parameters():
                if name.endswith("proj.weight"):
                    weight.mul_(scale)
        return model

    return make
