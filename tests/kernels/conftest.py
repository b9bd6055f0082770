"""Inputs, a runner for any backend, and memory that is poisoned before the kernels get it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tilth.kernels import attention, rms_norm, ssd_scan, use_backend
from tilth.kernels.accuracy import deviations

OPERATORS: dict[str, Callable[..., Any]] = {"rms_norm": rms_norm, "attention": attention, "ssd_scan": ssd_scan}
Inputs = dict[str, Any]


def _poison(tensor: Tensor) -> Tensor:
    if tensor.is_floating_point():
        return tensor.fill_(float("nan"))
    return tensor.fill_(torch.iinfo(tensor.dtype).max) if tensor.dtype in (torch.int32, torch.int64) else tensor


@pytest.fixture
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fill what torch.empty and its kin return with NaN, so that reading it before writing shows."""
    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
        original = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, _make=original, **k: _poison(_make(*a, **k)))


@pytest.fixture
def hold_to_rule(poisoned_memory: None) -> Callable[..., None]:
    """Return hold_to_rule(function, backend, tensors, **options), which fails where an output or gradient is too far off."""

    def check(function: Callable[..., Any], backend: str | None, tensors: Inputs, **options: Any) -> None:
        found = deviations(function, backend, tensors, **options)
        assert found
        assert not [deviation for deviation in found if not deviation.is_allowed]

    return check


@pytest.fixture
def run() -> Callable[..., dict[str, Tensor]]:
    """Return run(operator, backend, inputs): outputs and gradients by name, for fixed random output gradients."""

    def run_operator(operator: str, backend: str, inputs: Inputs, **options: Any) -> dict[str, Tensor]:
        leaves = {name: value.detach().clone().requires_grad_() if _is_float(value) else value for name, value in inputs.items()}
        with use_backend(backend):
            outputs = OPERATORS[operator](**leaves, **options)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        generator = torch.Generator().manual_seed(1)
        gradients = [torch.randn(o.shape, generator=generator, dtype=torch.float64).to(o) for o in outputs]
        torch.autograd.backward(outputs, gradients)
        found = {f"output {i}": output.detach() for i, output in enumerate(outputs)}
        return found | {f"d{name}": leaf.grad for name, leaf in leaves.items() if _is_float(leaf)}

    return run_operator


@pytest.fixture
def worst_error() -> Callable[[dict[str, Tensor], dict[str, Tensor]], tuple[float, str]]:
    """Return worst_error(found, expected): the largest error relative to the largest expected value, and where."""

    def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> tuple[float, str]:
        assert found.keys() == expected.keys()
        errors = [(0.0, "")]
        largest = max((value.abs().max().item() for value in expected.values() if value.numel()), default=0.0)
        for name, value in expected.items():
            assert found[name].shape == value.shape, name
            assert torch.isfinite(found[name]).all(), f"{name} is not finite"
            if value.numel():
                # The floor: gradients that are zero by construction (one key, one token) come out as rounding.
                scale = max(value.abs().max().item(), largest / 10) or 1.0
                errors.append(((found[name].double() - value.double()).abs().max().item() / scale, name))
        return max(errors)

    return compare


@pytest.fixture
def rms_norm_inputs() -> Callable[..., Inputs]:
    def make(*shape: int, dtype: torch.dtype = torch.float32) -> Inputs:
        generator = torch.Generator().manual_seed(0)
        x = torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)
        return {"x_D": x, "weight_D": torch.randn(shape[-1], generator=generator, dtype=torch.float64).to(dtype)}

    return make


@pytest.fixture
def attention_inputs() -> Callable[..., Inputs]:
    def make(batch: int, n_queries: int, n_keys: int, heads: int, groups: int, head_dim: int, **options: Any) -> Inputs:
        dtype, packed = options.get("dtype", torch.float32), options.get("packed", False)
        generator = torch.Generator().manual_seed(0)
        shapes = ((batch, n_queries, heads, head_dim), *[(batch, n_keys, groups, head_dim)] * 2)
        q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes)
        segments = _packed(batch, n_keys, generator) if packed else None
        return {"q_BTHD": q, "k_BTGD": k, "v_BTGD": v, "segments_BT": segments}

    return make


@pytest.fixture
def ssd_inputs() -> Callable[..., Inputs]:
    def make(batch: int, n_tokens: int, heads: int, groups: int, head_dim: int = 8, d_state: int = 16, **options: Any) -> Inputs:
        dtype, packed = options.get("dtype", torch.float32), options.get("packed", False)
        generator = torch.Generator().manual_seed(0)

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

        inputs = {
            "x_BTHP": normal(batch, n_tokens, heads, head_dim),
            "dt_BTH": torch.nn.functional.softplus(normal(batch, n_tokens, heads) - 2).to(dtype),
            "A_H": -torch.exp(normal(heads)),
            "B_BTGN": normal(batch, n_tokens, groups, d_state),
            "C_BTGN": normal(batch, n_tokens, groups, d_state),
            "D_H": normal(heads) if options.get("skip", True) else None,
            "initial_state_BHPN": normal(batch, heads, head_dim, d_state) if options.get("initial", True) else None,
        }
        return inputs | {"segments_BT": _packed(batch, n_tokens, generator) if packed else None}

    return make


@pytest.fixture
def sketch_inputs() -> Callable[..., Inputs]:
    """Make documents of the given lengths, with values and maps from the whole range of uint64, its edges and odd factors.

    The first round's map changes nothing: in it the edges are images, and the largest ones lie alone in their bins.
    """

    def make(lengths: Sequence[int], n_bins: int, seed: int = 0) -> Inputs:
        chance = np.random.default_rng(seed)
        edges = np.array([0, 2**31 - 1, 2**32 - 1, 2**32, 2**63 - 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1], np.uint64)

        def words(*shape: int) -> Any:
            drawn = chance.integers(0, 2**64, shape, dtype=np.uint64)
            return np.where(chance.random(shape) < 0.2, chance.choice(edges, shape), drawn)

        maps = words(2 * n_bins, 2)
        maps[:, 0] |= np.uint64(1)
        maps[0] = 1, 0
        bounds = np.concatenate([[0], np.cumsum(np.array(lengths, np.int64))]).astype(np.int64)
        arrays = {"values_N": words(sum(lengths)), "bounds": bounds, "maps": maps}
        return {name: torch.from_numpy(array) for name, array in arrays.items()} | {"n_bins": n_bins}

    return make


@pytest.fixture
def sketch_of_the_largest_image() -> tuple[Inputs, list[int]]:
    """Inputs whose first round, which changes nothing, leaves 2**32 - 1 in a bin that later rounds would give 0; the sketch."""
    rounds = torch.tensor([[1, 0], *[[1, 1]] * 7]).to(torch.uint64)
    values = torch.tensor([2**32 - 1, 2**63 + 2**62 + 5], dtype=torch.uint64)  # in the first bin of four and the last
    inputs = {"values_N": values, "bounds": torch.tensor([0, 2]), "maps": rounds, "n_bins": 4}
    return inputs, [2**32 - 1, 0, 0, 5]


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _packed(batch: int, n_tokens: int, generator: torch.Generator) -> Tensor:
    """Documents of about 12 tokens, some of one token, ids that begin anywhere."""
    is_start = torch.rand(batch, n_tokens, generator=generator) < 1 / 12
    return (is_start.cumsum(dim=1) + 7).to(torch.int32)
