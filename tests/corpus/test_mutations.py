"""Changed bytes, cuts, insertions, deletions and repetitions anywhere: no exception, and only what they touch is lost.

Each form is a file of units (lines, pages, rows, papers), packed some to a member. A unit is safe where the change lies
in another member and not beside it: its text must come out. The seeds are few here; a longer run takes more of them.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import random
import tarfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth.corpus.records import Document, Reject
from tilth.corpus.sources.arxiv import ArxivSource
from tilth.corpus.sources.hugging_face import HuggingFaceDataset
from tilth.corpus.sources.json_lines import JsonLines
from tilth.corpus.sources.mediawiki import MediaWikiDump
from tilth.corpus.sources.parquet_files import ParquetFiles
from tilth.corpus.sources.stackexchange import StackExchange
from tilth.errors import SourceError

SEEDS = range(4)
KINDS = ("flip", "set", "cut", "insert", "drop", "zero", "repeat", "swap")


def mutated(data: bytes, kind: str, at: int, n_bytes: int, chance: random.Random) -> tuple[bytes, int]:
    """(the changed bytes, where in the old ones the change ends)."""
    end = min(len(data), at + n_bytes)
    match kind:
        case "flip":
            return data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :], at + 1
        case "set":
            return data[:at] + chance.randbytes(end - at) + data[end:], end
        case "cut":
            return data[:at], len(data)
        case "insert":
            return data[:at] + chance.randbytes(n_bytes) + data[at:], at
        case "drop":
            return data[:at] + data[end:], end
        case "zero":
            return data[:at] + bytes(end - at) + data[end:], end
        case "swap":
            return data[:at] + data[end : end + n_bytes] + data[at:end] + data[end + n_bytes :], min(len(data), end + n_bytes)
    return data[:end] + data[at:], end


class Form(NamedTuple):
    """A kind of file: its name, who reads it, its units, how some of them are packed, what is before and behind them."""

    name: str
    source: Callable[..., Any]
    units: Callable[[], list[bytes]]
    pack: Callable[[bytes], bytes]
    head: bytes = b""
    tail: bytes = b""


def zstd(data: bytes) -> bytes:
    from backports import zstd

    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


def lz4(data: bytes) -> bytes:
    import lz4.frame

    return lz4.frame.compress(data, content_checksum=True)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes, ".gz": lambda data: gzip.compress(data, mtime=0), ".bz2": lambda data: bz2.compress(data, 1),
    ".xz": lzma.compress, ".zst": zstd, ".lz4": lz4,
}  # fmt: skip
WORDS = [f"w{i * 7919 % 1000}" for i in range(400)]


def sentence(i: int) -> str:
    chance = random.Random(i)
    return f"unit{i:04d} " + " ".join(chance.choices(WORDS, k=chance.randrange(3, 60))) + " é😀."


def json_units() -> list[bytes]:
    return [json.dumps({"text": sentence(i), "id": str(i)}, ensure_ascii=False).encode() + b"\n" for i in range(120)]


def page_units() -> list[bytes]:
    page = (
        "<page><title>T{0}</title><ns>0</ns><id>{0}</id><revision><id>{0}</id><text>'''{1}''' [[a|b]]</text></revision></page>\n"
    )
    return [page.format(i, sentence(i)).encode() for i in range(120)]


def post_units() -> list[bytes]:
    row = '<row Id="{0}" PostTypeId="1" Score="3" CreationDate="2020-01-01" Title="t{0}" Body="&lt;p&gt;{1}&lt;/p&gt;" />\n'
    return [row.format(i, sentence(i)).encode() for i in range(1, 121)]


def paper_units() -> list[bytes]:
    units = []
    for i in range(40):
        paper = gzip.compress(
            b"\\documentclass{a}\\begin{document}\\section{A} %b\\end{document}" % sentence(i).encode(), mtime=0
        )
        info = tarfile.TarInfo(f"1501/1501.{i:05d}.gz")
        info.size = len(paper)
        units.append(info.tobuf(tarfile.USTAR_FORMAT) + paper + bytes(-len(paper) % 512))
    return units


def tar_folder() -> bytes:
    info = tarfile.TarInfo("1501/")
    info.type = tarfile.DIRTYPE
    return info.tobuf(tarfile.USTAR_FORMAT)


HEAD = b"<mediawiki><siteinfo><base>https://en.wikipedia.org/wiki/M</base></siteinfo>\n"
FORMS = [
    Form(f"{stem}{end}", source, units, pack, head, tail)
    for stem, source, units, head, tail in (
        ("a.jsonl", JsonLines, json_units, b"", b""),
        ("a.xml", MediaWikiDump, page_units, HEAD, b"</mediawiki>"),
        ("Posts.xml", StackExchange, post_units, b"<posts>\n", b"</posts>"),
    )
    for end, pack in PACKERS.items()
]  # fmt: skip
FORMS.append(Form("arXiv_src_1501_001.tar", ArxivSource, paper_units, bytes, tar_folder(), bytes(1024)))


def built(form: Form) -> tuple[bytes, list[tuple[str, int, int]]]:
    """The file, and for each unit its text's first word and where the member lies that it is in."""
    data = form.pack(form.head) if form.head else b""
    extents = []
    units = form.units()
    size = 1 if form.pack is bytes else 8
    for first in range(0, len(units), size):
        run = units[first : first + size]
        packed = form.pack(b"".join(run))
        for i, _ in enumerate(run, first):
            number = i + 1 if form.name.startswith("Posts") else i
            extents.append((sentence(number), len(data), len(data) + len(packed)))
        data += packed
    return data + (form.pack(form.tail) if form.tail else b""), extents


