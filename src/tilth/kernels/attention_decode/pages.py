"""A cache of keys and values in pages: what belongs together, its checks, and where each token lies."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tilth.kernels.backend import check_float, check_shape


class Pages(NamedTuple):
    """Keys and values (n_pages, page size, G, D), the pages of each row (B, P) and the tokens in each row (B,), both int32."""

    k_pages: Tensor
    v_pages: Tensor
    block_table_BP: Tensor
    lengths_B: Tensor

    @property
    def page_size(self) -> int:
        """The tokens of a page."""
        return self.k_pages.shape[1]

    @property
    def capacity(self) -> int:
        """The most tokens that a row of the table holds."""
        return self.block_table_BP.shape[1] * self.page_size

    def check(self, n_batch: int) -> None:
        """Raise ValueError unless shapes and types fit; values are not looked at."""
        for name, tensor in (("k_pages", self.k_pages), ("v_pages", self.v_pages)):
            if tensor.dim() != 4 or 0 in tensor.shape[1:]:
                raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected 4 dimensions (n_pages, page size, G, D)")
            check_float(name, tensor)
            if tensor.stride(3) != 1 and tensor.shape[3] > 1:
                raise ValueError(
                    f"{name} has stride {tensor.stride(3)} along D; expected 1 (a copy of the cache would be too slow)"
                )
        check_shape("v_pages", self.v_pages, tuple(self.k_pages.shape), "n_pages, page size, G, D, as k_pages")
        if self.v_pages.dtype != self.k_pages.dtype:
            raise ValueError(f"v_pages is {self.v_pages.dtype}, but k_pages is {self.k_pages.dtype}; they must be the same")
        if self.block_table_BP.dim() != 2:
            raise ValueError(f"block_table_BP has shape {tuple(self.block_table_BP.shape)}; expected 2 dimensions (B, P)")
        check_shape("block_table_BP", self.block_table_BP, (n_batch, self.block_table_BP.shape[1]), "B, P")
        check_shape("lengths_B", self.lengths_B, (n_batch,), "B")
        for name, tensor in (("block_table_BP", self.block_table_BP), ("lengths_B", self.lengths_B)):
            if tensor.dtype != torch.int32:
                raise ValueError(f"{name} is {tensor.dtype}; expected int32")

    def used_by(self, row: int, first: int, length: int) -> list[int]:
        """Return the pages of tokens `first` to `length` - 1 of a row; waits for the device.

        Raises ValueError where the length or one of the pages is out of range.
        """
        if not 0 <= length <= self.capacity:
            raise ValueError(f"lengths_B[{row}] is {length}; expected 0 to {self.capacity}, what the table holds")
        size = self.page_size
        used: list[int] = self.block_table_BP[row, first // size : (length + size - 1) // size].tolist()
        if used and not 0 <= min(used) <= max(used) < self.k_pages.shape[0]:
            raise ValueError(
                f"block_table_BP[{row}] has pages {min(used)} to {max(used)}; expected 0 to {self.k_pages.shape[0] - 1}"
            )
        return used

    def write(self, k_BTGD: Tensor, v_BTGD: Tensor) -> None:
        """Put the newest tokens of every row into their slots with torch operations."""
        n_tokens = k_BTGD.shape[1]
        place_BT = self.lengths_B[:, None] - n_tokens + torch.arange(n_tokens, dtype=torch.int32, device=self.lengths_B.device)
        row, token = (place_BT >= 0).nonzero(as_tuple=True)
        place = place_BT[row, token]
        page, slot = self.block_table_BP[row, place // self.page_size], place % self.page_size
        self.k_pages[page, slot] = k_BTGD[row, token]
        self.v_pages[page, slot] = v_BTGD[row, token]
