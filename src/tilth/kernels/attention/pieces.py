"""How the CPU path cuts attention: runs of queries, each with the run of keys that they see and the mask between them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from tilth.kernels.attention.visible import Mask, Visible

# A call of its own costs as much as some thousand scores of a head: shorter documents share one, under a mask.
FEWEST_ROWS = 64
MOST_ROWS = 256


class Piece(NamedTuple):
    """Some queries of some rows of the batch, and all keys that they see (none where the slice is empty)."""

    rows: slice
    queries: slice
    keys: slice
    is_causal: bool  # query i of the piece sees its keys 0 to i; otherwise all of them but the hidden ones
    hidden: Tensor | None  # (queries, keys), True where a query does not see a key


def cut(mask: Mask, n_queries: int, n_keys: int, device: torch.device, most_rows: int | None = None) -> list[Piece]:
    """Return pieces that cover every query once; with `most_rows` none has more queries, and none counts as causal."""
    visible = Visible.under(mask, n_queries, n_keys, device)
    firsts, lasts = visible.first_key_BT.tolist(), visible.last_key_BT.tolist()
    is_shared = mask.segments_BT is None
    pieces = []
    for row, (first, last) in enumerate(zip(firsts, lasts, strict=True)):
        rows = slice(None) if is_shared else slice(row, row + 1)
        for start, end in _runs(_document_starts(mask, row, n_queries, n_keys), n_queries):
            whole = _piece(rows, first, last, start, end)
            if most_rows is None and whole.hidden is None:
                pieces.append(whole)
                continue
            step = most_rows or max(FEWEST_ROWS, min(MOST_ROWS, mask.left if mask.left >= 0 else MOST_ROWS))
            pieces += [
                _piece(rows, first, last, at, min(at + step, end), may_be_causal=most_rows is None)
                for at in range(start, end, step)
            ]
    return pieces


def _document_starts(mask: Mask, row: int, n_queries: int, n_keys: int) -> list[int]:
    if mask.cu_seqlens_q is not None:
        return sorted({start for start in mask.cu_seqlens_q.tolist() if start < n_queries})
    if mask.segments_BT is None:
        return [0] if n_queries else []
    ids_T = mask.segments_BT[row, n_keys - n_queries :]
    return [0, *((ids_T[1:] != ids_T[:-1]).nonzero().flatten() + 1).tolist()] if n_queries else []


def _runs(starts: list[int], n_queries: int) -> Iterator[tuple[int, int]]:
    """Join neighbouring documents that have few rows together."""
    begin = 0
    for start, end in zip(starts, [*starts[1:], n_queries], strict=True):
        if end - begin > FEWEST_ROWS and start > begin:
            yield begin, start
            begin = start
    if starts:
        yield begin, n_queries


def _piece(rows: slice, first: list[int], last: list[int], start: int, end: int, may_be_causal: bool = True) -> Piece:
    low, high = first[start], last[end - 1]
    queries, keys = slice(start, end), slice(low, max(low, high + 1))
    is_whole = first[end - 1] == low and last[start] == high
    # The ends of a document's intervals rise by at most one a query: from the first key to the last means by one.
    rises = first[end - 1] == low and last[start] == low and high - low == end - start - 1
    if is_whole or high < low:
        return Piece(rows, queries, keys, False, None)
    if rises and may_be_causal and _is_steady(last, start, end):
        return Piece(rows, queries, keys, True, None)
    key_S = torch.arange(low, high + 1)
    first_T, last_T = torch.tensor(first[start:end]), torch.tensor(last[start:end])
    return Piece(rows, queries, keys, False, (key_S < first_T[:, None]) | (key_S > last_T[:, None]))


def _is_steady(last: list[int], start: int, end: int) -> bool:
    return last[start:end] == list(range(last[start], last[start] + end - start))
