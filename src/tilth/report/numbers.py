"""Numbers as people read them: thousands separated, three figures where more would be noise."""

from __future__ import annotations

import math


def number(value: float | int | bool | None) -> str:
    """`12,345`, `0.0123`, `1.5`; a dash for what is not known."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    if isinstance(value, int) or float(value).is_integer():
        return f"{int(value):,}"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    if abs(value) >= 100:
        return f"{value:.1f}"
    return f"{value:.3g}" if abs(value) < 10 else f"{value:.4g}"


def size(n_bytes: float | int | None) -> str:
    """`1.9 MB`, in powers of 1,000."""
    if n_bytes is None:
        return "–"
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:,.3g} TB"


def share(part: float | int | None, whole: float | int | None) -> str:
    """`12.3 %` of the whole; a dash where there is no whole."""
    if part is None or not whole:
        return "–"
    percent = 100 * part / whole
    return f"{percent:.0f} %" if percent in (0, 100) else f"{percent:.1f} %"


def seconds(value: float | int | None) -> str:
    """`4 ms`, `0.42 s`, `12.3 s`, `4 min 05 s`, `2 h 10 min`."""
    if value is None:
        return "–"
    if value < 0.1:
        return f"{value * 1000:.0f} ms"
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
