"""AdamW against torch's own, step by step and over a run; rounding that keeps the mean; checkpoints that load both ways."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tilth.kernels import FusedAdamW, adamw_step
from tilth.kernels.adamw import _adamw_step
from tilth.kernels.adamw.rounding import key, noise, round_by

Hold = Callable[..., None]
SHAPES = [(1,), (7, 3), (257,), (0, 4), (2, 3, 5), (), (33, 64)]
NUMBERS: dict[str, Any] = {"step": 3, "lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-6, "weight_decay": 0.1}
DTYPES = [torch.float32, torch.bfloat16]
LISTS = ("parameters", "gradients", "exp_avgs", "exp_avg_sqs")


def lists(
    shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float32, gradient_dtype: Any = None, moment_dtype: Any = None
) -> dict[str, list[Tensor]]:
    draw = torch.Generator().manual_seed(0)
    dtypes = (dtype, gradient_dtype or dtype, moment_dtype or dtype, moment_dtype or dtype)
    found = {
        name: [torch.randn(shape, generator=draw, dtype=torch.float64).to(of) for shape in shapes]
        for name, of in zip(LISTS, dtypes, strict=True)
    }
    return found | {"exp_avg_sqs": [v.abs() / 10 for v in found["exp_avg_sqs"]]}


def stepped(**given: Any) -> tuple[Tensor, ...]:
    """Parameters and moments after a step; tensors by names like gradients_2, since the rule takes flat keywords."""
    options = {name: value for name, value in given.items() if name.rpartition("_")[0] not in LISTS}
    columns = [[given[f"{name}_{i}"].clone() for i in range((len(given) - len(options)) // 4)] for name in LISTS]
    adamw_step(*columns, **NUMBERS, **options)
    return (*columns[0], *columns[2], *columns[3])


def by_torch(tensors: dict[str, list[Tensor]], *, step: int, lr: float, **numbers: Any) -> dict[str, list[Tensor]]:
    """The step of torch.optim.AdamW in float64 from the same state."""
    wide = {name: [tensor.double() for tensor in found] for name, found in tensors.items()}
    leaves = [nn.Parameter(parameter) for parameter in wide["parameters"]]
    optimizer = torch.optim.AdamW(leaves, lr=lr, foreach=False, **numbers)
    for leaf, gradient, exp_avg, exp_avg_sq in zip(leaves, *list(wide.values())[1:], strict=True):
        leaf.grad = gradient
        optimizer.state[leaf] = {"step": torch.tensor(step - 1.0), "exp_avg": exp_avg, "exp_avg_sq": exp_avg_sq}
    optimizer.step()
    return wide | {"parameters": [leaf.detach() for leaf in leaves]}


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("step", [1, 2, 1000])
def test_a_step_is_that_of_torch(backend: str, step: int) -> None:
    tensors = lists(SHAPES, torch.float64)
    wanted = by_torch(copy.deepcopy(tensors), **NUMBERS | {"step": step})
    adamw_step(**tensors, **NUMBERS | {"step": step}, backend=backend)
    torch.testing.assert_close(tensors, wanted, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize(("backend", "dtype"), [("cpu", torch.float32), ("cpu", torch.bfloat16), ("triton", torch.float32)])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_a_step_keeps_the_rule(hold_to_rule: Hold, backend: str, dtype: torch.dtype, scale: float | None) -> None:
    tensors = {f"{name}_{i}": t for name, found in lists(SHAPES, dtype).items() for i, t in enumerate(found)}
    options = {} if scale is None else {"grad_scale": torch.tensor(scale)}
    hold_to_rule(stepped, backend, tensors, gradients=False, **options)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize(("dtype", "gradient_dtype", "moment_dtype"), list(itertools.product(DTYPES, DTYPES, DTYPES)), ids=str)
def test_every_mixture_of_types_is_the_reference_to_a_unit(
    backend: str, stochastic: bool, dtype: torch.dtype, gradient_dtype: torch.dtype, moment_dtype: torch.dtype
) -> None:
    tensors = lists(SHAPES, dtype, gradient_dtype, moment_dtype)
    wanted = copy.deepcopy(tensors)
    options = {"stochastic_rounding": stochastic, "seed": 5, "grad_scale": torch.tensor(0.5)}
    adamw_step(**tensors, **NUMBERS, **options, backend=backend)
    adamw_step(**wanted, **NUMBERS, **options, backend="reference")
    for name, found in tensors.items():
        for ours, theirs in zip(found, wanted[name], strict=True):
            assert ours.dtype == theirs.dtype
            torch.testing.assert_close(
                ours.float(), theirs.float(), rtol=1e-6 if ours.dtype == torch.float32 else 8e-3, atol=1e-7
            )
            if ours.dtype == torch.bfloat16 and ours.numel() > 100:
                # the same noise: what float32 gets wrong in its last bit changes hardly any rounding
                assert (ours == theirs).double().mean() > 0.99


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_the_gradients_keep_their_values_and_the_scale_is_a_factor(backend: str) -> None:
    tensors, scaled = lists(SHAPES), lists(SHAPES)
    kept = copy.deepcopy(tensors["gradients"])
    adamw_step(**tensors, **NUMBERS, grad_scale=torch.tensor([0.25]), backend=backend)
    torch.testing.assert_close(tensors["gradients"], kept, rtol=0, atol=0)
    scaled["gradients"] = [gradient / 4 for gradient in scaled["gradients"]]
    adamw_step(**scaled, **NUMBERS, backend=backend)
    for name in ("parameters", "exp_avgs", "exp_avg_sqs"):
        torch.testing.assert_close(tensors[name], scaled[name], rtol=0, atol=0)


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_sizes_of_a_chunk_and_views_that_are_not_aligned(backend: str) -> None:
    base = lists([(16384 * 2 + 70,)])
    for sizes in ((16384, 16385, 1), (16383, 2, 3), (32768,), (5,)):
        tensors = {name: [t.clone() for t in found[0][: sum(sizes)].split(sizes)] for name, found in base.items()}
        views = {name: list(found[0].clone()[1 : sum(sizes) + 1].split(sizes)) for name, found in base.items()}
        for given in (tensors, views):
            wanted = by_torch(copy.deepcopy(given), **NUMBERS)
            adamw_step(**given, **NUMBERS, backend=backend)
            for name, found in given.items():
                for ours, theirs in zip(found, wanted[name], strict=True):
                    torch.testing.assert_close(ours.double(), theirs, rtol=3e-6, atol=1e-7)


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_tensors_in_another_order_of_memory(backend: str) -> None:
    tensors = lists([(5, 9)])
    turned = {name: [found[0].clone().T.contiguous().T] for name, found in tensors.items()}
    turned["gradients"] = [tensors["gradients"][0].clone()]  # its strides need not be those of the parameter
    adamw_step(**tensors, **NUMBERS, backend=backend)
    adamw_step(**turned, **NUMBERS, backend=backend)
    torch.testing.assert_close(turned, tensors, rtol=0, atol=0)
    assert turned["parameters"][0].stride() == (1, 5)


def model(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(11, 23), nn.Tanh(), nn.Linear(23, 5)).to(dtype)


def groups(of: nn.Module) -> list[dict[str, Any]]:
    decaying = [p for p in of.parameters() if p.ndim > 1]
    return [
        {"params": decaying, "weight_decay": 0.1},
        {"params": [p for p in of.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]


def train(of: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(16, 11, generator=torch.Generator().manual_seed(step)).to(next(of.parameters()).dtype)
        optimizer.zero_grad()
        of(x).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
@pytest.mark.parametrize("fused", [True, False])
def test_twenty_steps_follow_torch_and_checkpoints_load_both_ways(backend: str, fused: bool) -> None:
    numbers: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95)}
    ours, theirs = model(), model()
    optimizers = FusedAdamW(groups(ours), **numbers, backend=backend), torch.optim.AdamW(groups(theirs), **numbers, fused=fused)
    for of, optimizer in zip((ours, theirs), optimizers, strict=True):
        train(of, optimizer, range(20))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=2e-5, atol=2e-6)
    saved = [optimizer.state_dict() for optimizer in optimizers]
    for names in (
        [[sorted(state) for state in found["state"].values()] for found in saved],
        [[sorted(group) for group in found["param_groups"]] for found in saved],
    ):
        assert names[0] == names[1]
    # from the checkpoint of the other, each goes on as the other goes on
    for state, weights in zip(saved, (ours, theirs), strict=True):
        runs = copy.deepcopy(weights), copy.deepcopy(weights)
        resumed = FusedAdamW(groups(runs[0]), backend=backend), torch.optim.AdamW(groups(runs[1]))
        for of, optimizer in zip(runs, resumed, strict=True):
            optimizer.load_state_dict(copy.deepcopy(state))
            assert optimizer.param_groups[0]["lr"] == 1e-2
            train(of, optimizer, range(20, 25))
        torch.testing.assert_close(runs[0].state_dict(), runs[1].state_dict(), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("stochastic", [False, True])
def test_a_resumed_run_is_the_same_to_the_bit(stochastic: bool) -> None:
    options: dict[str, Any] = {"stochastic_rounding": stochastic, "seed": 9, "moment_dtype": torch.float32}
    whole, half = model(torch.bfloat16), model(torch.bfloat16)
    train(whole, FusedAdamW(groups(whole), **options), range(12))
    first = FusedAdamW(groups(half), **options)
    train(half, first, range(6))
    resumed = model(torch.bfloat16)
    resumed.load_state_dict(half.state_dict())
    second = FusedAdamW(groups(resumed), **options)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert {state["exp_avg"].dtype for state in second.state.values()} == {torch.float32}
    train(resumed, second, range(6, 12))
    torch.testing.assert_close(resumed.state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_a_parameter_without_gradient_is_left_alone_and_counts_its_own_steps() -> None:
    ours, theirs = model(), model()
    optimizers = FusedAdamW(ours.parameters()), torch.optim.AdamW(theirs.parameters())
    for of, optimizer in zip((ours, theirs), optimizers, strict=True):
        train(of, optimizer, range(3))
        for step in range(4):
            optimizer.zero_grad()
            of[0](torch.ones(2, 11)).sum().backward()  # the last layer has no gradient
            optimizer.step()
            train(of, optimizer, range(step, step + 1))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=2e-5, atol=2e-6)
    steps = [int(state["step"]) for state in optimizers[0].state_dict()["state"].values()]
    assert steps == [11, 11, 7, 7]


def test_the_noise_depends_on_all_it_should_and_nothing_else() -> None:
    base = (1, 2, 3)
    like = torch.empty(70_000)
    first = noise(key(*base), like)
    assert torch.equal(first, noise(key(*base), like))
    assert torch.equal(first[:100], noise(key(*base), like[:100]))  # an element's noise does not know the size
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4), (1 + 2**32, 2, 3)):
        assert (first == noise(key(*other), like)).double().mean() < 1e-3
    assert len(first.unique()) > 69_990 - 70_000**2 / 2**33 * 2
    halves = torch.stack([first & 0xFFFF, first >> 16 & 0xFFFF]).double() / 2**16
    assert (halves.mean(dim=1) - 0.5).abs().max() < 4 / 12**0.5 / 70_000**0.5
    assert torch.corrcoef(torch.cat([halves, halves.roll(1, dims=1)])).fill_diagonal_(0).abs().max() < 4 / 70_000**0.5


def test_rounding_keeps_the_mean_what_is_exact_and_what_is_not_finite() -> None:
    bits = noise(7, torch.empty(40_000))
    for value in (1.001, -3.017, 1e-30):
        rounded = round_by(torch.full((40_000,), value), bits).double()
        low, high = rounded.min(), rounded.max()
        assert len(rounded.unique()) == 2
        assert low < value < high
        assert abs(rounded.mean() - value) < 4 * (high - low) / 40_000**0.5 / 2
    special = torch.tensor([0.0, -0.0, 1.5, -(2.0**100), float("inf"), -float("inf")])
    assert torch.equal(round_by(special, torch.full((6,), -1, dtype=torch.int32)).float(), special)
    assert round_by(torch.tensor([float("nan")]), torch.tensor([-1], dtype=torch.int32)).isnan().all()


@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_small_steps_are_not_lost_with_stochastic_rounding(backend: str) -> None:
    moved = {}
    for stochastic in (False, True):
        p, g = [torch.ones(400, dtype=torch.bfloat16)], [torch.ones(400, dtype=torch.bfloat16)]
        m, v = [torch.zeros(400, dtype=torch.bfloat16)], [torch.zeros(400, dtype=torch.bfloat16)]
        for step in range(1, 41):
            options = {"step": step, "lr": 1e-4, "weight_decay": 0.0, "stochastic_rounding": stochastic}
            adamw_step(p, g, m, v, **options, backend=backend)
        moved[stochastic] = 1 - p[0].double().mean().item()
    assert moved[False] == 0  # a step of 1e-4 is a fortieth of the distance to the next number below 1
    assert moved[True] == pytest.approx(40e-4, rel=0.2)


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # of numpy, under the interpreter
@pytest.mark.parametrize("backend", ["cpu", "triton"])
def test_nan_and_infinity_are_not_hidden(backend: str) -> None:
    for dtype in DTYPES:
        tensors = lists([(4,)], dtype)
        tensors["gradients"][0][0], tensors["gradients"][0][1] = float("nan"), float("inf")
        adamw_step(**tensors, **NUMBERS, stochastic_rounding=True, backend=backend)
        assert tensors["parameters"][0].isnan().tolist() == [True, True, False, False]
        assert tensors["exp_avgs"][0][1] == float("inf")


def test_the_operator_is_registered_rightly_and_compiles() -> None:
    tensors = lists([(3, 4), (5,)])
    given = (*tensors.values(), torch.tensor(0.5), [1, 2], 3, 1e-2, 0.9, 0.95, 1e-8, 0.1, "cpu")
    torch.library.opcheck(_adamw_step, given)
    wanted, found = copy.deepcopy(tensors), copy.deepcopy(tensors)
    adamw_step(**wanted, **NUMBERS)

    def step(parameters: Any, gradients: Any, exp_avgs: Any, exp_avg_sqs: Any) -> None:
        adamw_step(parameters, gradients, exp_avgs, exp_avg_sqs, **NUMBERS)

    torch.compile(step, fullgraph=True, backend="aot_eager")(*found.values())
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_an_empty_list_is_no_step() -> None:
    adamw_step([], [], [], [], step=1, lr=0.1)


def changed(name: str, tensor: Tensor) -> dict[str, Any]:
    return {name: [tensor]}


BAD: list[tuple[dict[str, Any], str]] = [
    ({"gradients": []}, "gradients has 0 entries"),
    ({"tensor_indices": [0, 1]}, "tensor_indices"),
    (changed("gradients", torch.ones(4)), r"gradients\[0\]"),
    (changed("gradients", torch.ones(4, 6, dtype=torch.int64)), r"gradients\[0\]"),
    (changed("gradients", torch.ones(4, 6, dtype=torch.float64)), r"gradients\[0\]"),
    (changed("gradients", torch.ones(4, 6).to_sparse()), r"gradients\[0\]"),
    (changed("exp_avgs", torch.ones(6, 4).T), r"exp_avgs\[0\]"),
    (changed("exp_avg_sqs", torch.ones(4, 6, dtype=torch.bfloat16)), r"exp_avg_sqs\[0\]"),
    (changed("exp_avg_sqs", torch.ones(4, 6, device="meta")), r"exp_avg_sqs\[0\]"),
    (changed("parameters", torch.ones(4, 12)[:, ::2]), r"parameters\[0\]"),
    (changed("parameters", torch.ones(4, 1).expand(4, 6)), r"parameters\[0\]"),
    ({"step": 0}, "step"),
    ({"lr": -1.0}, "lr"),
    ({"lr": float("nan")}, "lr"),
    ({"betas": (0.9, 1.0)}, "betas"),
    ({"eps": -1e-8}, "eps"),
    ({"weight_decay": float("inf")}, "weight_decay"),
    ({"grad_scale": torch.ones(2)}, "grad_scale"),
    ({"backend": "cuda"}, "cuda"),
]


@pytest.mark.parametrize(("change", "named"), BAD, ids=[f"{i} {named}" for i, (_, named) in enumerate(BAD)])
def test_bad_inputs_are_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        adamw_step(**{**lists([(4, 6)]), **NUMBERS, **change})


def test_what_the_optimizer_cannot_do_is_refused() -> None:
    of = model()
    with pytest.raises(ValueError, match="moment_dtype"):
        FusedAdamW(of.parameters(), moment_dtype=torch.float16)
    amsgrad = torch.optim.AdamW(of.parameters(), amsgrad=True)
    train(of, amsgrad, range(1))
    ours = FusedAdamW(of.parameters())
    with pytest.raises(ValueError, match="amsgrad"):
        ours.load_state_dict(amsgrad.state_dict())