def rows_of(source: Any) -> list[Document | Reject]:
    return [row for shard in source.plan() for row in source.read(shard)]


def check(form: Form, folder: Path, seed: int) -> None:
    chance = random.Random(f"{form.name} {seed}")
    data, extents = built(form)
    begin = extents[0][1]
    at = chance.randrange(begin, len(data)) if begin < len(data) else 0
    kind, n_bytes = chance.choice(KINDS), chance.choice([1, 1, 3, 40, 400])
    changed, end = mutated(data, kind, at, n_bytes, chance)
    (folder / form.name).write_bytes(changed)
    rows = rows_of(form.source("m", str(folder / form.name)))
    label = f"{form.name} seed {seed}: {kind} of {n_bytes} at {at} of {len(data)}"
    texts = Counter(row.text for row in rows if isinstance(row, Document))
    touched = [i for i, (_, start, stop) in enumerate(extents) if start <= end and stop >= at]
    near = {i + step for i in touched for step in (-1, 0, 1)}
    joined = "\n".join(texts)
    lost = [i for i, (text, *_) in enumerate(extents) if i not in near and text.split(" é")[0] not in joined]
    assert not lost, f"{label}: lost {lost}, touched {touched}, {[row for row in rows if isinstance(row, Reject)]}"
    gone = [i for i, (text, *_) in enumerate(extents) if text.split(" é")[0] not in joined]
    rejects = [row for row in rows if isinstance(row, Reject)]
    is_checked = form.pack is not bytes  # a changed letter of a plain file is a letter
    assert rejects or not gone or not is_checked or kind in ("drop", "cut"), f"{label}: {gone} are gone and nothing says so"
    assert not [row for row in rejects if row.reason in ("crashed", "too_slow")], label
    assert all(row.location.startswith(form.name) for row in rejects), label


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_change_does_not_touch_is_read(form: Form, seed: int, tmp_path: Path) -> None:
    check(form, tmp_path, seed)


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        # zeros in a member of gzip: what is behind it looked like more of it, to the end of the file
        ("a.jsonl.gz", 128), ("Posts.xml.gz", 133), ("Posts.xml.gz", 232),
        # the first bytes of the first member: the whole file was taken for text
        ("a.jsonl.xz", 577), ("a.jsonl.xz", 670),
        # bytes more or fewer in a tar: no header behind them lies at a whole block
        ("arXiv_src_1501_001.tar", 107), ("arXiv_src_1501_001.tar", 109), ("arXiv_src_1501_001.tar", 114),
        # a header of a tar that is all zeros: it looked like the end, or like padding
        ("arXiv_src_1501_001.tar", 231), ("arXiv_src_1501_001.tar", 399), ("arXiv_src_1501_001.tar", 455),
    ],
)  # fmt: skip
def test_what_longer_runs_found(name: str, seed: int, tmp_path: Path) -> None:
    check(next(form for form in FORMS if form.name == name), tmp_path, seed)


def test_a_hole_of_zeros_in_a_tar_is_not_its_end(tmp_path: Path) -> None:
    form = FORMS[-1]
    data, extents = built(form)
    _, start, end = extents[20]
    (tmp_path / form.name).write_bytes(data[:start] + bytes(end - start) + data[end:])
    rows = rows_of(form.source("m", str(tmp_path / form.name)))
    assert [row.reason for row in rows if isinstance(row, Reject)] == ["bad_header"]
    assert sum(isinstance(row, Document) for row in rows) == len(extents) - 1


def test_damaged_offsets_of_arrow_do_not_end_this_process(tmp_path: Path) -> None:
    table = pa.table({"text": [sentence(i) for i in range(100)]})
    with pa.OSFile(str(tmp_path / "train.arrow"), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=50)
    data = (tmp_path / "train.arrow").read_bytes()
    offsets = table.column(0).chunk(0).buffers()[1].to_pybytes()[:204]
    at = data.index(offsets[:40])
    (tmp_path / "train.arrow").write_bytes(data[: at + 80] + b"\xff\xff\xff\x7f" + data[at + 84 :])
    rows = rows_of(HuggingFaceDataset("hub", str(tmp_path)))
    assert [row.text for row in rows if isinstance(row, Document)] == [sentence(i) for i in range(100) if i not in (19, 20)]
    assert [row.location for row in rows if isinstance(row, Reject)] == ["train.arrow:19", "train.arrow:20"]


@pytest.mark.parametrize("at", [-2661, -2646, -2619, -2607, -2594])
def test_damaged_parquet_does_not_end_this_process(tmp_path: Path, at: int) -> None:
    """pyarrow 26 aborts where the footer's levels and the lengths of its histograms of sizes do not agree."""
    rows = [{"text": sentence(i), "l": [1, 2], "meta": {"a": i}} for i in range(60)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=20)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    data[at] ^= 1
    (tmp_path / "a.parquet").write_bytes(data)
    with suppress(SourceError):  # where the name of the column was hit
        assert rows_of(ParquetFiles("p", str(tmp_path / "a.parquet")))
