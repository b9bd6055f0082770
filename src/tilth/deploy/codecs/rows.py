"""The rows of a vocabulary's table that changed, at 16 bits, and which they are."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.deploy.codecs.codec import Codec, Parts, Shape, check_matrix, check_parts

ROUNDED_TO = torch.bfloat16


class Rows(Codec):
    """Parts: rows int32 (R,), rising; values (R, D), exact, of a table of 16 bits, or difference bf16 (R, D) of a wider one.

    A difference in bf16 is off by at most 1/256 of the change itself.
    """

    name = "rows"

    def encode(self, base: Tensor, tuned: Tensor) -> Parts:
        """The rows that differ in any bit."""
        rows_R = changed_rows(base, tuned)
        if base.element_size() <= ROUNDED_TO.itemsize:
            return {"rows": rows_R.int(), "values": tuned[rows_R].clone()}
        return {"rows": rows_R.int(), "difference": (tuned[rows_R] - base[rows_R]).to(ROUNDED_TO)}

    def rebuild(self, parts: Parts, base: Tensor) -> Tensor:
        """base with those rows replaced."""
        rows_R = parts["rows"].long()
        values_RD = parts["values"] if "values" in parts else base[rows_R] + parts["difference"].to(base.dtype)
        return base.index_copy(0, rows_R, values_RD)

    def check(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> str | None:
        """What is wrong with the parts; None = nothing."""
        if problem := check_matrix(shape):
            return problem
        is_exact = dtype.itemsize <= ROUNDED_TO.itemsize
        n_rows = parts["rows"].numel() if "rows" in parts else 0
        values = {"values": ((dtype,), (n_rows, shape[1]))} if is_exact else {"difference": ((ROUNDED_TO,), (n_rows, shape[1]))}
        return check_parts(parts, {"rows": ((torch.int32,), (n_rows,)), **values}) or check_rows(parts["rows"], shape[0])


def changed_rows(base: Tensor, tuned: Tensor) -> Tensor:
    """int64 (R,): the rows that differ in any bit, rising."""
    # as integers: 0.0 == -0.0, and a NaN is no different from itself
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[base.element_size()]
    differs_V = (base.contiguous().view(bits) != tuned.contiguous().view(bits)).any(1)
    return differs_V.nonzero().squeeze(1)


def added(base: Tensor, rows_R: Tensor, difference_RD: Tensor) -> Tensor:
    """base with differences added to those rows, in fp32 and rounded once."""
    return base.index_copy(0, rows_R, (base[rows_R].float() + difference_RD).to(base.dtype))


def check_rows(rows_R: Tensor, n_rows: int) -> str | None:
    """What is wrong with the numbers of rows of a table of n_rows; None = nothing."""
    if not len(rows_R):
        return "has no row"
    if bool((rows_R.diff() <= 0).any()) or rows_R[0] < 0 or rows_R[-1] >= n_rows:
        return f"has rows that do not rise from 0 to {n_rows - 1}"
    return None
