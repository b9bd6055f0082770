"""JSON lines: layouts, compressions, damage; every line that is not blank is a document or a reject at file:line."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tilth.corpus.batches import batches
from tilth.corpus.formats.compressed import Gap
from tilth.corpus.formats.content import Cut, Line, lines, unpacked
from tilth.corpus.provenance.swhid import content_swhid
from tilth.corpus.records import Document, Reject
from tilth.corpus.sources.json_lines import JsonLines
from tilth.errors import SourceError


def rows(path: Path | str, **options: object) -> list[Document | Reject]:
    source = JsonLines("json", str(path), **options)  # type: ignore[arg-type]
    return [row for shard in source.plan() for row in source.read(shard)]


def one(tmp_path: Path, record: object, name: str = "a.jsonl", **options: object) -> Document:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record) + "\n")
    (row,) = rows(tmp_path, **options)
    assert isinstance(row, Document)
    return row


def zstd(data: bytes) -> bytes:
    from backports import zstd

    return zstd.compress(data)


def lz4(data: bytes) -> bytes:
    import lz4.frame

    return bytes(lz4.frame.compress(data))


def test_datatrove(tmp_path: Path) -> None:
    row = one(
        tmp_path,
        {
            "text": "a",
            "id": "x/1",
            "media": [],
            "metadata": {"url": "http://a.b", "language": "en", "language_score": 0.5, "n": 3},
        },
    )
    assert (row.url, row.language, row.meta) == (
        "http://a.b",
        "en",
        {"id": "x/1", "language_score": "0.5", "n": "3", "media": "[]"},
    )
    assert row.extraction == "as archived (datatrove)"


def test_dolma(tmp_path: Path) -> None:
    record = {
        "id": "1",
        "text": "a",
        "source": "cc",
        "added": "2023-04-11T09:57:03.044571Z",
        "created": "2020",
        "metadata": {"url": "http://a.b", "cc": {"b": 1, "a": 2}},
    }
    row = one(tmp_path, record)
    assert row.meta == {"id": "1", "source": "cc", "added": record["added"], "created": "2020", "cc": '{"a":2,"b":1}'}
    assert row.url == "http://a.b"


@pytest.mark.parametrize(
    "meta",
    [
        {"url": "http://a.b", "language": "en", "timestamp": "2023"},
        '{"url": "http://a.b", "language": "en", "timestamp": "2023"}',
    ],
)
def test_redpajama_v1(tmp_path: Path, meta: object) -> None:
    row = one(tmp_path, {"text": "a", "meta": meta, "red_pajama_subset": "c4"})
    assert (row.url, row.language, row.meta) == ("http://a.b", "en", {"timestamp": "2023", "red_pajama_subset": "c4"})


def test_redpajama_v2_keeps_what_signals_need(tmp_path: Path) -> None:
    record = {
        "url": "http://a.b/c", "date_download": "2023-03-20T10:00:00Z", "digest": "sha1:ABC", "length": 3, "nlines": 1, "source_domain": "a.b",
        "title": "T", "raw_content": "one", "original_nlines": 4, "original_length": 30, "line_ids": [0, 2], "language": "en",
        "language_score": 0.97, "perplexity": 212.5, "bucket": "head", "cc_segment": "crawl-data/x.warc.wet.gz",
    }  # fmt: skip
    row = one(tmp_path, record, "documents/2023-06/0000/en_head.json.gz")
    expected = {
        key: value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        for key, value in record.items()
        if key not in ("raw_content", "url", "language")
    }
    assert row.text == "one"
    assert row.meta == {**expected, "rpv2_id": "2023-06/0000/en_head.json.gz/0"}
    assert (row.url, row.language) == ("http://a.b/c", "en")


def test_fields_by_name(tmp_path: Path) -> None:
    row = one(
        tmp_path,
        {"body": "a", "link": "u", "text": "not this", "n": None, "lang": "de"},
        text="body",
        url="link",
        language="lang",
    )
    assert (row.text, row.url, row.language, row.meta) == ("a", "u", "de", {"text": "not this"})


@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress, zstd, lz4])
def test_compressions_are_told_by_their_first_bytes(tmp_path: Path, pack: object) -> None:
    content = b"".join(b'{"text": "line %d"}\n' % i for i in range(5000))
    (tmp_path / "misnamed.json").write_bytes(pack(content[:40]) + pack(content[40:]) if pack is not bytes else content)  # type: ignore[operator]
    found = rows(tmp_path)
    assert [row.text for row in found if isinstance(row, Document)] == [f"line {i}" for i in range(5000)]
    second = found[1]
    assert isinstance(second, Document)
    assert second.raw_swhid == content_swhid(b'{"text": "line 1"}')
    assert (second.occurrences[0].record_id, second.occurrences[0].offset) == ("2", 19)


DAMAGED = [
    (b"{", "invalid_json"),
    (b'{"text": "a"} x', "invalid_json"),
    (b"[1]", "not_an_object"),
    (b"null", "not_an_object"),
    (b'{"txt": "a"}', "missing_text"),
    (b'{"text": null}', "missing_text"),
    (b'{"text": 5}', "wrong_type"),
    (b'{"text": ""}', "empty"),
    (b'{"text": " \\n"}', "empty"),
    (b'{"text": "a\\u0000b"}', "nul_byte"),
    (b'{"text": "a\\ud800b"}', "lone_surrogate"),
    (b'{"text": "\xff"}', "decode"),
    (b'{"text": "\xed\xa0\x80"}', "decode"),
    (b"[" * 100_000, "too_deep"),
    (b'{"n": ' + b"9" * 5000 + b', "text": "a"}', "invalid_json"),
    (b'{"text": "' + b"x" * 3_000_000 + b'"}', "too_large"),
]


def test_each_damaged_line_is_a_reject_at_its_line(tmp_path: Path) -> None:
    good = b'\xef\xbb\xbf{"text": "ok \\ud83d\\ude00"}\r\n'
    content = good + b"".join(line + b"\n\n" for line, _ in DAMAGED) + b'{"text": "last"}'
    (tmp_path / "a.jsonl").write_bytes(content)
    found = rows(tmp_path, max_line_bytes=1 << 20)
    rejects = [row for row in found if isinstance(row, Reject)]
    assert [(row.location, row.reason) for row in rejects] == [
        (f"a.jsonl:{2 + 2 * i}", reason) for i, (_, reason) in enumerate(DAMAGED)
    ]
    assert [row.text for row in found if isinstance(row, Document)] == ["ok 😀", "last"]


def test_rows_fit_the_contract(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "a", "n\\ud800": "\\udfff"}\n' + b"\n".join(line for line, _ in DAMAGED))
    source = JsonLines("json", str(tmp_path), max_line_bytes=1 << 20)
    (shard,) = source.plan()
    made = list(batches(source.read(shard), shard))
    assert sum(batch.documents.num_rows for batch in made) == 1
    assert made[0].documents.column("meta").to_pylist()[0] == [("n\\ud800", "\\udfff")]
    assert sum(batch.rejects.num_rows for batch in made) == len(DAMAGED)


@pytest.mark.parametrize(("pack", "name"), [(gzip.compress, "gz"), (lzma.compress, "xz"), (zstd, "zst")])
def test_a_truncated_file_gives_its_whole_lines(tmp_path: Path, pack: object, name: str) -> None:
    content = b"".join(b'{"text": "%d"}\n' % (i * 7919) for i in range(20_000))
    packed = pack(content)  # type: ignore[operator]
    (tmp_path / f"a.jsonl.{name}").write_bytes(packed[: len(packed) // 2])
    *found, last = rows(tmp_path)
    assert len(found) > 1000
    assert [row.text for row in found if isinstance(row, Document)] == [str(i * 7919) for i in range(len(found))]
    assert isinstance(last, Reject)
    assert (last.location, last.reason) == (f"a.jsonl.{name}:{len(found) + 1}", "truncated")


def test_after_a_damaged_member_the_next_is_read(tmp_path: Path) -> None:
    members = [gzip.compress(b"".join(b'{"text": "%d-%d"}\n' % (m, i) for i in range(100)), mtime=0) for m in range(3)]
    damaged = bytearray(members[1])
    damaged[30] ^= 0xFF
    (tmp_path / "a.jsonl.gz").write_bytes(members[0] + bytes(damaged) + members[2])
    found = rows(tmp_path)
    texts = [row.text for row in found if isinstance(row, Document)]
    assert texts[:100] == [f"0-{i}" for i in range(100)]
    assert texts[-100:] == [f"2-{i}" for i in range(100)]
    assert "damaged" in [row.reason for row in found if isinstance(row, Reject)]


def test_a_bomb_is_a_reject(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"text": "a"}\n' + b"0" * (130 << 20), 9))
    found = rows(tmp_path, max_line_bytes=1 << 20)
    assert isinstance(found[0], Document)
    assert [row.reason for row in found[1:] if isinstance(row, Reject)] == ["too_large"]


@given(
    st.lists(st.binary(max_size=40).filter(lambda line: b"\n" not in line), max_size=10), st.integers(1, 9), st.integers(1, 20)
)
def test_lines_are_cut_the_same_from_any_pieces(content: list[bytes], piece: int, limit: int) -> None:
    data = b"\n".join(content)
    parts = [data[i : i + piece] for i in range(0, len(data), piece)]
    found = [line for line in lines(parts, limit) if isinstance(line, Line)]
    expected = data.split(b"\n")[: None if data and not data.endswith(b"\n") else -1]
    assert [line.data for line in found] == [line if len(line) <= limit else None for line in expected]
    assert [data[line.offset : line.offset + line.size_bytes].removesuffix(b"\n") for line in found] == expected
    assert [line.number for line in found] == list(range(1, len(found) + 1))


def test_a_gap_costs_the_line_that_it_cuts() -> None:
    found = list(lines([b"a\nb", Gap(7, "damaged", "x"), b"c\nd\n"], 10))
    assert [(line.number, line.data if isinstance(line, Line) else line.reason) for line in found] == [
        (1, b"a"),
        (2, "damaged"),
        (3, b"c"),
        (4, b"d"),
    ]
    assert isinstance(found[1], Cut)


@given(st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_mutation_of_a_packed_file_ends(tmp_path: Path, data: st.DataObject) -> None:
    pack = data.draw(st.sampled_from([gzip.compress, bz2.compress, lzma.compress, zstd, lz4]))
    packed = bytearray(pack(b'{"text": "one"}\n' * 50) + pack(b'{"text": "two"}\n'))
    packed[data.draw(st.integers(0, len(packed) - 1))] ^= data.draw(st.integers(1, 255))
    assert all(isinstance(part, bytes | Gap) for part in unpacked(io.BytesIO(bytes(packed))))
    (tmp_path / "a.jsonl.gz").write_bytes(packed)
    assert all(isinstance(row, Document | Reject) for row in rows(tmp_path))


@pytest.mark.parametrize("depth", range(900, 1000, 7))
def test_deep_fields_are_a_row(tmp_path: Path, depth: int) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "a", "deep": ' + "[" * depth + "]" * depth + "}")
    (row,) = rows(tmp_path)
    assert isinstance(row, Document) or row.reason == "too_deep"


def test_a_wrong_layout_suggests_one(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="Did you mean `dolma`"):
        JsonLines("json", str(tmp_path), layout="dolmas").plan()


@pytest.mark.data
def test_the_reference_documents_are_all_read(test_data: Path) -> None:
    path = test_data / "rpv2_reference/docs.jsonl"
    found = rows(path)
    records = [json.loads(line) for line in path.read_text().split("\n") if line]
    assert len(found) == len(records) == 518
    texts = {int(row.occurrences[0].record_id or 0): row for row in found if isinstance(row, Document)}
    for number, record in enumerate(records, start=1):
        text = record["raw_content"]
        if number in texts:
            assert texts[number].text == text
            assert texts[number].meta["perplexity"] == json.dumps(record["perplexity"])
        else:
            assert not text.strip() or "\0" in text
