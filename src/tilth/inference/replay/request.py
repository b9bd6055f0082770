"""One request of a trace: when it came, what it read, what was written."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]

ROOT = "base"


@dataclass(frozen=True, eq=False)
class TraceRequest:
    """arrival: seconds from the beginning of the trace. input_N and output_M are token ids, int32; the input is never empty.

    Only whether ids are equal matters here: they need not be of any vocabulary. root separates what may never be shared.
    """

    arrival: float
    input_N: Tokens
    output_M: Tokens
    root: Hashable = ROOT

    @property
    def n_tokens(self) -> int:
        """Tokens read and written."""
        return len(self.input_N) + len(self.output_M)

    def all_tokens(self) -> Tokens:
        """Input, then output."""
        return np.concatenate([self.input_N, self.output_M])
