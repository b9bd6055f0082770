"""Terms of one matrix, of all tenants that have them, side by side in memory: one product adds each row's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from tilth.inference.tenants.weights import LowRankTerm, SignTerm, Term, WholeTerm
from tilth.kernels import linear, sign_matmul_grouped

Kind = tuple[str, int, int]
"""What lies in one stack: signs, low rank or whole, the rank, and which of a tenant's terms of this sort it is."""


@dataclass(frozen=True)
class Places:
    """Where the rows of a batch have their terms in a stack: of each its place, -1 where it has none (B,) int32.

    groups: every place with its rows (n,), or with None where they are all, however many tokens each has.
    """

    places_B: Tensor
    groups: list[tuple[int, Tensor | None]]

    @classmethod
    def of(cls, places: Sequence[int], device: torch.device) -> Places:
        """Made once for all steps of the same rows: grouping on a GPU would wait for it."""
        found = sorted(set(places) - {-1})
        rows = [[i for i, other in enumerate(places) if other == place] for place in found]
        groups = [
            (p, None if len(r) == len(places) else torch.tensor(r, device=device)) for p, r in zip(found, rows, strict=True)
        ]
        return cls(torch.tensor(places, dtype=torch.int32, device=device), groups)


class TermStack:
    """Terms of one kind in places 0, 1, ... of tensors that grow by a quarter when full. A freed place is used again.

    weight_NK is the base's matrix, which the terms are added to.
    """

    def __init__(self, weight_NK: Tensor) -> None:
        self._weight_NK = weight_NK
        self._place_of_slot: dict[int, int] = {}
        self._free: list[int] = []
        self._tensors: list[Tensor] = []

    def put(self, slot: int, term: Term) -> None:
        """Keep the term of the tenant of that slot."""
        parts = [part.to(self._weight_NK.device) for part in self._parts(term)]
        if not self._free:
            n_old = len(self._place_of_slot)
            capacity = n_old + n_old // 4 + 1
            bigger = [part.new_zeros(capacity, *part.shape) for part in parts]
            for new, old in zip(bigger, self._tensors, strict=False):
                new[:n_old] = old
            self._tensors, self._free = bigger, list(reversed(range(n_old, capacity)))
        self._place_of_slot[slot] = self._free.pop()
        for tensor, part in zip(self._tensors, parts, strict=True):
            tensor[self._place_of_slot[slot]] = part

    def drop(self, slot: int) -> None:
        """Free the place of that slot, if it has one."""
        if slot in self._place_of_slot:
            self._free.append(self._place_of_slot.pop(slot))

    def places(self, slots: Iterable[int]) -> tuple[int, ...]:
        """The place of each slot, -1 where it has none."""
        return tuple(self._place_of_slot.get(slot, -1) for slot in slots)

    @property
    def size_bytes(self) -> int:
        """Memory of all places, the free ones included."""
        return sum(tensor.nbytes for tensor in self._tensors)

    def add_to(self, y_MN: Tensor, x_MK: Tensor, places: Places) -> Tensor:
        """y plus the product of each row of x with the term at its place; M is B, or B times some tokens of one tenant.

        What is added to a row does not depend on the other rows.
        """
        raise NotImplementedError

    def _parts(self, term: Term) -> Sequence[Tensor]:
        raise NotImplementedError


class SignStack(TermStack):
    """Signs (E, P, N), with the scales of rows (E, N) and of columns (E, K); the scale of the whole is a part of the rows'."""

    def add_to(self, y_MN: Tensor, x_MK: Tensor, places: Places) -> Tensor:
        """One product with signs over all rows, whosever they are."""
        places_M = places.places_B.repeat_interleave(len(x_MK) // len(places.places_B))
        packed_EPN, row_scale_EN, column_scale_EK = self._tensors
        scales = {"row_scale_EN": row_scale_EN, "column_scale_EK": column_scale_EK}
        return sign_matmul_grouped(x_MK, packed_EPN, tenants_M=places_M, **scales, add_to_MN=y_MN)

    def _parts(self, term: Term) -> Sequence[Tensor]:
        term = cast(SignTerm, term)
        wide = torch.promote_types(self._weight_NK.dtype, torch.float32)
        row_scale_N, column_scale_K = (torch.ones(n, dtype=wide) for n in self._weight_NK.shape)
        for scale_N in (term.scale, term.row_scale_N):
            row_scale_N = row_scale_N if scale_N is None else row_scale_N.to(scale_N.device) * scale_N
        return term.signs_PN, row_scale_N, column_scale_K if term.column_scale_K is None else term.column_scale_K.to(wide)


class LowRankStack(TermStack):
    """Matrices of one rank: up (E, N, R) and down (E, R, K)."""

    def add_to(self, y_MN: Tensor, x_MK: Tensor, places: Places) -> Tensor:
        """Two products for each tenant, over its rows: a batched one would first copy its factors for each row."""
        up_ENR, down_ERK = self._tensors
        for place, rows in places.groups:
            added = linear(linear(x_MK if rows is None else x_MK[rows], down_ERK[place]), up_ENR[place])
            y_MN = y_MN + added if rows is None else y_MN.index_add(0, rows, added)
        return y_MN

    def _parts(self, term: Term) -> Sequence[Tensor]:
        term = cast(LowRankTerm, term)
        return [part.to(self._weight_NK.dtype) for part in (term.up_NR, term.down_RK)]


class WholeStack(TermStack):
    """Matrices (E, N, K) that stand in for the base's."""

    def add_to(self, y_MN: Tensor, x_MK: Tensor, places: Places) -> Tensor:
        """y, where it is not that of a tenant's own matrix: a product for each tenant, over its rows."""
        (weight_ENK,) = self._tensors
        for place, rows in places.groups:
            own = linear(x_MK if rows is None else x_MK[rows], weight_ENK[place])
            y_MN = own if rows is None else y_MN.index_copy(0, rows, own)
        return y_MN

    def _parts(self, term: Term) -> Sequence[Tensor]:
        return [cast(WholeTerm, term).weight_NK.to(self._weight_NK.dtype)]


def kinds(terms: Sequence[Term]) -> list[Kind]:
    """The kind of each term. Terms of a matrix are added in the order of their kinds, whoever was loaded first."""
    found: list[Kind] = []
    for term in terms:
        sort, rank = _SORTS[type(term)][0], term.down_RK.shape[0] if isinstance(term, LowRankTerm) else 0
        found.append((sort, rank, sum(kind[:2] == (sort, rank) for kind in found)))
    return found


def empty_stack(kind: Kind, weight_NK: Tensor) -> TermStack:
    """A stack for terms of that kind, added to weight_NK."""
    return next(stack for sort, stack in _SORTS.values() if sort == kind[0])(weight_NK)


_SORTS: dict[type[Term], tuple[str, type[TermStack]]] = {
    LowRankTerm: ("low rank", LowRankStack),
    SignTerm: ("signs", SignStack),
    WholeTerm: ("whole", WholeStack),
}
