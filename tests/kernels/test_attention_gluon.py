"""The Gluon attention kernels on simulated hardware, in random orders of events, and their machine code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from gluon_simulator import simulate
from torch import Tensor

import tilth.kernels
from tilth.kernels.accuracy import outputs_and_gradients
from tilth.kernels.attention import reference
from tilth.kernels.attention.visible import Mask
from tilth.kernels.backend import choose_backend, compiling_for

KERNELS = Path(tilth.kernels.__file__).parent
SOURCE = KERNELS / "attention" / "gluon_sm90.py"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Inputs = dict[str, Tensor]


class Simulated(torch.autograd.Function):
    """The kernels on the simulator, which raises where they race or hang."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, mask: Mask, seed: int, block_n: int) -> tuple[Tensor, Tensor]:
        ctx.module, ctx.mask, ctx.scale = simulate(SOURCE, seed), mask, q.shape[3] ** -0.5
        if block_n:
            use_blocks(ctx.module, block_n)
        with compiling_for(90):
            o, lse = ctx.module.forward(q, k, v, mask, 0.0, ctx.scale)
        ctx.save_for_backward(q, k, v, o, lse)
        return o, lse

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        with compiling_for(90):
            found = ctx.module.backward(*gradients, *ctx.saved_tensors, ctx.mask, 0.0, ctx.scale)
        return *found, None, None, None


def attend(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, *, mask: Mask, seed: int = 0, block_n: int = 0) -> Any:
    """The kernels on the simulator, or the reference where that is asked for."""
    if choose_backend(q_BTHD) == "reference":
        return reference.attention_reference(q_BTHD, k_BTGD, v_BTGD, mask, 0.0, q_BTHD.shape[3] ** -0.5)
    return Simulated.apply(q_BTHD, k_BTGD, v_BTGD, mask, seed, block_n)


def use_blocks(module: ModuleType, block_n: int, stages: int = 2) -> None:
    """Launch with small blocks, so that few keys go several times around the rings."""

    def launch(_operator: str, kernel: str, *_: Any) -> dict[str, int]:
        return {"BLOCK_M" if kernel == "gluon_dkv" else "BLOCK_N": block_n, "STAGES": stages, "CONSUMER_REGISTERS": 240}

    module.launch = launch  # type: ignore[attr-defined]


def make(
    batch: int, n_queries: int, n_keys: int, heads: int, groups: int, head_dim: int, dtype: torch.dtype = torch.float16
) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    shapes = {"q_BTHD": (n_queries, heads), "k_BTGD": (n_keys, groups), "v_BTGD": (n_keys, groups)}
    return {
        name: torch.randn(batch, tokens, n, head_dim, generator=generator, dtype=torch.float64).to(dtype)
        for name, (tokens, n) in shapes.items()
    }


