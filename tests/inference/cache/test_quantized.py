"""Checkpoints at rest: what 8 bits keep, what they take, and what they refuse."""

from __future__ import annotations

import pytest
import torch

from tilth.errors import UserError
from tilth.inference.cache.quantized import Exact, Int8, Int8State, relative_error


def states(seed: int = 0, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Two layers: Mamba-2 with 4 heads x 16 channels, Mamba-1 with 64 channels, 128 and 16 states."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, 3, 96), (1, 4, 16, 128), (1, 3, 64), (1, 64, 16)]
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


def tensor_bytes(packed) -> int:
    parts = [part for entry in packed for part in ((entry.codes, entry.scales) if isinstance(entry, Int8State) else (entry,))]
    return sum(part.nbytes for part in parts)


@pytest.mark.parametrize("form", [Exact(), Int8()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_size_is_counted_to_the_byte_and_dtypes_come_back(form, dtype) -> None:
    before = states(dtype=dtype)
    packed = form.pack(before)
    assert tensor_bytes(packed) == form.size_bytes(before)
    after = form.unpack(packed)
    assert [(part.shape, part.dtype) for part in after] == [(part.shape, part.dtype) for part in before]


def test_int8_takes_a_quarter_of_fp32_states() -> None:
    ssm = [torch.zeros(1, 3, 8), torch.randn(1, 8, 64, 128)]
    assert Int8().size_bytes(ssm) < 0.27 * Exact().size_bytes(ssm)


def test_each_value_is_within_half_a_scale_and_convolutions_are_exact() -> None:
    before = states()
    after = Int8().unpack(Int8().pack(before))
    for k in (0, 2):
        assert torch.equal(before[k], after[k])
    for k in (1, 3):
        bound = before[k].abs().amax(-1, keepdim=True) / 254
        assert ((before[k] - after[k]).abs() <= bound * (1 + 1e-5)).all()


def test_relative_error_of_normal_states() -> None:
    assert relative_error(states(), Exact()) == 0.0
    one = [torch.zeros(1, 3, 8), torch.randn(1, 64, 64, 128, generator=torch.Generator().manual_seed(1))]
    assert relative_error(one, Int8()) == pytest.approx(0.006, rel=0.15)


def test_storing_again_what_was_not_changed_loses_nothing_more() -> None:
    form = Int8()
    once = form.pack(states())
    twice = form.pack(form.unpack(once))
    assert all(torch.equal(a.codes, b.codes) for a, b in zip(once[1::2], twice[1::2], strict=True))


def test_rows_of_zeros_and_of_huge_and_tiny_values() -> None:
    ssm = torch.zeros(1, 2, 3, 8)
    ssm[0, 0, 1] = 3e38
    ssm[0, 1, 1] = 1e-30
    after = Int8().unpack(Int8().pack([torch.zeros(1, 3, 4), ssm]))[1]
    assert torch.allclose(after, ssm, rtol=1e-6, atol=0)
    assert relative_error([torch.zeros(1, 3, 4), torch.zeros(1, 2, 3, 8)], Int8()) == 0.0


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    broken = states()
    broken[1][0, 2, 3, 4] = bad
    with pytest.raises(UserError, match="not finite"):
        Int8().pack(broken)


def test_the_cache_shares_no_memory_with_a_running_row() -> None:
    for form in (Exact(), Int8()):
        before = states()
        packed = form.pack(before)
        expected = form.unpack(packed)
        for part in before + form.unpack(packed):
            part.zero_()
        assert all(torch.equal(a, b) for a, b in zip(form.unpack(packed), expected, strict=True))
