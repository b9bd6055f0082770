"""The changed rows of a vocabulary's table as integers of 8 or 4 bits, with a scale a row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tilth.deploy.codecs.codec import FLOAT32, Codec, Parts, Shape, Wanted, check_matrix, check_parts, check_product
from tilth.deploy.codecs.rows import added, changed_rows, check_rows

# The best step of a uniform code of 16 levels, in standard deviations of a normal distribution (Max 1960, table II)
_STEP_OF_4_BITS = 0.335
_LARGEST = {4: 7, 8: 127}


@dataclass(frozen=True)
class IntegerRows(Codec):
    """Differences of rows as integers of 8 or 4 bits times a scale of the row.

    Parts: rows int32 (R,); codes int8 (R, D), or codes4 uint8 (R, ceil(D/2)), the lower half first, each plus 8; row_scale
    fp32 (R,).
    """

    bits: int = 8
    name = "rows-int"

    def encode(self, base: Tensor, tuned: Tensor) -> Parts:
        """The rows that differ in any bit, each by the step that suits it."""
        rows_R = changed_rows(base, tuned)
        difference_RD = tuned[rows_R].float() - base[rows_R].float()
        largest = _LARGEST[self.bits]
        step_R = difference_RD.abs().amax(1) / largest
        if self.bits == 4:
            step_R = torch.minimum(step_R, _STEP_OF_4_BITS * difference_RD.square().mean(1).sqrt())
        step_R = step_R.clamp(min=torch.finfo(torch.float32).tiny)
        codes_RD = (difference_RD / step_R[:, None]).round().clamp(-largest, largest).to(torch.int8)
        parts = {"codes": codes_RD} if self.bits == 8 else {"codes4": _halves_joined(codes_RD)}
        return {"rows": rows_R.int(), **parts, "row_scale": step_R}

    def rebuild(self, parts: Parts, base: Tensor) -> Tensor:
        """base with the scaled codes added to those rows."""
        rows_R = parts["rows"].long()
        codes_RD = parts["codes"] if "codes" in parts else _halves_split(parts["codes4"], base.shape[1])
        return added(base, rows_R, codes_RD.float() * parts["row_scale"][:, None])

    def check(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> str | None:
        """What is wrong with the parts; None = nothing."""
        if problem := check_matrix(shape):
            return problem
        n_rows = parts["rows"].numel() if "rows" in parts else 0
        wanted: dict[str, Wanted] = {"rows": ((torch.int32,), (n_rows,)), "row_scale": (FLOAT32, (n_rows,))}
        if "codes4" in parts:
            wanted["codes4"] = (torch.uint8,), (n_rows, -(-shape[1] // 2))
        else:
            wanted["codes"] = (torch.int8,), (n_rows, shape[1])
        problem = check_parts(parts, wanted) or check_rows(parts["rows"], shape[0])
        return problem or check_product(parts["row_scale"], torch.tensor(128.0))  # a byte's least is -128


def _halves_joined(codes_RD: Tensor) -> Tensor:
    """uint8 (R, ceil(D/2)) of int8 codes -8 ... 7."""
    codes_RD = torch.nn.functional.pad(codes_RD + 8, (0, codes_RD.shape[1] % 2)).to(torch.uint8)
    return codes_RD[:, ::2] | codes_RD[:, 1::2] << 4


def _halves_split(bytes_RB: Tensor, n_columns: int) -> Tensor:
    """The inverse: int8 (R, D)."""
    return torch.stack([bytes_RB & 15, bytes_RB >> 4], 2).flatten(1)[:, :n_columns].to(torch.int8) - 8