def bounds(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_shipped_launches(hold_to_rule: Callable[..., None], head_dim: int, dtype: torch.dtype) -> None:
    # The gradients of heads of 256 are those of the Triton kernels, whose interpreter computes bfloat16 wrongly.
    inputs = make(1, 200, 500, 2, 1, head_dim, dtype)
    hold_to_rule(attend, None, inputs, gradients=head_dim < 256, mask=Mask(right=0))


@pytest.mark.parametrize("n_tokens", [1, 2, 63, 64, 65, 127, 128, 129, 255, 256, 257])
def test_odd_lengths(hold_to_rule: Callable[..., None], n_tokens: int) -> None:
    for mask in (Mask(), Mask(right=0)):
        hold_to_rule(attend, None, make(1, n_tokens, n_tokens, 2, 2, 64), mask=mask, seed=n_tokens, block_n=64)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("mask", "shape"),
    [
        (Mask(), (2, 200, 330, 4, 2, 64)),
        (Mask(right=0), (2, 200, 330, 6, 2, 64)),
        (Mask(left=70, right=0), (1, 400, 400, 2, 1, 64)),
        (Mask(left=30, right=90), (1, 257, 450, 1, 1, 64)),
        (Mask(left=0), (1, 130, 500, 2, 1, 64)),
        (Mask(segments_BT=(torch.arange(600) // 7 // torch.tensor([[5], [9]])).int()), (2, 300, 600, 2, 2, 64)),
        (Mask(left=50, right=0, segments_BT=(torch.arange(600) // 150).int()[None]), (1, 600, 600, 2, 1, 64)),
        (
            Mask(right=0, cu_seqlens_q=bounds(0, 60, 60, 199, 200, 300), cu_seqlens_k=bounds(0, 60, 90, 300, 500, 640)),
            (1, 300, 640, 4, 2, 64),
        ),
    ],
    ids=["dense", "causal", "window", "two-sided", "left", "packed", "packed window", "cu_seqlens"],
)
def test_masks(hold_to_rule: Callable[..., None], mask: Mask, shape: tuple[int, ...], seed: int) -> None:
    hold_to_rule(attend, None, make(*shape), mask=mask, seed=seed, block_n=64)


def test_rows_that_see_nothing_give_zero_and_minus_infinity(poisoned_memory: None) -> None:
    inputs = make(1, 300, 100, 2, 1, 64)
    leaves = {name: value.requires_grad_() for name, value in inputs.items()}
    o, lse = attend(**leaves, mask=Mask(right=0), block_n=64)
    expected_o, expected_lse = reference.attention_reference(*leaves.values(), Mask(right=0), 0.0, 0.125)
    assert (o[:, :200] == 0).all()
    assert (lse[:, :, :200] == -torch.inf).all()
    torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(o, expected_o, rtol=1e-2, atol=2e-3)
    found = torch.autograd.grad(o.sum(), tuple(leaves.values()))
    for gradient, expected in zip(found, torch.autograd.grad(expected_o.sum(), tuple(leaves.values())), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-2, atol=4e-3)


def test_without_keys_or_queries(poisoned_memory: None) -> None:
    o, lse = attend(**make(1, 5, 0, 2, 1, 64), mask=Mask())
    assert (o == 0).all()
    assert (lse == -torch.inf).all()
    o, lse = attend(**make(2, 0, 5, 2, 1, 64), mask=Mask())
    assert o.shape == (2, 0, 2, 64)
    assert lse.shape == (2, 2, 0)


@pytest.mark.parametrize("size", [1e-4, 8.0])
def test_extreme_scores(hold_to_rule: Callable[..., None], size: float) -> None:
    inputs = {name: (value * size).to(value.dtype) for name, value in make(1, 130, 200, 2, 1, 64).items()}
    hold_to_rule(attend, None, inputs, mask=Mask(right=0), block_n=64)


def test_layouts_in_memory_and_schedules_change_no_bit() -> None:
    inputs = make(2, 140, 200, 4, 2, 64)
    packed = torch.cat([inputs["k_BTGD"], inputs["v_BTGD"]], dim=2)
    views = {
        "q_BTHD": inputs["q_BTHD"].transpose(1, 2).contiguous().transpose(1, 2),
        "k_BTGD": packed[:, :, :2],
        "v_BTGD": packed[:, :, 2:],
    }
    odd = {"q_BTHD": torch.cat([inputs["q_BTHD"], inputs["q_BTHD"][..., :1]], dim=-1)[..., :64]}
    results = [
        outputs_and_gradients(partial(attend, mask=Mask(right=0), seed=seed), inputs | other)
        for seed, other in enumerate(({}, {}, views, odd))
    ]
    for result in results:
        assert result.keys() == results[0].keys()
        assert all(torch.equal(result[name], value) for name, value in results[0].items())


def test_another_scale() -> None:
    inputs = make(1, 70, 70, 1, 1, 64)
    with compiling_for(90):
        o, lse = simulate(SOURCE, 0).forward(*inputs.values(), Mask(), 0.0, 0.7)
    expected_o, expected_lse = reference.forward(*inputs.values(), Mask(), 0.0, 0.7)
    torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(o, expected_o, rtol=1e-2, atol=4e-3)


def test_softcap_is_refused() -> None:
    with pytest.raises(ValueError, match="softcap"):
        simulate(SOURCE, 0).forward(*make(1, 8, 8, 1, 1, 64).values(), Mask(), 20.0, 0.125)


@pytest.mark.parametrize(
    ("n_heads", "bytes_of_head", "expected"), [(12, 2**20, 12), (12, 2**22, 6), (7, 2**23, 1), (3, 2**40, 1)]
)
def test_heads_that_share_the_cache(n_heads: int, bytes_of_head: int, expected: int) -> None:
    assert simulate(SOURCE, 0)._heads_at_once(n_heads, bytes_of_head) == expected


def test_every_block_is_computed_once_however_many_heads_run_at_once() -> None:
    inputs = make(2, 300, 300, 3, 1, 64)
    expected = attend(**inputs, mask=Mask(right=0), block_n=64)
    for n_heads in (1, 2, 3):
        module = simulate(SOURCE, 0)
        use_blocks(module, 64)
        module._heads_at_once = lambda *_, n_heads=n_heads: n_heads  # type: ignore[attr-defined]
        o, lse = module.forward(*inputs.values(), Mask(right=0), 0.0, 0.125)
        assert torch.equal(o, expected[0])
        assert torch.equal(lse, expected[1])


@pytest.fixture(scope="module")
def machine_code() -> dict[str, list[str]]:
    """The products, waits for products and exponentials of each kernel for heads of 128, in the order of the machine code."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", _DISASSEMBLE, str(BENCHMARKS)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=500, env=environment).stdout
    code: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, instructions = line.partition(" ")
        code[name] = instructions.split()
    return code


def test_the_exponentials_run_while_the_values_are_multiplied(machine_code: dict[str, list[str]]) -> None:
    """Each warpgroup: the first block, and three loops in which 66 exponentials lie between two waits and no product does."""
    runs = [list(run) for is_wait, run in groupby(machine_code["_forward_kernel"], lambda name: name == "WAIT") if not is_wait]
    assert [len(run) for run in runs if set(run) == {"EX2"}] == [66] * 6
    assert all(run.count("EX2") in (0, 66) for run in runs)


@pytest.mark.parametrize(("kernel", "n_waits"), [("_forward_kernel", 16), ("_dq_kernel", 6), ("_dkv_kernel", 6)])
def test_products_run_without_a_wait_after_each(machine_code: dict[str, list[str]], kernel: str, n_waits: int) -> None:
    """The compiler adds such waits, and warns of it nowhere that the compile gate looks, where it fails to allocate registers."""
    assert machine_code[kernel].count("WAIT") == n_waits
    assert machine_code[kernel].count("MMA") >= 40


_DISASSEMBLE = """
import re, subprocess, sys, tempfile
sys.path.insert(0, sys.argv[1])
import compile_gate, torch
from pathlib import Path
import triton
from tilth.kernels.attention.visible import Mask
from tilth.kernels.backend import compiling_for

def measure(compiled):
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        sass = subprocess.run([tool, "--dump-sass", file.name], check=True, capture_output=True, text=True).stdout
    names = {"WARPGROUP.DEPBAR": "WAIT", "MUFU.EX2": "EX2", "HGMMA": "MMA"}
    print(compiled.metadata.name, *(names[name] for name in re.findall("|".join(names), sass)))
    return {}

compile_gate._measure = measure
with compiling_for(90), compile_gate._compiler("attention_gluon/90/bfloat16", {}, {}, {}):
    from tilth.kernels.attention import gluon_sm90
    q = torch.zeros(1, 128, 1, 128, dtype=torch.bfloat16)
    o, lse = gluon_sm90.forward(q, q, q, Mask(), 0.0, 1.0)
    gluon_sm90.backward(q, None, q, q, q, o, lse, Mask(), 0.0, 1.0)
"""
