"""ARFF, the tables of Weka: the names of the columns stand before the rows, which are CSV.

Source: Weka, "ARFF (stable version)". Sparse rows are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from tilth.corpus.formats.compressed import Gap
from tilth.corpus.formats.content import Cut, lines

MAX_LINE_BYTES = 32 << 20
_ATTRIBUTE = re.compile(rb"\s*@attribute\s+(?:'([^']*)'|\"([^\"]*)\"|(\S+))", re.IGNORECASE)
_DATA = re.compile(rb"\s*@data\b", re.IGNORECASE)


def arff_rows(parts: Iterable[bytes | Gap], names: list[str]) -> Iterator[bytes | Gap]:
    """The rows as CSV, with a blank line for each line that is none, so that rows keep their numbers.

    `names` is filled with the columns before the first row comes.
    """
    is_data = False
    for line in lines(parts, MAX_LINE_BYTES):
        if isinstance(line, Cut):
            yield Gap(line.offset, line.reason, line.detail)
            continue
        data = line.data or b""
        is_row = is_data and not data.lstrip().startswith(b"%")
        if not is_data:
            is_data = _DATA.match(data) is not None
            if attribute := _ATTRIBUTE.match(data):
                names.append(next(name for name in attribute.groups() if name is not None).decode("utf-8", "surrogateescape"))
        yield data + b"\n" if is_row else b"\n"
