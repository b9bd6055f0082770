"""Sizes as people write them: `500MB`, `2GiB`, or a number of bytes."""

from __future__ import annotations

import re
from typing import Any

import click

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kMGT]?)(i?)B?", re.IGNORECASE)
_MOST = 2**60
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


class ByteSize(click.ParamType):
    """Bytes of a size in words; kB, MB, GB and TB are powers of 1000, KiB and so on of 1024."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """As click calls it."""
        if isinstance(value, int):
            return value
        found = _SIZE.fullmatch(str(value).strip())
        if not found:
            self.fail(f"`{value}` is no size; write 500MB, 5GB or 2GiB", param, ctx)
        number, unit, is_binary = found.groups()
        n_bytes = float(number) * (1024 if is_binary else 1000) ** _POWERS[unit.lower()]
        if n_bytes > _MOST:
            self.fail(f"`{value}` is more than any machine has", param, ctx)
        return int(n_bytes)
