"""Secrets and addresses in source code: how many a file has and of what kind, and their redaction as edits.

What counts as one is told in `tilth.quality_signals.secrets`; the family `pii` is for prose, with telephone numbers and places.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from tilth.quality_signals.edits import edit_table
from tilth.quality_signals.family import ANY_SIZE
from tilth.quality_signals.fused.columns import whole_numbers
from tilth.quality_signals.fused.text_batch import TextBatch
from tilth.quality_signals.registry import BatchScores, batch_signal

if TYPE_CHECKING:
    from tilth.quality_signals.secrets.judge import Finding

PLACEHOLDERS = {"email": "<EMAIL>", "key": "<KEY>", "password": "<PASSWORD>", "ip_address": "<IP_ADDRESS>"}
_NAMES = pa.list_(pa.string())


@batch_signal(
    "secrets",
    version=1,
    columns={
        "n_secrets": pa.int64(),
        "n_certain_secrets": pa.int64(),
        "n_emails": pa.int64(),
        "n_ip_addresses": pa.int64(),
        "kinds_of_secrets": _NAMES,
    },
    max_bytes=ANY_SIZE,
)
def secrets(batch: TextBatch) -> BatchScores:
    """Keys and passwords, those whose checksum or inner form holds, e-mail addresses, public IP addresses; formats sorted."""
    from tilth.quality_signals.secrets.judge import find_secrets

    found = list(find_secrets(batch))
    hidden = [[one for one in items if one.kind in ("key", "password")] for items in found]
    counts = {
        "n_secrets": [len(items) for items in hidden],
        "n_certain_secrets": [sum(one.is_certain for one in items) for items in hidden],
        "n_emails": [sum(one.kind == "email" for one in items) for items in found],
        "n_ip_addresses": [sum(one.kind == "ip_address" for one in items) for items in found],
    }
    kinds = pa.array([sorted({one.what for one in items}) for items in hidden], _NAMES)
    return BatchScores({**{name: whole_numbers(np.array(values)) for name, values in counts.items()}, "kinds_of_secrets": kinds})


def redactions(texts: pa.Array, placeholders: Mapping[str, str] = PLACEHOLDERS) -> pa.Table:
    """Redaction of texts as edits (see `edits.EDITS`): row, start, end, placeholder, reason (`secret_` and the format or rule).

    Kinds that `placeholders` lacks stay.
    """
    from tilth.quality_signals.secrets.judge import find_secrets

    batch = TextBatch(texts)
    return edit_table(
        (row, start, end, placeholders[one.kind], _reason(one))
        for row, items in enumerate(find_secrets(batch))
        for one, start, end in _in_characters(batch, row, items)
        if one.kind in placeholders
    )


def _reason(one: Finding) -> str:
    return one.what if one.kind == "email" or one.kind == "ip_address" else f"secret_{one.what}"


def _in_characters(batch: TextBatch, row: int, items: Sequence[Finding]) -> Iterator[tuple[Finding, int, int]]:
    """Each finding with its start and end in characters; a character has one byte that goes on no other."""
    if not items:
        return
    first = int(batch.offsets[row])
    n_chars, done = 0, 0
    for one in items:
        places = []
        for place in (one.start, one.end):
            n_chars += int(np.count_nonzero((batch.data[first + done : first + place] & 0xC0) != 0x80))
            places.append(n_chars)
            done = place
        yield one, places[0], places[1]
