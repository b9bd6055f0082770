"""Which keys each query sees, as one interval a query: what the fast paths skip and mask by.

Every mask that attention takes - causal, a window, packed documents, queries that are the last rows of longer keys -
lets a query see one run of keys, and both ends of the run only move forward from query to query. So a block of queries
sees what lies between the first key of its first row and the last key of its last row, all its rows see what lies
between the first key of its last row and the last key of its first row, and the same holds the other way round for the
queries that see a block of keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor


class Mask(NamedTuple):
    """What limits the keys that a query sees.

    A query sees from `left` keys before its own place to `right` keys after it, -1 for no limit (causal is right = 0),
    and only keys of its document. Documents come from `segments_BT` (int32, an id for each key; the queries are the
    last rows of the keys, and a change of id begins a new document) or from `cu_seqlens_q` and `cu_seqlens_k` (int32,
    where each document begins among the queries and among the keys, and the end), or all is one document. The last
    query of a document has the place of its last key.
    """

    left: int = -1
    right: int = -1
    segments_BT: Tensor | None = None
    cu_seqlens_q: Tensor | None = None
    cu_seqlens_k: Tensor | None = None

    @property
    def has_documents(self) -> bool:
        """Whether the tokens are packed documents."""
        return self.segments_BT is not None or self.cu_seqlens_q is not None

    def without_idle_limits(self, n_queries: int, n_keys: int) -> Mask:
        """Drop the limits that no query of so few tokens reaches."""
        left = -1 if self.left >= n_keys - 1 else self.left
        right = -1 if self.right >= n_queries - 1 else self.right
        return self._replace(left=left, right=right)


@dataclass(frozen=True)
class Visible:
    """The keys that each query sees and the queries that see each key: int32, both ends included, empty where last < first.

    All four never fall along their last dimension, in empty intervals too. The first dimension is B, or 1 for all rows.
    """

    first_key_BT: Tensor  # (B or 1, Tq)
    last_key_BT: Tensor
    n_keys: int

    @classmethod
    def under(cls, mask: Mask, n_queries: int, n_keys: int, device: torch.device) -> Visible:
        """Return what `mask` leaves visible of `n_keys` keys to `n_queries` queries."""
        place_BT, start_BT, end_BT = _documents(mask, n_queries, n_keys, device)
        first_BT = start_BT if mask.left < 0 else torch.maximum(start_BT, place_BT - mask.left)
        last_BT = end_BT - 1 if mask.right < 0 else torch.minimum(end_BT - 1, place_BT + mask.right)
        # A query that lies before every key of its document sees none, but must not fall behind the document before.
        last_BT = torch.maximum(last_BT, start_BT - 1)
        return cls(first_BT.contiguous(), last_BT.contiguous(), n_keys)

    @cached_property
    def first_query_BS(self) -> Tensor:  # noqa: N802
        """(B or 1, Tk): the first query whose last key is not before this one."""
        return torch.searchsorted(self.last_key_BT, self._keys_BS, out_int32=True)

    @cached_property
    def last_query_BS(self) -> Tensor:  # noqa: N802
        """(B or 1, Tk): the last query whose first key is not after this one."""
        return torch.searchsorted(self.first_key_BT, self._keys_BS, out_int32=True, right=True) - 1

    @cached_property
    def _keys_BS(self) -> Tensor:  # noqa: N802
        keys_S = torch.arange(self.n_keys, dtype=torch.int32, device=self.first_key_BT.device)
        return keys_S.expand(self.first_key_BT.shape[0], -1).contiguous()

    @property
    def n_pairs(self) -> int:
        """The pairs of a query and a key that it sees, in all rows of these bounds; waits for the device."""
        return int((self.last_key_BT - self.first_key_BT + 1).sum(dtype=torch.int64))


def _documents(mask: Mask, n_queries: int, n_keys: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the place of each query among the keys, and where its document's keys start and end (end excluded)."""
    query_1T = torch.arange(n_queries, dtype=torch.int32, device=device).unsqueeze(0)
    if mask.cu_seqlens_q is not None:
        cu_q, cu_k = mask.cu_seqlens_q, mask.cu_seqlens_k if mask.cu_seqlens_k is not None else mask.cu_seqlens_q
        # Right: of several documents that begin at this query, all but the last are empty.
        document_1T = torch.searchsorted(cu_q[1:].contiguous(), query_1T, right=True).clamp_(max=max(len(cu_q) - 2, 0))
        start_1T, end_1T = cu_k[document_1T], cu_k[document_1T + 1]
        return query_1T + (end_1T - cu_q[document_1T + 1]), start_1T, end_1T
    place_1T = query_1T + (n_keys - n_queries)
    if mask.segments_BT is None:
        return place_1T, torch.zeros_like(query_1T), torch.full_like(query_1T, n_keys)
    start_BS, end_BS = bounds_of_segments(mask.segments_BT)
    kept = slice(n_keys - n_queries, None)
    return place_1T, start_BS[:, kept], end_BS[:, kept]


def bounds_of_segments(segments_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return where the document of each token starts and ends (end excluded), int32 as `segments_BT` (B, T)."""
    n_tokens = segments_BT.shape[1]
    token_T = torch.arange(n_tokens, dtype=torch.int32, device=segments_BT.device)
    changes_BT = torch.ones_like(segments_BT, dtype=torch.bool)
    changes_BT[:, 1:] = segments_BT[:, 1:] != segments_BT[:, :-1]
    start_BT = torch.where(changes_BT, token_T, 0).cummax(dim=1).values
    is_last_BT = changes_BT.roll(-1, dims=1)  # the first token is a change too, so the last one is a last
    end_BT = torch.where(is_last_BT, token_T + 1, n_tokens).flip(1).cummin(dim=1).values.flip(1)
    return start_BT, end_BT
