"""The changed rows of a vocabulary's table as one bit a weight, with scales of rows and columns."""

from __future__ import annotations

import torch
from torch import Tensor

from tilth.deploy.codecs.codec import FLOAT32, SCALES, Codec, Parts, Shape, check_matrix, check_parts, check_product
from tilth.deploy.codecs.rank1 import Rank1
from tilth.deploy.codecs.rows import added, changed_rows, check_rows
from tilth.deploy.signs import check_padding, n_words

_SIGNS = Rank1()


class SignRows(Codec):
    """Differences of rows as one bit a weight. Parts: rows int32 (R,), and those of Rank1 for the (R, D) differences."""

    name = "rows-sign"

    def encode(self, base: Tensor, tuned: Tensor) -> Parts:
        """The rows that differ in any bit."""
        rows_R = changed_rows(base, tuned)
        return {"rows": rows_R.int(), **_SIGNS.encode_difference(tuned[rows_R].float() - base[rows_R].float())}

    def rebuild(self, parts: Parts, base: Tensor) -> Tensor:
        """base with the scaled signs added to those rows."""
        rows_R = parts["rows"].long()
        return added(base, rows_R, _SIGNS.decode(parts, (len(rows_R), base.shape[1])))

    def check(self, parts: Parts, shape: Shape, dtype: torch.dtype) -> str | None:
        """What is wrong with the parts; None = nothing."""
        if problem := check_matrix(shape):
            return problem
        n_rows = parts["rows"].numel() if "rows" in parts else 0
        wanted = {
            "rows": ((torch.int32,), (n_rows,)),
            "signs": ((torch.int32,), (n_words(shape[1]), n_rows)),
            "scale": (FLOAT32, ()),
            "row_scale": (SCALES, (n_rows,)),
            "column_scale": (SCALES, (shape[1],)),
        }
        problem = check_parts(parts, wanted) or check_rows(parts["rows"], shape[0])
        problem = problem or check_padding(parts["signs"], shape[1])
        return problem or check_product(parts["scale"], parts["row_scale"], parts["column_scale"])
