"""Which code signs texts for a search: Tilth's own, on the device that is asked for, or RedPajama-V2's for its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pyarrow as pa

from tilth.dedup.minhash.parameters import MinHashParameters
from tilth.pipeline.sketch_device import sketches_on_device

if TYPE_CHECKING:
    from tilth.dedup.minhash.signatures import Signed

Signer = Callable[[pa.Array, pa.Array], "Signed"]  # ids, texts -> signatures


def signer_of(near: MinHashParameters) -> Signer:
    """What signs batches of ids and texts as `near` wants. Raises BackendError for a device that is not there."""
    from tilth.dedup.minhash.signatures import sign
    from tilth.pipeline.interchange.redpajama_v2_minhash import RedPajamaMinHash, sign_texts

    if isinstance(near, RedPajamaMinHash):
        return lambda ids, texts: sign_texts(ids, texts, near)
    compute = sketches_on_device() if near.definition == "tilth" else None  # others have minima of their own
    return lambda ids, texts: sign(ids, texts, near, compute)
