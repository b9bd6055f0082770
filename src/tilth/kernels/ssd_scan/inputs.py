"""What the recurrence reads, as one value: every backend takes it, so the list of tensors is written once."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from tilth.kernels.backend import check_device, check_float, check_segments, check_shape


class ScanInputs(NamedTuple):
    """The tensors of `ssd_scan`, in the order of the operator's schema; None = not given."""

    x_BTHP: Tensor
    dt_BTH: Tensor
    A_H: Tensor
    B_BTGN: Tensor
    C_BTGN: Tensor
    D_H: Tensor | None
    segments_BT: Tensor | None
    initial_state_BHPN: Tensor | None

    def check(self) -> None:
        """Raise ValueError for shapes, dtypes or devices that do not fit."""
        if self.x_BTHP.dim() != 4:
            raise ValueError(f"x_BTHP has shape {tuple(self.x_BTHP.shape)}; expected 4 dimensions (B, T, H, P)")
        if self.B_BTGN.dim() != 4:
            raise ValueError(f"B_BTGN has shape {tuple(self.B_BTGN.shape)}; expected 4 dimensions (B, T, G, N)")
        n_batch, n_tokens, n_heads, head_dim = self.x_BTHP.shape
        n_groups, d_state = self.B_BTGN.shape[2:]
        if n_tokens == 0 or head_dim == 0 or d_state == 0:
            raise ValueError(f"x_BTHP has shape {tuple(self.x_BTHP.shape)}; T, P and N must be at least 1")
        if n_groups == 0 or n_heads % n_groups:
            raise ValueError(f"{n_heads} heads cannot share {n_groups} groups: H must be a multiple of G")
        shapes = {
            "dt_BTH": ((n_batch, n_tokens, n_heads), "B, T, H"),
            "A_H": ((n_heads,), "H"),
            "B_BTGN": ((n_batch, n_tokens, n_groups, d_state), "B, T, G, N"),
            "C_BTGN": ((n_batch, n_tokens, n_groups, d_state), "B, T, G, N"),
            "D_H": ((n_heads,), "H"),
            "initial_state_BHPN": ((n_batch, n_heads, head_dim, d_state), "B, H, P, N"),
        }
        given = {name: tensor for name, tensor in self._asdict().items() if tensor is not None}
        for name, tensor in given.items():
            if name in shapes:
                check_shape(name, tensor, *shapes[name])
            if name != "segments_BT":
                check_float(name, tensor)
        if self.segments_BT is not None:
            check_segments(self.segments_BT, (n_batch, n_tokens))
        check_device(self.x_BTHP, **given)
