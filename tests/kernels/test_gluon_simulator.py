"""The simulator of Gluon finds what would race, hang or be wrong: each fault is made in the source of the attention kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gluon_machine import ProtocolError
from gluon_simulator import simulate

import tilth.kernels
from tilth.kernels.attention import reference
from tilth.kernels.attention.visible import Mask

SOURCE = Path(tilth.kernels.__file__).parent / "attention" / "gluon_sm90.py"
MASK, SCALE = Mask(right=0), 0.125

K_FREE = "        mbarrier.arrive(k_free.index(place), count=1)\n"
V_FREE = "        mbarrier.arrive(v_free.index({}), count=1)\n"
FREE = "            mbarrier.arrive(free.index(place), count=1)\n"
SCORES = "        s = hopper.warpgroup_mma_wait(1, [s])\n"
VALUES = "        acc = hopper.warpgroup_mma_wait(0, [acc])\n"
DQ = "        dq = hopper.warpgroup_mma_wait(0, [dq])\n"
DKV = "            dk, dv = hopper.warpgroup_mma_wait(0, [dk, dv])\n"
PASS = "mbarrier.arrive(turns.index(1 - WARPGROUP), count=1)\n"
TURN = "mbarrier.wait(turns.index(WARPGROUP), (i + 1) & 1)"
RING = "k_barriers = _make_barriers(STAGES, 1), _make_barriers(STAGES, {})"
FORWARD_FAULTS = {
    "keys never freed": ("_attend", K_FREE, "", "deadlock"),
    "values never freed": ("_attend", V_FREE.format("before"), "", "deadlock"),
    "turn never passed": ("_attend", PASS, "pass\n", "deadlock"),
    "no first turn": ("_consume", "mbarrier.arrive(turns.index(0), count=1)", "pass", "deadlock"),
    "turn not waited for": ("_attend", TURN, "pass", "waits for phase|nobody waited"),
    "turn of another phase": ("_attend", TURN, TURN.replace("(i + 1)", "i"), "waits for phase"),
    "queries not waited for": ("_consume", "mbarrier.wait(q_ready.index(WARPGROUP), 0)", "pass", "reads place"),
    "keys not waited for": ("_attend", "mbarrier.wait(k_ready.index(place), i // STAGES & 1)", "pass", "reads place"),
    "keys of another phase": ("_attend", "k_ready.index(place), i //", "k_ready.index(place), 1 + i //", "place|phase"),
    "values not waited for": ("_attend", "mbarrier.wait(v_ready.index(before), (i - 1) // STAGES & 1)", "pass", "reads place"),
    "values of another place": ("_attend", "v_tiles.index(before)", "v_tiles.index(place)", "reads place"),
    "last values of another phase": ("_consume", "(n_blocks - 1) // STAGES", "n_blocks // STAGES", "place|phase"),
    "place not waited for": ("_load_tile", "mbarrier.wait(free.index(place), (i // STAGES + 1) & 1)", "pass", "overwrites|arrivals"),
    "place of another phase": ("_load_tile", "(i // STAGES + 1) & 1", "i // STAGES & 1", "deadlock"),
    "keys freed by one": ("_forward_kernel", RING.format("_WARPGROUPS"), RING.format(1), "overwrites|phase"),
    "scores not waited for": ("_attend", SCORES, SCORES.replace("1", "2"), "has not waited for"),
    "keys freed before they are read": ("_attend", SCORES + K_FREE, K_FREE + SCORES, "overwrites"),
    "values freed before they are read": (
        "_attend", VALUES + V_FREE.format("before"), V_FREE.format("before") + VALUES, "overwrites",
    ),
    "outputs over others' queries": ("_consume", "o_desc, q_tiles.index(WARPGROUP)", "o_desc, q_tiles.index(1 - WARPGROUP)", "overwrites"),
    "outputs not fenced": ("_store_tile", "hopper.fence_async_shared()", "pass", "no fence_async_shared"),
    "stores not waited for": ("_store_tile", "tma.store_wait(0)", "pass", "ends without waiting"),
    "too few bytes announced": ("_produce", "q_desc.block_type.nbytes", "64", "deadlock"),
    "a block too few loaded": ("_produce", "for i in range(1, n_blocks)", "for i in range(1, n_blocks - 1)", "deadlock"),
}  # fmt: skip
BACKWARD_FAULTS = {
    "dq: keys never freed": ("_consume_dq", K_FREE, "", "deadlock"),
    "dq: keys freed before they are read": ("_consume_dq", DQ + K_FREE, K_FREE + DQ, "overwrites"),
    "dq: values never freed": ("_consume_dq", V_FREE.format("place"), "", "deadlock"),
    "dq: keys not waited for": ("_consume_dq", "mbarrier.wait(k_ready.index(place), i // STAGES & 1)", "pass", "reads place"),
    "dq: values not waited for": ("_consume_dq", "mbarrier.wait(v_ready.index(place), i // STAGES & 1)", "pass", "reads place"),
    "dq: queries not waited for": ("_consume_dq", "mbarrier.wait(rows_ready.index(WARPGROUP), 0)", "pass", "reads place"),
    "dkv: never freed": ("_consume_dkv", FREE, "", "deadlock"),
    "dkv: freed before it is read": ("_consume_dkv", DKV + FREE, FREE + DKV, "overwrites"),
    "dkv: products not waited for": ("_consume_dkv", DKV, DKV.replace("0", "1"), "has not waited for"),
    "dkv: not waited for": ("_consume_dkv", "mbarrier.wait(ready.index(place), i // STAGES & 1)", "pass", "reads place"),
    "dkv: of another phase": ("_consume_dkv", "i // STAGES & 1", "(i // STAGES + 1) & 1", "place|phase"),
    "dkv: keys not waited for": ("_consume_dkv", "mbarrier.wait(rows_ready.index(WARPGROUP), 0)", "pass", "reads place"),
    "dkv: place not waited for": ("_produce_dkv", "mbarrier.wait(free.index(place), (i // STAGES + 1) & 1)", "pass", "overwrites|arrivals"),
    "dkv: rows of another place": ("_consume_dkv", "delta_tiles.index(place)", "delta_tiles.index(1 - place)", "place"),
    "dkv: too few bytes announced": ("_produce_dkv", " + 2 * delta_desc.block_type.nbytes", "", "deadlock|place"),
    "dkv: freed by one": ("_dkv_kernel", "_make_barriers(STAGES, _WARPGROUPS)", "_make_barriers(STAGES, 1)", "place|phase|arrivals"),
}  # fmt: skip
WRONG_RESULTS = {
    "mask of another place": ("_attend", "lowest + i * BLOCK_N", "lowest + i * BLOCK_N + 1"),
    "no mask at the end": ("_consume", "last_whole, n_blocks, s_layout, o_layout, STAGES, True", "last_whole, n_blocks, s_layout, o_layout, STAGES, False"),
    "outputs not shrunk": ("_attend", "acc = acc * gl.convert_layout(shrink, gl.SliceLayout(1, o_layout))[:, None]", "pass"),
    "keys of another row": ("_load_tile", "[b, start_n, g, 0]", "[b, start_n + 1, g, 0]"),
    "another group": ("_forward_kernel", "h // HEADS_PER_GROUP", "0 * h"),
    "dq: mask of another place": ("_consume_dq", "lowest + i * BLOCK_N", "lowest + i * BLOCK_N + 1"),
    "dkv: mask of another place": ("_consume_dkv", "lowest + j * BLOCK_M", "lowest + j * BLOCK_M + 1"),
    "dkv: numbers of another head": ("_produce_dkv", "HEADS_PER_GROUP + h) * n_padded", "HEADS_PER_GROUP + h * 0) * n_padded"),
    "dkv: one head of the group": ("_produce_dkv", "h = g * HEADS_PER_GROUP + r", "h = g * HEADS_PER_GROUP"),
    "no delta": ("_statistics_kernel", "gl.sum(o * do, 1)", "gl.sum(o * do, 1) * 0"),
}  # fmt: skip


def tensors() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((1, 256, 4, 64), (1, 600, 2, 64), (1, 600, 2, 64), (1, 256, 4, 64))
    return tuple(torch.randn(shape, generator=generator).half() for shape in shapes)


def run_with(seed: int, *changes: tuple[str, str, str], is_backward: bool, stages: int = 2) -> float:
    """Return the largest error of the outputs, or of the gradients, with changes of the kernels' source."""
    q, k, v, do = tensors()
    o, lse = reference.attention_reference(q.double(), k.double(), v.double(), MASK, 0.0, SCALE)
    module = simulate(SOURCE, seed, *changes)
    sizes = {"STAGES": stages, "CONSUMER_REGISTERS": 240}
    module.launch = lambda _, name, *rest: {"BLOCK_M" if name == "gluon_dkv" else "BLOCK_N": 64, **sizes}  # type: ignore[attr-defined]
    if is_backward:
        expected = reference.backward(do.double(), None, q.double(), k.double(), v.double(), o, lse, MASK, 0.0, SCALE)
        found = module.backward(do, None, q, k, v, o.half(), lse.float(), MASK, 0.0, SCALE)
    else:
        expected, found = (o, lse), module.forward(q, k, v, MASK, 0.0, SCALE)
    errors = torch.cat([(a.double() - b).flatten() for a, b in zip(found, expected, strict=True)])
    return float(errors.nan_to_num(torch.inf, torch.inf).abs().max())


