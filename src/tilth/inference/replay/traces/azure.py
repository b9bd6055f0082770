"""Azure's traces of LLM inference (2023: Splitwise, ISCA'24; 2024: DynamoLLM, HPCA'25): times and lengths, nothing else.

TIMESTAMP,ContextTokens,GeneratedTokens. No prefix is known, so nothing can be shared: every hit rate is zero by construction,
and what such a trace tells is how long requests wait, and what a cache costs where it cannot help.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from tilth.inference.replay.request import TraceRequest
from tilth.inference.replay.traces.lines import Line

FIELDS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


def read(path: Path) -> Iterator[TraceRequest]:
    """The requests in the order of the file; request k begins with token k, so that no two share their first token.

    Raises UserError with the number of a bad line.
    """
    first: datetime | None = None
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        rows = csv.DictReader(file)
        for k, row in enumerate(rows):
            line = Line(path, rows.line_num, {name: _value(text) for name, text in row.items() if name is not None})
            at = _time(line)
            first = first or at
            input_N = np.zeros(line.count_of("ContextTokens", minimum=1), dtype=np.int32)
            input_N[0] = k
            output_M = np.zeros(line.count_of("GeneratedTokens"), dtype=np.int32)
            yield TraceRequest(max(0.0, (at - first).total_seconds()), input_N, output_M)


def _value(text: Any) -> Any:
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() else text


def _time(line: Line) -> datetime:
    """Of `2023-11-16 18:17:03.9799600`, also with a zone: Python keeps six digits of a second."""
    text = line.fields.get("TIMESTAMP")
    try:
        return datetime.fromisoformat(str(text)).replace(tzinfo=None)
    except ValueError:
        line.refuse(f"`TIMESTAMP` is {text!r}, not a time such as `2023-11-16 18:17:03.97`")
