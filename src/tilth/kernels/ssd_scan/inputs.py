"""What the recurrence reads and how, as two values: every backend takes them, so the list is written once."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from tilth.kernels.backend import check_device, check_float, check_segments, check_shape, compute_dtype
from tilth.kernels.launches import launch

CPU_CHUNK = 64
"""Tokens of a chunk on the CPU: with 32 the states are passed on too often, with 128 the decays leave the cache."""

# Written out, so that the operators need not repeat it: torch would infer it from their signatures.
TENSOR_SCHEMA = (
    "Tensor x_BTHP, Tensor dt_BTH, Tensor A_H, Tensor B_BTGN, Tensor C_BTGN, Tensor? D_H, Tensor? z_BTHP, "
    "Tensor? dt_bias_H, Tensor? initial_state_BHPN, Tensor? segments_BT, Tensor? cu_seqlens"
)
OPTION_SCHEMA = "bool dt_softplus, float dt_min, float dt_max, bool reverse, int chunk_size, bool is_kept"


class ScanInputs(NamedTuple):
    """The tensors of `ssd_scan`, in the order of TENSOR_SCHEMA, the differentiable ones first; None = not given."""

    x_BTHP: Tensor
    dt_BTH: Tensor
    A_H: Tensor
    B_BTGN: Tensor
    C_BTGN: Tensor
    D_H: Tensor | None
    z_BTHP: Tensor | None
    dt_bias_H: Tensor | None
    initial_state_BHPN: Tensor | None
    segments_BT: Tensor | None
    cu_seqlens: Tensor | None

    @property
    def differentiable(self) -> tuple[Tensor | None, ...]:
        """The inputs that have a gradient, in the order of the backward operator's outputs."""
        return self[:9]

    @property
    def n_states(self) -> int:
        """How many states begin and end: one a document of cu_seqlens, else one a row."""
        return self.x_BTHP.shape[0] if self.cu_seqlens is None else self.cu_seqlens.shape[0] - 1

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
        self._check_documents()
        shapes = {
            "dt_BTH": ((n_batch, n_tokens, n_heads), "B, T, H"),
            "A_H": ((n_heads,), "H"),
            "B_BTGN": ((n_batch, n_tokens, n_groups, d_state), "B, T, G, N"),
            "C_BTGN": ((n_batch, n_tokens, n_groups, d_state), "B, T, G, N"),
            "D_H": ((n_heads,), "H") if self.D_H is None or self.D_H.dim() != 2 else ((n_heads, head_dim), "H, P"),
            "z_BTHP": ((n_batch, n_tokens, n_heads, head_dim), "B, T, H, P"),
            "dt_bias_H": ((n_heads,), "H"),
            "initial_state_BHPN": ((self.n_states, n_heads, head_dim, d_state), "B or documents, H, P, N"),
        }
        given = {name: tensor for name, tensor in self._asdict().items() if tensor is not None}
        for name, tensor in given.items():
            if name in shapes:
                check_shape(name, tensor, *shapes[name])
                check_float(name, tensor)
        check_float("x_BTHP", self.x_BTHP)
        check_device(self.x_BTHP, **given)

    def _check_documents(self) -> None:
        n_batch, n_tokens = self.x_BTHP.shape[:2]
        if self.segments_BT is not None:
            check_segments(self.segments_BT, (n_batch, n_tokens))
        if self.cu_seqlens is None:
            return
        if self.segments_BT is not None:
            raise ValueError("cu_seqlens and segments_BT are two ways to say the same; expected at most one of them")
        if n_batch != 1:
            raise ValueError(f"x_BTHP has {n_batch} rows; with cu_seqlens the documents lie in one row, expected 1")
        if self.cu_seqlens.dim() != 1 or self.cu_seqlens.shape[0] < 1 or self.cu_seqlens.dtype != torch.int32:
            raise ValueError(
                f"cu_seqlens is {self.cu_seqlens.dtype} of shape {tuple(self.cu_seqlens.shape)}; "
                "expected int32 of shape (documents + 1,)"
            )

    def check_bounds(self) -> None:
        """Raise ValueError where cu_seqlens falls or does not cover the tokens; on a GPU an assertion that nobody waits for."""
        bounds, n_tokens = self.cu_seqlens, self.x_BTHP.shape[1]
        if bounds is None:
            return
        holds = (bounds[0] == 0) & (bounds[-1] == n_tokens) & (bounds[1:] >= bounds[:-1]).all()
        message = f"cu_seqlens must begin with 0, never fall and end with the number of tokens, {n_tokens}"
        if bounds.device.type != "cpu":
            torch._assert_async(holds, message)
        elif not holds:
            raise ValueError(f"{message}; got {bounds.tolist()[:8]}{' ...' if len(bounds) > 8 else ''}")


