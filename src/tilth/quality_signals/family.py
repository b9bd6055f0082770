"""What a family of signals is: its columns, what it must be handed, and the function that computes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

MAX_BYTES = 10 << 20  # of a text, unless a family says otherwise: with it all families together stay below 1 GB
ANY_SIZE = 1 << 62  # for families that do not read the text, or need no room for it


@dataclass(frozen=True)
class Undefined:
    """A signal's value where it has none; `reason` is a few words such as `no words`."""

    reason: str


@dataclass(frozen=True)
class BatchScores:
    """The columns of a family for a batch of documents.

    `columns` has an array for each column, with an item for each document; `undefined` tells by reason for which documents
    it holds (a boolean array), and covers each null.
    """

    columns: Mapping[str, pa.Array]
    undefined: Mapping[str, npt.NDArray[np.bool_]] = field(default_factory=dict)


@dataclass(frozen=True)
class Resource:
    """Data that a family is handed as bytes, such as a word list.

    `load` turns the bytes into what the family takes, and raises SourceError for bytes that are something else;
    `default` gives the bytes for callers who bring none.
    """

    load: Callable[[bytes], Any]
    default: Callable[[], bytes] | None = None


@dataclass(frozen=True)
class SignalFamily:
    """Signals that are computed and stored together.

    `compute(view)` maps one document (a TextView) to a value for every column; where `takes_batch`, `compute(batch)` maps
    many (a TextBatch) to BatchScores. A family with a model takes it as the second argument, and each resource under
    its name: `compute(view, model, stop_words=...)`. `load_model` turns the model's bytes into what `compute` takes.
    `needs` names columns of documents/1 beyond the text, which are in `view.fields` or `batch.fields`. A text of more than
    `max_bytes` (UTF-8) is undefined: what a family needs for any such text, with the text itself, stays below 1 GB.
    """

    name: str
    version: int
    columns: Mapping[str, pa.DataType]
    libraries: tuple[str, ...]
    compute: Callable[..., Any]
    load_model: Callable[[bytes], Any] | None = None
    needs: tuple[str, ...] = ()
    resources: Mapping[str, Resource] = field(default_factory=dict)
    takes_batch: bool = False
    max_bytes: int = MAX_BYTES

    @property
    def needs_model(self) -> bool:
        """True where `compute_family` must be given a trained model."""
        return self.load_model is not None

    @property
    def needs_resources(self) -> tuple[str, ...]:
        """The resources that `compute_family` must be given, since they have no default."""
        return tuple(name for name, resource in self.resources.items() if resource.default is None)

    def renamed(self, name: str) -> SignalFamily:
        """The family under another name, which takes the place of its own at the start of its columns: `quality_score`."""
        if name == self.name:
            return self
        names = {column: column.replace(self.name, name, 1) for column in self.columns}

        def compute(documents: Any, *arguments: Any, **resources: Any) -> Any:
            found = self.compute(documents, *arguments, **resources)
            if not self.takes_batch:
                return {names[column]: value for column, value in found.items()}
            return replace(found, columns={names[column]: values for column, values in found.columns.items()})

        return replace(self, name=name, columns={names[column]: kind for column, kind in self.columns.items()}, compute=compute)
