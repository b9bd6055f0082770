"""Real archives, good and damaged: nothing that others read is missed, and a change costs only what it touches."""

from __future__ import annotations

import gzip
import random
import zlib
from collections import Counter
from pathlib import Path

import pytest

from tilth.corpus.formats.archive import ArchivedRecord, Damage, read_archive
from tilth.corpus.formats.archive_formats import ARC, WARC

FOLDERS = ("warcio", "resiliparse_warc", "jwat_invalid", "webarchive_commons", "whirlwind_cc", "dolma_warc", "ukwa_suite")
SUFFIXES = {".warc", ".arc", ".gz", ".wet", ".wat", ".bad", ".lz4"}
EVERY = WARC.kinds | ARC.kinds


def archives(root: Path) -> list[Path]:
    found = [file for file in sorted(root.rglob("*")) if SUFFIXES & set(file.suffixes) and ".jsonl" not in file.suffixes]
    return [file for file in found if file.name != "easylist.txt.gz"]


def everything(file: Path) -> tuple[list[ArchivedRecord], list[Damage]]:
    found = list(read_archive(file, EVERY, 64 << 20, ARC if ".arc" in file.suffixes else WARC))
    return [r for r in found if isinstance(r, ArchivedRecord)], [d for d in found if isinstance(d, Damage)]


@pytest.mark.data
@pytest.mark.parametrize("folder", FOLDERS)
def test_real_archives(test_data: Path, folder: str) -> None:
    files = archives(test_data / folder)
    assert files
    for file in files:
        found, damage = everything(file)
        if folder == "jwat_invalid" and file.name.startswith("valid-"):
            assert not damage, file.name
        if file.name == "clipped.warc.gz":
            assert [item.reason for item in damage] == ["truncated"]
        if file.name == "whirlwind.warc.wet.gz":
            text = found[-1].block.decode()
            assert zlib.crc32(text.encode()) == zlib.crc32(gzip.decompress(file.read_bytes())[-len(text.encode()) - 4 : -4])


@pytest.mark.data
@pytest.mark.parametrize("folder", FOLDERS)
def test_no_record_is_missed_that_others_find(test_data: Path, folder: str) -> None:
    """Every block that FastWARC reads whole from a file, and for ARC every record that warcio does, is here or damaged."""
    from fastwarc.warc import ArchiveIterator
    from warcio.archiveiterator import ArchiveIterator as Warcio
    from warcio.exceptions import ArchiveLoadFailed

    n_compared = 0
    for file in archives(test_data / folder):
        ours, damage = everything(file)
        theirs: list[tuple[str, int]] = []
        try:
            with file.open("rb") as stream:
                if ".arc" in file.suffixes:
                    for record in Warcio(stream, arc2warc=False, no_record_parse=True):
                        theirs.append((record.rec_headers.get_header("uri") or "", 0))
                else:
                    for record in ArchiveIterator(stream, parse_http=False):
                        length = record.content_length
                        # FastWARC 2.0.1 takes a valid `content-length:  9` for none
                        if length and len(record.reader.read()) == length:
                            theirs.append(((record.headers.get("WARC-Record-ID") or "").strip(), length))
        except (OSError, ValueError, ArchiveLoadFailed):
            pass
        name = "warc-target-uri" if ".arc" in file.suffixes else "warc-record-id"
        size = (lambda block: 0) if ".arc" in file.suffixes else len  # warcio counts an ARC's description otherwise
        mine = Counter((record.headers.get(name, ""), size(record.block)) for record in ours)
        missed = Counter(theirs) - mine
        assert missed.total() <= len(damage), (file.name, missed, damage)
        if not damage:
            assert len(ours) >= len(theirs), file.name
        n_compared += len(theirs)
    assert n_compared


@pytest.mark.data
@pytest.mark.parametrize("folder", FOLDERS)
def test_what_a_mutation_does_not_touch_is_recovered(test_data: Path, tmp_path: Path, folder: str) -> None:
    """Changed bytes, cuts, insertions, deletions and repetitions anywhere in real files: all other records come out."""
    chance = random.Random(folder)
    n_lost = n_whole = 0
    for file in archives(test_data / folder):
        data = file.read_bytes()
        records, _ = everything(file)
        packed = data.startswith((b"\x1f\x8b", b"\x04\x22\x4d\x18"))
        in_file = all(data[record.offset :][:2] in (b"\x1f\x8b", b"\x04\x22") for record in records) if packed else True
        if len(records) < 2 or len({record.offset for record in records}) < len(records) or not in_file or len(data) > 300_000:
            continue
        for _ in range(8):
            at, n_bytes = chance.randrange(len(data)), chance.choice([1, 1, 3, 40, 400])
            changed, end = mutated(
                data, chance.choice(["flip", "set", "cut", "insert", "drop", "zero", "repeat"]), at, n_bytes, chance
            )
            mutant = tmp_path / f"m{''.join(file.suffixes)}"
            mutant.write_bytes(changed)
            found, damage = everything(mutant)
            here = {(record.kind, record.block) for record in found}
            ends = [record.offset for record in records[1:]] + [len(data)]
            whole = [r for r, stop in zip(records, ends, strict=True) if stop <= at or r.offset >= end]
            n_whole += len(whole)
            n_lost += sum((record.kind, record.block) not in here for record in whole)
            assert found or damage
    assert n_lost == 0
    assert n_whole or folder == "whirlwind_cc"


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
    return data[:end] + data[at:], end