@pytest.mark.parametrize("is_backward", [False, True])
def test_without_a_fault_nothing_is_found(is_backward: bool) -> None:
    for seed in range(3):
        assert run_with(seed, is_backward=is_backward) < 0.01


@pytest.mark.parametrize("fault", [*FORWARD_FAULTS, *BACKWARD_FAULTS])
def test_faults_of_the_protocol_are_found(fault: str) -> None:
    *change, message = (FORWARD_FAULTS | BACKWARD_FAULTS)[fault]
    for seed in range(2):
        with pytest.raises(ProtocolError, match=message):
            run_with(seed, tuple(change), is_backward=fault in BACKWARD_FAULTS)  # type: ignore[arg-type]


def test_one_stage_would_hang() -> None:
    with pytest.raises(ProtocolError, match="deadlock"):
        run_with(0, ("_forward_kernel", "gl.static_assert(STAGES >= 2)", "pass"), is_backward=False, stages=1)


@pytest.mark.parametrize("fault", WRONG_RESULTS)
def test_wrong_results_are_found(fault: str) -> None:
    assert run_with(0, WRONG_RESULTS[fault], is_backward=fault.startswith(("dq", "dkv", "no delta"))) > 0.03


def test_a_change_must_fit_the_source() -> None:
    with pytest.raises(ValueError, match="0 times"):
        simulate(SOURCE, 0, ("_attend", "not in the source", ""))
