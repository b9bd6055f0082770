"""The compiled products with signs: both ways of adding up, whoever else is in the batch, on any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tilth.kernels import sign_matmul_grouped
from tilth.kernels.sign_matmul import pack, signed_sums

Given = dict[str, Any]
HERE = signed_sums.has_tables(torch.float32)
WAYS = [False, pytest.param(True, marks=pytest.mark.skipif(not HERE, reason="this CPU has no AVX-512"))]


def make(m: int, k: int, n: int, n_tenants: int = 3) -> Given:
    return {
        "y_MN": torch.randn(m, n),
        "x_MK": torch.randn(m, k),
        "packed_EPN": torch.stack([pack(torch.randn(k, n)) for _ in range(n_tenants)]),
        "tenants_M": torch.randint(-1, n_tenants, (m,), dtype=torch.int32),
        "scale_E": torch.rand(n_tenants),
        "row_scale_EN": torch.randn(n_tenants, n),
        "column_scale_EK": torch.randn(n_tenants, k),
    }


def run(given: Given, by_tables: bool) -> Tensor:
    y_MN = given["y_MN"].clone()
    signed_sums.add_products(**{**given, "y_MN": y_MN}, by_tables=by_tables)
    return y_MN


@pytest.fixture
def by_way(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    return lambda by_tables: monkeypatch.setattr(signed_sums, "has_tables", lambda dtype: by_tables and dtype == torch.float32)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("by_tables", WAYS)
@pytest.mark.parametrize(("m", "k", "n"), [(1, 32, 16), (5, 70, 33), (2, 1, 15), (3, 1000, 48), (40, 33, 257)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_each_way_keeps_the_rule(
    hold_to_rule: Callable[..., None],
    by_way: Callable[[bool], None],
    by_tables: bool,
    m: int,
    k: int,
    n: int,
    dtype: torch.dtype,
) -> None:
    by_way(by_tables)
    given = make(m, k, n)
    floats = {name: value.to(dtype) if value.is_floating_point() else value for name, value in given.items()}
    hold_to_rule(sign_matmul_grouped, "cpu", floats | {"add_to_MN": floats.pop("y_MN")}, gradients=False)


@pytest.mark.parametrize("by_tables", WAYS)
def test_a_long_sum_of_inputs_of_one_sign_loses_no_more_than_torch(
    hold_to_rule: Callable[..., None], by_way: Callable[[bool], None], by_tables: bool
) -> None:
    by_way(by_tables)
    given = make(4, 8192, 64)
    inputs = {"x_MK": given["x_MK"].abs() + 1, "packed_EPN": given["packed_EPN"], "tenants_M": given["tenants_M"]}
    hold_to_rule(sign_matmul_grouped, "cpu", inputs, gradients=False)


@pytest.mark.parametrize("by_tables", WAYS)
def test_a_row_has_the_same_bits_whoever_is_in_the_batch(by_tables: bool) -> None:
    given = make(37, 100, 50)
    y_MN = run(given, by_tables)
    assert torch.equal(y_MN[given["tenants_M"] == -1], given["y_MN"][given["tenants_M"] == -1])
    for m in range(37):
        alone = {name: value[m : m + 1] if name.endswith(("MN", "MK", "_M")) else value for name, value in given.items()}
        assert torch.equal(run(alone, by_tables)[0], y_MN[m])


@pytest.mark.parametrize("by_tables", WAYS)
@pytest.mark.parametrize("n_threads", [2, 3, 7])
def test_the_bits_do_not_depend_on_the_threads(
    monkeypatch: pytest.MonkeyPatch, threads: Callable[[int], None], by_tables: bool, n_threads: int
) -> None:
    given = make(6, 64, 40)
    threads(1)
    on_one = run(given, by_tables)
    started = []
    monkeypatch.setattr(signed_sums, "_FEWEST_SIGNS", 1)
    pool = signed_sums._threads(0)
    submit = pool.submit
    monkeypatch.setattr(pool, "submit", lambda *task: started.append(task) or submit(*task))
    monkeypatch.setattr(signed_sums, "_threads", lambda process: pool)
    threads(n_threads)
    assert torch.equal(run(given, by_tables), on_one)
    assert len(started) == min(n_threads, 6) - 1


def test_a_tenant_with_many_rows_among_others(by_way: Callable[[bool], None]) -> None:
    by_way(False)
    given = make(90, 64, 24)
    given["tenants_M"][:50] = 1
    rest = {name: value for name, value in given.items() if name != "y_MN"} | {"add_to_MN": given["y_MN"]}
    wanted = sign_matmul_grouped(**rest, backend="reference")
    torch.testing.assert_close(sign_matmul_grouped(**rest, backend="cpu"), wanted, rtol=1e-4, atol=1e-4)
