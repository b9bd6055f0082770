"""What the selective scan reads, as one value: every backend takes it, so the list of tensors is written once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tilth.kernels.backend import check_device, check_float, check_segments, check_shape
from tilth.kernels.rows import refuse

CHUNK = 64
"""Tokens between two states that the forward keeps for the backward; the last chunk of a row may be shorter."""


class SelectiveInputs(NamedTuple):
    """The tensors of `selective_scan`, in the order of the operator's schema; None = not given."""

    u_BTC: Tensor
    dt_BTC: Tensor
    A_CN: Tensor
    B_BTGN: Tensor
    C_BTGN: Tensor
    D_C: Tensor | None
    z_BTC: Tensor | None
    dt_bias_C: Tensor | None
    segments_BT: Tensor | None
    initial_state_BCN: Tensor | None

    @property
    def n_chunks(self) -> int:
        return -(-self.u_BTC.shape[1] // CHUNK)

    def check(self) -> None:
        """Raise ValueError for shapes, dtypes or devices that do not fit."""
        if self.u_BTC.dim() != 3:
            raise ValueError(f"u_BTC has shape {tuple(self.u_BTC.shape)}; expected 3 dimensions (B, T, C)")
        if self.B_BTGN.dim() != 4:
            raise ValueError(f"B_BTGN has shape {tuple(self.B_BTGN.shape)}; expected 4 dimensions (B, T, G, N)")
        n_batch, n_tokens, n_channels = self.u_BTC.shape
        n_groups, d_state = self.B_BTGN.shape[2:]
        if n_tokens == 0 or n_channels == 0:
            raise ValueError(f"u_BTC has shape {tuple(self.u_BTC.shape)}; T and C must be at least 1")
        if n_groups == 0 or d_state == 0 or n_channels % n_groups:
            raise ValueError(
                f"B_BTGN has shape {tuple(self.B_BTGN.shape)}; N must be at least 1, and G a divisor of the {n_channels} channels"
            )
        shapes = {
            "dt_BTC": ((n_batch, n_tokens, n_channels), "B, T, C"),
            "A_CN": ((n_channels, d_state), "C, N"),
            "B_BTGN": ((n_batch, n_tokens, n_groups, d_state), "B, T, G, N"),
            "C_BTGN": ((n_batch, n_tokens, n_groups, d_state), "B, T, G, N"),
            "D_C": ((n_channels,), "C"),
            "z_BTC": ((n_batch, n_tokens, n_channels), "B, T, C"),
            "dt_bias_C": ((n_channels,), "C"),
            "initial_state_BCN": ((n_batch, n_channels, d_state), "B, C, N"),
        }
        given = {name: tensor for name, tensor in self._asdict().items() if tensor is not None}
        for name, tensor in given.items():
            if name in shapes:
                check_shape(name, tensor, *shapes[name])
            if name != "segments_BT":
                check_float(name, tensor)
        if self.segments_BT is not None:
            check_segments(self.segments_BT, (n_batch, n_tokens))
        check_device(self.u_BTC, **given)


class StepInputs(NamedTuple):
    """The tensors of `selective_step`, in the order of the operator's schema; None = not given."""

    u_BC: Tensor
    state_BCN: Tensor
    dt_BC: Tensor
    A_CN: Tensor
    B_BGN: Tensor
    C_BGN: Tensor
    D_C: Tensor | None
    z_BC: Tensor | None
    dt_bias_C: Tensor | None
    state_indices_B: Tensor | None

    def one_row(self) -> StepInputs:
        """The channels and groups of all rows as those of one row, each with parameters of its own."""
        flat = {name: None if tensor is None else tensor.flatten(0, 1) for name, tensor in self._asdict().items()}
        of_channels = ("A_CN", "D_C", "dt_bias_C")
        return StepInputs(**{name: t if t is None or name in of_channels else t.unsqueeze(0) for name, t in flat.items()})

    def check(self) -> None:
        """Raise ValueError for shapes, dtypes or devices that do not fit."""
        if self.u_BC.dim() != 2:
            raise ValueError(f"u_BC has shape {tuple(self.u_BC.shape)}; expected 2 dimensions (B, C)")
        if self.B_BGN.dim() != 3:
            raise ValueError(f"B_BGN has shape {tuple(self.B_BGN.shape)}; expected 3 dimensions (B, G, N)")
        n_batch, n_channels = self.u_BC.shape
        n_groups, d_state = self.B_BGN.shape[1:]
        if n_groups == 0 or d_state == 0 or n_channels % n_groups:
            raise ValueError(
                f"B_BGN has shape {tuple(self.B_BGN.shape)}; N must be at least 1, and G a divisor of the {n_channels} channels"
            )
        n_states = n_batch if self.state_indices_B is None else self.state_BCN.shape[0]
        of_rows, letter = ((n_batch,), "B, ") if self.A_CN.dim() == 3 else ((), "")
        if of_rows:
            refuse(state_indices_B=self.state_indices_B)
            if not self.state_BCN.is_contiguous():
                raise ValueError(f"state_BCN has strides {self.state_BCN.stride()}; each row has parameters: expected contiguous")
        shapes = {
            "state_BCN": ((n_states, n_channels, d_state), "B, C, N"),
            "dt_BC": ((n_batch, n_channels), "B, C"),
            "A_CN": ((*of_rows, n_channels, d_state), f"{letter}C, N"),
            "B_BGN": ((n_batch, n_groups, d_state), "B, G, N"),
            "C_BGN": ((n_batch, n_groups, d_state), "B, G, N"),
            "D_C": ((*of_rows, n_channels), f"{letter}C"),
            "z_BC": ((n_batch, n_channels), "B, C"),
            "dt_bias_C": ((*of_rows, n_channels), f"{letter}C"),
            "state_indices_B": ((n_batch,), "B"),
        }
        given = {name: tensor for name, tensor in self._asdict().items() if tensor is not None}
        for name, tensor in given.items():
            if name in shapes:
                check_shape(name, tensor, *shapes[name])
            if name != "state_indices_B":
                check_float(name, tensor)
        if self.state_indices_B is not None and self.state_indices_B.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"state_indices_B is {self.state_indices_B.dtype}; expected int32 or int64")
        check_device(self.u_BC, **given)
