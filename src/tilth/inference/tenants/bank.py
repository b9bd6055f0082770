"""The fine-tunes that are served over one base, and passes of the decoder in which each row is that of its own tenant."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from tilth.errors import DeltaError, NotFoundError, did_you_mean
from tilth.inference.tenants.fit import check_fit
from tilth.inference.tenants.one_pass import Embedding, Head, Product, Replacement, refuse_loss, replaced
from tilth.inference.tenants.stacks import Kind, Places, TermStack, empty_stack, kinds
from tilth.inference.tenants.weights import ChangedRows, TenantWeights
from tilth.models.decoder import Decoder
from tilth.models.linear import Linear

BASE = -1
"""The slot of rows that are the base's own."""
TABLES = ("embedding.weight", "head.weight")


class TenantBank:
    """Loaded tenants, each in a slot; those of any kinds of terms may share a batch.

    Inside `with bank.rows(tenants_B)` the model's matrices make one product for all rows and add to each row the terms of
    its tenant; vectors, rows of the embedding and columns of the head are each row's own. Outside, the model is the base.
    Not for several threads at once. Raises RecipeError for a model that keeps no states.
    """

    def __init__(self, model: Decoder, base_digest: str) -> None:
        model.empty_states(1)
        self.model, self.base_digest = model, base_digest
        blocks = model.blocks.named_modules(prefix="blocks")
        self._linears = {f"{name}.weight": module for name, module in blocks if isinstance(module, Linear)}
        named = {name: value for name, value in model.named_parameters() if not name.startswith("classes.")}
        self._tables = {name: value for name, value in named.items() if name in TABLES}
        self._vectors = {name: value for name, value in named.items() if name not in self._linears and name not in TABLES}
        self._slots: dict[str, int] = {}
        self._loaded = {BASE: TenantWeights(base_digest)}
        self._stacks: dict[str, dict[Kind, TermStack]] = {name: {} for name in self._linears}
        self._last: tuple[tuple[int, ...], list[Replacement]] = ((), [])

    def load(self, name: str, weights: TenantWeights) -> None:
        """Give the tenant a slot. Raises DeltaError for a name that is loaded, or weights that do not fit the base."""
        if name in self._slots:
            raise DeltaError(f"tenant {name} is loaded already", where=name, fix="Unload it first.")
        matrices: dict[str, Tensor] = {matrix: module.weight for matrix, module in self._linears.items()}
        check_fit(weights, matrices, self._tables, self._vectors)
        slot = next(number for number in itertools.count() if number not in self._loaded)
        # tensors made in inference mode could not be written to outside of it, by the next load
        with torch.inference_mode(False), torch.no_grad():
            try:
                for matrix, terms in weights.products.items():
                    for kind, term in zip(kinds(terms), terms, strict=True):
                        stack = self._stacks[matrix].setdefault(kind, empty_stack(kind, matrices[matrix]))
                        stack.put(slot, term)
                self._loaded[slot] = self._without_products(weights)
            except BaseException:  # such as too little memory: what there was room for is given back
                self._drop_products(slot)
                raise
        self._slots[name] = slot
        self._last = ((), [])

    def unload(self, name: str) -> None:
        """Free the tenant's slot, which another may get. Raises NotFoundError for a name that is not loaded."""
        slot = self.slot(name)
        self._drop_products(slot)
        del self._slots[name], self._loaded[slot]
        self._last = ((), [])

    def slot(self, name: str | None) -> int:
        """The number that the tenant's rows have in `rows`: -1 for None, the base. Raises NotFoundError for an unknown name."""
        if name is None:
            return BASE
        if name not in self._slots:
            raise NotFoundError(f"no tenant is called {name}", where="tenant", fix=did_you_mean(name, self._slots))
        return self._slots[name]

    def digest(self, name: str | None) -> str:
        """What tells the tenant's weights from all others: the base's digest for None."""
        return self._loaded[self.slot(name)].digest

    @property
    def size_bytes(self) -> int:
        """Memory of what all tenants change, the room for more that the stacks have included."""
        stacked = sum(stack.size_bytes for stacks in self._stacks.values() for stack in stacks.values())
        return stacked + sum(_whole_bytes(weights) for weights in self._loaded.values())

    @contextmanager
    def rows(self, tenants_B: Tensor) -> Iterator[None]:
        """Make row i of a batch the fine-tune in slot tenants_B[i] (int), the base where it is -1.

        Rows of several tenants read one token at a time; those of one may read any number. No gradient flows to the
        tenants. Raises ValueError for a slot that is not loaded, and inside another `rows`.
        """
        slots = tuple(tenants_B.tolist())
        if "predict" in vars(self.model):
            raise ValueError("bank.rows was called inside bank.rows")
        if slots != self._last[0]:
            with torch.inference_mode(False), torch.no_grad():
                self._last = slots, self._replacements(slots)
        with replaced(self._last[1]):
            yield

    def _replacements(self, slots: Sequence[int]) -> list[Replacement]:
        """All that the model computes with, in a pass of these rows, instead of what it holds."""
        if unknown := set(slots) - set(self._loaded):
            raise ValueError(f"no tenant is loaded in slot {min(unknown)}")
        if set(slots) <= {BASE}:
            return []
        return [*self._vectors_of(slots), *self._products_of(slots), *self._tables_of(slots)]

    def _vectors_of(self, slots: Sequence[int]) -> Iterator[Replacement]:
        """The vectors of each module that a tenant changed: of each row (B, ...), or of the one tenant there is."""
        changed = {name.rpartition(".")[0] for slot in set(slots) for name in self._loaded[slot].vectors}
        for name, value in self._vectors.items():
            module, _, own_name = name.rpartition(".")
            if module in changed:
                values = [self._loaded[slot].vectors.get(name, value) for slot in slots]
                yield self.model.get_submodule(module), own_name, torch.stack(values) if len(set(slots)) > 1 else values[0]

    def _products_of(self, slots: Sequence[int]) -> Iterator[Replacement]:
        made: dict[tuple[int, ...], Places] = {}  # most matrices have the same tenants in the same places
        for name, linear in self._linears.items():
            found = []
            for _, stack in sorted(self._stacks[name].items()):
                places = stack.places(slots)
                if max(places) >= 0:
                    if places not in made:
                        made[places] = Places.of(places, linear.weight.device)
                    found.append((stack, made[places]))
            if found:
                yield linear, "forward", Product(linear.weight, found)

    def _tables_of(self, slots: Sequence[int]) -> Iterator[Replacement]:
        embedding, head = self.model.embedding, TABLES[0 if self.model.head is None else 1]
        changed = self._changed_rows(slots, TABLES[0])
        yield embedding, "forward", Embedding(embedding.weight, len(slots), len(set(slots)) > 1, changed)
        yield self.model, "predict", Head(self.model, self._changed_rows(slots, head, self.model.config.vocab_size))
        yield self.model, "loss", refuse_loss

    def _drop_products(self, slot: int) -> None:
        for stacks in self._stacks.values():
            for stack in stacks.values():
                stack.drop(slot)

    def _changed_rows(self, slots: Sequence[int], name: str, n_rows: int | None = None) -> list[tuple[Tensor, ChangedRows]]:
        """The rows of the batch of each tenant that changed the table, and what it changed of the table's first n_rows."""
        found = []
        for slot in sorted(set(slots)):
            table = self._loaded[slot].tables.get(name)
            if table is not None and len(table.rows_R):
                n_changed = len(table.rows_R) if n_rows is None else int((table.rows_R < n_rows).sum())
                rows = torch.tensor([i for i, other in enumerate(slots) if other == slot], device=table.rows_R.device)
                found.append((rows, ChangedRows(table.rows_R[:n_changed], table.values_RD[:n_changed])))
        return found

    def _without_products(self, weights: TenantWeights) -> TenantWeights:
        """The tables and vectors in the base's types, where the base is."""
        tables = {
            name: ChangedRows(table.rows_R.to(self._tables[name].device), table.values_RD.to(self._tables[name]))
            for name, table in weights.tables.items()
        }
        vectors = {name: value.to(self._vectors[name]) for name, value in weights.vectors.items()}
        return dataclasses.replace(weights, products={}, tables=tables, vectors=vectors)


def _whole_bytes(weights: TenantWeights) -> int:
    tables = sum(table.rows_R.nbytes + table.values_RD.nbytes for table in weights.tables.values())
    return tables + sum(value.nbytes for value in weights.vectors.values())
