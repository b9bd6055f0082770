"""Parameters of each row: channels know nothing of each other, so rows become channels and no kernel has to know of them."""

from __future__ import annotations

from torch import Tensor


def rows_as_channels(values: Tensor) -> Tensor:
    """Return (B, ..., C) as (..., B * C); a view where there is one token of each row."""
    return values.movedim(0, -2).flatten(-2)


def channels_as_rows(values: Tensor, n_rows: int) -> Tensor:
    """Return (..., B * C) as (B, ..., C), a view: the inverse of `rows_as_channels`."""
    return values.unflatten(-1, (n_rows, -1)).movedim(-2, 0)


def refuse(**others: object) -> None:
    """Raise ValueError for an argument that does not go with parameters of each row."""
    given = [name for name, value in others.items() if value is not None and value is not False]
    if given:
        raise ValueError(f"{given[0]} was given; it does not go with parameters of each row")