class ScanOptions(NamedTuple):
    """The options of `ssd_scan`, in the order of OPTION_SCHEMA."""

    dt_softplus: bool
    dt_min: float
    dt_max: float
    reverse: bool
    chunk_size: int
    is_kept: bool  # what the backward needs of the forward is kept

    def step_sizes(self, dt_BTH: Tensor, dt_bias_H: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Return the step of each token (B, T, H) in `dtype`: with its bias, through softplus, within the limits."""
        dt_BTH = dt_BTH.to(dtype)
        if dt_bias_H is not None:
            dt_BTH = dt_BTH + dt_bias_H.to(dtype)
        if self.dt_softplus:
            dt_BTH = softplus(dt_BTH)
        return dt_BTH.clamp(self.dt_min, self.dt_max)


def kept_states(inputs: ScanInputs, options: ScanOptions, backend: str) -> Tensor:
    """Return an empty tensor for the states that enter the chunks, with as many chunks as `backend` keeps."""
    x_BTHP = inputs.x_BTHP
    n_batch, n_tokens, n_heads, head_dim = x_BTHP.shape
    state = (n_heads, head_dim, inputs.B_BTGN.shape[-1])
    if backend in ("cpu", "reference"):
        # How many chunks the documents of cu_seqlens have is known by its values alone: their states are computed again.
        is_kept = backend == "cpu" and options.is_kept and inputs.cu_seqlens is None
        shape = (n_batch, -(-n_tokens // CPU_CHUNK), *state) if is_kept else (0,)
        return x_BTHP.new_empty(shape, dtype=compute_dtype(x_BTHP))
    if not options.is_kept:
        return x_BTHP.new_empty((0,))
    chunk = triton_options("gradient", inputs, options)["CHUNK"]
    return x_BTHP.new_empty((largest_number_of_chunks(inputs, chunk), *state))


def largest_number_of_chunks(inputs: ScanInputs, chunk: int) -> int:
    """Return how many chunks of `chunk` tokens all rows have, or at most have: cu_seqlens is not read."""
    n_batch, n_tokens = inputs.x_BTHP.shape[:2]
    if inputs.cu_seqlens is None:
        return n_batch * -(-n_tokens // chunk)
    return n_tokens // chunk + inputs.n_states


def triton_options(kernel: str, inputs: ScanInputs, options: ScanOptions) -> dict[str, Any]:
    """Return the launch options of `kernel`, its CHUNK being at most the chunk_size that was asked for.

    Raises ValueError where a head or a state is larger than the kernels hold.
    """
    head_dim, d_state = inputs.x_BTHP.shape[3], inputs.B_BTGN.shape[3]
    if head_dim > 128 or d_state > 256:
        raise ValueError(f"the Triton ssd_scan holds P <= 128 and N <= 256; got P = {head_dim} and N = {d_state}")
    bucket = f"P{64 if head_dim <= 64 else 128} N{next(size for size in (64, 128, 256) if d_state <= size)}"
    found = launch("ssd_scan", kernel, inputs.x_BTHP, bucket)
    power_of_two = 1 << (options.chunk_size.bit_length() - 1)
    if "CHUNK" in found:
        found["CHUNK"] = min(found["CHUNK"], max(16, power_of_two))
    return found
