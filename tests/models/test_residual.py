"""The residual topology, and that another one is one more class."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from tilth.models.decoder import Decoder
from tilth.models.residual import RESIDUALS, Standard, Sublayer


def test_standard_adds_each_output_to_the_stream_before_the_next_reads_it() -> None:
    read: list[float] = []

    def sublayer(x: Tensor) -> Tensor:
        read.append(float(x))
        return x * 2

    assert float(Standard().run([sublayer] * 3, torch.tensor(1.0))) == 27.0
    assert read == [1.0, 3.0, 9.0]


class _OneBehind:
    """Ladder-Residual's rule: every sublayer reads the stream without the output just before it."""

    def run(self, sublayers: Sequence[Sublayer], x_BTD: Tensor) -> Tensor:
        pending: Tensor | None = None
        for sublayer in sublayers:
            output = sublayer(x_BTD)
            x_BTD = x_BTD if pending is None else x_BTD + pending
            pending = output
        return x_BTD if pending is None else x_BTD + pending


def test_another_topology_is_one_class(make_model: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RESIDUALS, "one_behind", _OneBehind)  # type: ignore[arg-type]
    model = make_model("MA", residual="one_behind")
    ids = torch.randint(0, 43, (1, 12))
    states = model.empty_states(1)
    late = model.prefill(ids, states)
    assert (late - model(ids)[:, -1]).abs().max() < 1e-5
    model.residual = Standard()
    assert (late - model(ids)[:, -1]).abs().max() > 1e-3
