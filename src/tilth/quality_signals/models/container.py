"""How a trained model is kept: a line that names its kind, a line of JSON that says what it was made of, then the model."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tilth.errors import SourceError


@dataclass(frozen=True)
class Container:
    """One kind of model; `kind` reads well after an article, `trained_by` is the function that makes such bytes."""

    kind: str
    trained_by: str

    def pack(self, header: dict[str, Any], *parts: bytes | memoryview) -> bytes:
        """The bytes of a model: what it was made of, then its `parts`."""
        return b"".join([self._first_line, json.dumps(header, sort_keys=True).encode(), b"\n", *parts])

    def split(self, model: bytes) -> tuple[dict[str, Any], memoryview]:
        """Header and payload. Raises SourceError if the bytes are something else, or are cut within the header."""
        start = len(self._first_line)
        end = model.find(b"\n", start)
        if not model.startswith(self._first_line) or end < 0:
            raise SourceError(f"these bytes are not {self.kind}", fix=f"make one with `{self.trained_by}`")
        return json.loads(model[start:end]), memoryview(model)[end + 1 :]

    @property
    def _first_line(self) -> bytes:
        return f"tilth {self.kind.split(maxsplit=1)[1]} 1\n".encode()


def kind_of(model: bytes) -> str:
    """`quality model`, `importance model`, `language model`, `language identifier`; empty for other bytes."""
    match = re.match(rb"tilth ([a-z ]{1,40}) 1\n", model)
    return match[1].decode() if match else ""
