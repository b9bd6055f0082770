"""The Gluon attention kernel on simulated hardware: its results, its barriers, and that the simulator finds faults in them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from gluon_machine import ProtocolError
from gluon_simulator import simulate
from torch import Tensor

import tilth.kernels
from tilth.kernels.attention import reference
from tilth.kernels.attention.visible import Mask
from tilth.kernels.backend import choose_backend, compiling_for

KERNELS = Path(tilth.kernels.__file__).parent
SOURCE = KERNELS / "attention" / "gluon_sm90.py"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Inputs = dict[str, Tensor]


def attend(q_BTHD: Tensor, k_BTGD: Tensor, v_BTGD: Tensor, *, mask: Mask, seed: int = 0, block_n: int = 0) -> Any:
    """The kernel on the simulator, or the reference where that is asked for."""
    scale = q_BTHD.shape[3] ** -0.5
    if choose_backend(q_BTHD) == "reference":
        return reference.forward(q_BTHD, k_BTGD, v_BTGD, mask, 0.0, scale)
    module = simulate(SOURCE, seed)
    if block_n:
        use_blocks(module, block_n)
    with compiling_for(90):
        return module.forward(q_BTHD, k_BTGD, v_BTGD, mask, 0.0, scale)


def use_blocks(module: ModuleType, block_n: int, stages: int = 2) -> None:
    """Launch with small blocks, so that few keys go several times around the rings."""
    module.launch = lambda *_: {"BLOCK_N": block_n, "STAGES": stages, "CONSUMER_REGISTERS": 240}  # type: ignore[attr-defined]


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
    inputs = make(1, 300, 700, 2, 1, head_dim, dtype)
    hold_to_rule(attend, None, inputs, gradients=False, mask=Mask(right=0))


@pytest.mark.parametrize("n_tokens", [1, 2, 63, 64, 65, 127, 128, 129, 255, 256, 257])
def test_odd_lengths(hold_to_rule: Callable[..., None], n_tokens: int) -> None:
    for mask in (Mask(), Mask(right=0)):
        hold_to_rule(attend, None, make(1, n_tokens, n_tokens, 2, 2, 64), gradients=False, mask=mask, seed=n_tokens, block_n=64)


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
    hold_to_rule(attend, None, make(*shape), gradients=False, mask=mask, seed=seed, block_n=64)


def test_rows_that_see_nothing_give_zero_and_minus_infinity(poisoned_memory: None) -> None:
    inputs = make(1, 300, 100, 2, 1, 64)
    o, lse = attend(**inputs, mask=Mask(right=0), block_n=64)
    expected_o, expected_lse = reference.forward(*inputs.values(), Mask(right=0), 0.0, 0.125)
    assert (o[:, :200] == 0).all()
    assert (lse[:, :, :200] == -torch.inf).all()
    torch.testing.assert_close(lse, expected_lse, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(o, expected_o, rtol=1e-2, atol=2e-3)


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
    hold_to_rule(attend, None, inputs, gradients=False, mask=Mask(right=0), block_n=64)


def test_layouts_in_memory_and_schedules_change_no_bit() -> None:
    inputs = make(2, 140, 200, 4, 2, 64)
    packed = torch.cat([inputs["k_BTGD"], inputs["v_BTGD"]], dim=2)
    views = {
        "q_BTHD": inputs["q_BTHD"].transpose(1, 2).contiguous().transpose(1, 2),
        "k_BTGD": packed[:, :, :2],
        "v_BTGD": packed[:, :, 2:],
    }
    odd = {"q_BTHD": torch.cat([inputs["q_BTHD"], inputs["q_BTHD"][..., :1]], dim=-1)[..., :64]}
    results = [attend(**(inputs | other), mask=Mask(right=0), seed=seed) for seed, other in enumerate(({}, {}, views, odd))]
    for o, lse in results:
        assert torch.equal(o, results[0][0])
        assert torch.equal(lse, results[0][1])


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


_K_FREE = "        mbarrier.arrive(k_free.index(place), count=1)\n"
_V_FREE = "        mbarrier.arrive(v_free.index(before), count=1)\n"
_SCORES_DONE = "        s = hopper.warpgroup_mma_wait(1, [s])\n"
_VALUES_DONE = "        acc = hopper.warpgroup_mma_wait(0, [acc])\n"
_TURN = "mbarrier.wait(turns.index(WARPGROUP), (i + 1) & 1)"
_FREE = "_make_barriers(STAGES, 1), _make_barriers(STAGES, _WARPGROUPS)"
# What is broken in the source, how, and what the simulator says of it.
PROTOCOL_FAULTS = {
    "keys never freed": (_K_FREE, "", "deadlock"),
    "values never freed": (_V_FREE, "", "deadlock"),
    "turn never passed": ("        mbarrier.arrive(turns.index(1 - WARPGROUP), count=1)\n        s =", "        s =", "deadlock"),
    "no first turn": ("mbarrier.arrive(turns.index(0), count=1)", "pass", "deadlock"),
    "turn not waited for": (f"        {_TURN}\n", "", "waits for phase|nobody waited"),
    "turn of another phase": (_TURN, _TURN.replace("(i + 1)", "i"), "waits for phase"),
    "queries not waited for": ("    mbarrier.wait(q_ready.index(WARPGROUP), 0)\n", "", "reads place"),
    "keys not waited for": ("        mbarrier.wait(k_ready.index(place), i // STAGES & 1)\n", "", "reads place"),
    "keys of another phase": (
        "k_ready.index(place), i // STAGES & 1",
        "k_ready.index(place), (i // STAGES + 1) & 1",
        "place|phase",
    ),
    "values not waited for": ("        mbarrier.wait(v_ready.index(before), (i - 1) // STAGES & 1)\n", "", "reads place"),
    "values of another place": ("v_tiles.index(before)", "v_tiles.index(place)", "reads place"),
    "last values not waited for": ("    mbarrier.wait(v_ready.index(place), (n_blocks - 1) // STAGES & 1)\n", "", "place"),
    "last values of another phase": ("(n_blocks - 1) // STAGES & 1", "n_blocks // STAGES & 1", "place|phase"),
    "place not waited for": ("    mbarrier.wait(free.index(place), (i // STAGES + 1) & 1)\n", "", "overwrites|arrivals"),
    "place of another phase": ("(i // STAGES + 1) & 1", "i // STAGES & 1", "deadlock"),
    "one warpgroup frees the keys": (
        "k_barriers = " + _FREE,
        "k_barriers = " + _FREE.replace("_WARPGROUPS", "1"),
        "overwrites|phase",
    ),
    "scores not waited for": (_SCORES_DONE, _SCORES_DONE.replace("1", "2"), "has not waited for"),
    "keys freed before they are read": (_SCORES_DONE + _K_FREE, _K_FREE + _SCORES_DONE, "overwrites"),
    "values freed before they are read": (_VALUES_DONE + _V_FREE, _V_FREE + _VALUES_DONE, "overwrites"),
    "outputs over others' queries": (
        "    o = q_tiles.index(WARPGROUP)\n",
        "    o = q_tiles.index(1 - WARPGROUP)\n",
        "overwrites",
    ),
    "outputs not fenced": ("    hopper.fence_async_shared()\n    tma", "    tma", "no fence_async_shared"),
    "stores not waited for": ("    tma.store_wait(0)\n", "", "ends without waiting"),
    "too few bytes announced": ("q_ready.index(w), q_desc.block_type.nbytes", "q_ready.index(w), 64", "deadlock"),
    "a block too few loaded": (
        "for i in range(1, n_blocks):\n        _load",
        "for i in range(1, n_blocks - 1):\n        _load",
        "deadlock",
    ),
}


def run_with(change: tuple[str, str], seed: int, stages: int = 2) -> float:
    """Return the largest error of the kernel with one change of its source."""
    inputs = make(1, 256, 600, 2, 1, 64)
    module = simulate(SOURCE, seed, change)
    use_blocks(module, 64, stages)
    o, lse = module.forward(*inputs.values(), Mask(right=0), 0.0, 0.125)
    expected_o, expected_lse = reference.forward(*inputs.values(), Mask(right=0), 0.0, 0.125)
    errors = torch.cat([(o.double() - expected_o).flatten(), (lse - expected_lse).flatten()]).nan_to_num(torch.inf, torch.inf)
    return float(errors.abs().max())


@pytest.mark.parametrize("fault", PROTOCOL_FAULTS)
def test_the_simulator_finds_faults_of_the_protocol(fault: str) -> None:
    old, new, message = PROTOCOL_FAULTS[fault]
    for seed in range(3):
        with pytest.raises(ProtocolError, match=message):
            run_with((old, new), seed)


def test_one_stage_would_hang() -> None:
    with pytest.raises(ProtocolError, match="deadlock"):
        run_with(("    gl.static_assert(STAGES >= 2)\n", ""), 0, stages=1)


@pytest.mark.parametrize(
    "change",
    [
        ("lowest + i * BLOCK_N, scale_log2, MASKED", "lowest + i * BLOCK_N + 1, scale_log2, MASKED"),
        ("last_whole, n_blocks, s_layout, o_layout, STAGES, True", "last_whole, n_blocks, s_layout, o_layout, STAGES, False"),
        ("        acc = acc * gl.convert_layout(shrink, gl.SliceLayout(1, o_layout))[:, None]\n", ""),
        ("[b, start_n, g, 0]", "[b, start_n + 1, g, 0]"),
        ("h // HEADS_PER_GROUP, start_m", "h, start_m"),
    ],
)
def test_the_simulator_finds_wrong_results(change: tuple[str, str]) -> None:
    assert run_with(("gl.static_assert(STAGES >= 2)", "gl.static_assert(True)"), 0) < 4e-3
    assert run_with(change, 0) > 0.02


def test_the_exponentials_run_while_the_values_are_multiplied() -> None:
    """In the machine code of every loop the exponentials lie between the wait for the scores and that for the values."""
    text = subprocess.run(
        [sys.executable, "-c", _DISASSEMBLE, str(BENCHMARKS)], capture_output=True, text=True, check=True, timeout=300
    ).stdout
    found = [line for line in text.splitlines() if line]
    waits = [i for i, name in enumerate(found) if name == "WAIT"]
    in_loops = [
        (found[start:end].count("EX2"), found[start:end].count("MMA"))
        for start, end in pairwise(waits)
        if "EX2" in found[start:end]
    ]
    # Each warpgroup: the first block, and three loops that have all 64 exponentials of a thread and two more.
    assert [exponentials for exponentials, products in in_loops if products == 0] == [66] * 6
    assert all(exponentials == 66 for exponentials, _ in in_loops)


_DISASSEMBLE = """
import os, re, subprocess, sys, tempfile
os.environ.pop("TRITON_INTERPRET", None)
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
    for name in re.findall(r"WARPGROUP.DEPBAR|MUFU.EX2|HGMMA", sass):
        print({"WARPGROUP.DEPBAR": "WAIT", "MUFU.EX2": "EX2", "HGMMA": "MMA"}[name])
    return {}

compile_gate._measure = measure
with compiling_for(90), compile_gate._compiler("attention_gluon/90/bfloat16", {}, {}, {}):
    from tilth.kernels.attention import gluon_sm90
    q = torch.zeros(1, 128, 1, 128, dtype=torch.bfloat16)
    gluon_sm90.forward(q, q, q, Mask(), 0.0, 1.0)
"""
