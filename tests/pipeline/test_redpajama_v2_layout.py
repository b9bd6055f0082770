"""RedPajama-V2's layout: equal to what its own code wrote, whole on disk, and read back."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import string
import struct
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.corpus.records import Document, Occurrence, Reject, document_id
from tilth.corpus.sources.redpajama_v2 import RedPajamaV2
from tilth.dedup.minhash.published_minima import legacy_permutations
from tilth.errors import RecipeError, SourceError
from tilth.pipeline.interchange import banded_minhash as minhash
from tilth.pipeline.interchange import redpajama_v2 as layout
from tilth.pipeline.interchange.redpajama_v2_duplicates import in_order, write_duplicates
from tilth.pipeline.interchange.redpajama_v2_files import DIGESTS, digests_path
from tilth.pipeline.score import Scored, score
from tilth.pipeline.score_inputs import Fields
from tilth.pipeline.score_signals import Chosen, choose, read_list, scored
from tilth.quality_signals.fused.text_batch import TextBatch

PERMUTATIONS = legacy_permutations(minhash.SEED, minhash.N_PERMUTATIONS)
NO_MODEL = [name for name in layout.SIGNALS if "_ml_" not in name and "importance" not in name]
Score = Callable[..., Scored]


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]


# The reference's own output


@pytest.fixture(scope="module")
def reference(test_data: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Chosen]:
    folder = test_data / "rpv2_reference"
    documents = [json.loads(line) for line in (folder / "docs.jsonl").read_bytes().splitlines()]
    records = [json.loads(line) for line in (folder / "signals.jsonl").read_bytes().splitlines()]
    lists = {
        "bad_words": read_list("bad_words", folder / "artifacts" / "bad_words"),
        "blocked_domains": read_list("blocked_domains", folder / "artifacts" / "bad_urls" / "domain_to_category_id.json"),
    }
    return documents, records, choose("rpv2", lists, {})


def _document(fields: dict[str, Any]) -> Document:
    """A record of the reference as its source would give it (a source rejects the three texts that are empty)."""
    own = {name: value for name, value in fields.items() if name not in ("raw_content", "url", "language")}
    meta = {name: value if isinstance(value, str) else json.dumps(value) for name, value in own.items()}
    seen = Occurrence("jsonl", "s", "x")
    return Document(bytes(16), fields["raw_content"], "", "utf-8", "", [seen], fields["url"], fields["language"], meta)


@pytest.mark.data
def test_every_record_equals_the_references(reference: Any) -> None:
    documents, expected, chosen = reference
    assert len(expected) == 518
    assert len(NO_MODEL) == 36
    rows = [_document(fields) for fields in documents]
    found = []
    for batch in scored(rows, chosen, settle=layout.settled):
        fields = layout.signal_fields(batch.texts, batch.signals)
        records = [layout.document_record(document) for document in batch.documents]
        found += list(zip(records, fields))
    for wanted, (record, fields) in zip(expected, found, strict=True):
        ours = layout.signal_record(wanted["id"], record, fields)
        assert list(ours["quality_signals"]) == list(wanted["quality_signals"])
        for name in NO_MODEL:
            # As text, so that 12 is not 12.0 and -0.0 is not 0.0.
            assert json.dumps(ours["quality_signals"][name]) == json.dumps(wanted["quality_signals"][name]), (wanted["id"], name)
        assert ours["id_int"] == wanted["id_int"]
        assert ours["metadata"] == wanted["metadata"]


@pytest.mark.data
def test_documents_keep_what_ccnet_says_of_them(reference: Any) -> None:
    for fields in reference[0]:
        record = layout.document_record(_document(fields))
        assert {name: record[name] for name in fields} == fields


def _normal_words(text: str) -> list[str]:
    text = text.translate(str.maketrans("", "", string.punctuation)).lower().strip()
    return unicodedata.normalize("NFD", re.sub(r"\s+", " ", text)).split()


def _signature(text: str) -> dict[str, list[bytes] | None]:
    """The definition, word for word, in plain Python and NumPy."""
    words = _normal_words(text)
    if len(words) < 13:
        return {f"signature_sim{name}": None for name in minhash.BANDS}
    grams = {" ".join(words[i : i + 13]) for i in range(len(words) - 12)}
    hashes = np.array([struct.unpack("<I", hashlib.sha1(gram.encode()).digest()[:4])[0] for gram in grams], np.uint64)
    factors, summands = PERMUTATIONS
    permuted = ((np.multiply.outer(hashes, factors) + summands) % np.uint64((1 << 61) - 1)) & np.uint64((1 << 32) - 1)
    lowest = permuted.min(axis=0).astype(np.uint32)
    return {
        f"signature_sim{name}": [bytes(lowest[band * n : (band + 1) * n].byteswap().data) for band in range(n_bands)]
        for name, (n_bands, n) in minhash.BANDS.items()
    }


def test_the_permutations_are_the_published_ones() -> None:
    checksum = hashlib.sha256(np.array(PERMUTATIONS).tobytes()).hexdigest()
    assert checksum == "6a5665743fa1884640a8eb3543348255a90b4dbd55b093f39e3d61ac90eac9e1"


@pytest.mark.data
def test_signatures_are_the_definitions_on_all_documents(reference: Any) -> None:
    texts = [fields["raw_content"] for fields in reference[0]]
    found = minhash.band_signatures(TextBatch(pa.array(texts, pa.large_string())))
    for row, text in enumerate(texts):
        assert {name: column[row].as_py() for name, column in found.items()} == _signature(text)
    assert 0 < found["signature_sim0.8"].null_count < len(texts)


WORDS = st.lists(st.sampled_from(["a", "Bb", "naïve", "—", "x.y", "İst", "\n", "ﬃ"]), max_size=40).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(texts=st.lists(WORDS, max_size=4))
def test_signatures_are_the_definitions(texts: list[str]) -> None:
    found = minhash.band_signatures(TextBatch(pa.array(texts, pa.large_string())))
    for row, text in enumerate(texts):
        assert {name: column[row].as_py() for name, column in found.items()} == _signature(text)


# The files


RECORDS = [
    {"text": "Soil and seed. " * 20 + "\nSecond line.", "url": "http://a.example/1", "language": "en"},
    {"text": "Kurzer Text.", "url": "http://b.example/", "language": "de-AT", "bucket": "tail"},
    {"text": "Soil and seed. " * 20 + "\nSecond line.", "url": "http://c.example/", "language": "en"},
    {"text": "", "url": "http://empty.example/"},
    {"text": "no language", "id": "mine"},
]


@pytest.fixture
def scored_layout(tmp_path: Path) -> Path:
    """RECORDS in two files, scored into the layout."""
    (tmp_path / "in").mkdir()
    for name, records in (("a.jsonl", RECORDS), ("b.jsonl", RECORDS[:1])):
        (tmp_path / "in" / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    done = score([str(tmp_path / "in")], tmp_path / "out", choose("rpv2", {}, {}), "rpv2", snapshot="2023-06")
    assert [one.counts["rows"] for one in done.inputs] == [5, 1]
    assert [one.counts["rejects"] for one in done.inputs] == [1, 0]
    assert done.n_duplicates == 2
    return tmp_path / "out"


def test_the_files_are_where_the_published_ones_are(scored_layout: Path) -> None:
    found = {str(path.relative_to(scored_layout)) for path in scored_layout.rglob("*") if path.is_file()}
    groups = ["0000/de_tail", "0000/en_all", "0000/xx_all", "0001/en_all"]
    wanted = {f"{part}/2023-06/{group}{suffix}" for part, suffix in layout.COMPONENTS.items() for group in groups}
    wanted |= {f"listings/{name}.txt" for name in ("de-2023-06-tail", "en-2023-06-all", "xx-2023-06-all")}
    assert {name for name in found if not name.startswith("manifests/")} == wanted
    assert (scored_layout / "listings" / "en-2023-06-all.txt").read_text() == "2023-06/0000/en_all\n2023-06/0001/en_all\n"


def test_all_files_of_a_group_speak_of_the_same_lines(scored_layout: Path) -> None:
    documents = _lines(scored_layout / "documents/2023-06/0000/en_all.json.gz")
    signals = _lines(scored_layout / "quality_signals/2023-06/0000/en_all.signals.json.gz")
    bands = pq.read_table(scored_layout / "minhash/2023-06/0000/en_all.minhash.parquet").to_pylist()
    ids = ["2023-06/0000/en_all.json.gz/0", "2023-06/0000/en_all.json.gz/1"]
    assert [one["id"] for one in signals] == [one["id"] for one in bands] == ids
    assert [one["id_int"] for one in signals] == [one["id_int"] for one in bands] == [layout.id_int(name) for name in ids]
    for document, signal, band in zip(documents, signals, bands, strict=True):
        assert document["raw_content"] == RECORDS[0]["text"]
        assert signal["metadata"]["url"] == document["url"]
        assert signal["quality_signals"]["ccnet_length"] == [[0, len(document["raw_content"]), float(document["length"])]]
        assert {name: value for name, value in band.items() if name.startswith("sig")} == _signature(document["raw_content"])
    spans = signals[0]["quality_signals"]["rps_lines_num_words"]
    assert [RECORDS[0]["text"][start:end] for start, end, _ in spans] == ["Soil and seed. " * 20 + "\n", "Second line."]
    assert documents[0]["bucket"] == "all"
    assert documents[0]["perplexity"] is None


def test_the_first_of_equal_documents_is_kept(scored_layout: Path) -> None:
    parts = sorted((scored_layout / "duplicates").rglob("*.parquet"))
    found = [row for part in parts for row in pq.read_table(part).to_pylist()]
    assert {row["doc_id"] for row in found} == {"2023-06/0000/en_all.json.gz/1", "2023-06/0001/en_all.json.gz/0"}
    assert {row["digest"] for row in found} == {layout.text_digest(str(RECORDS[0]["text"]))}


def test_it_is_read_back_with_its_signals(scored_layout: Path) -> None:
    source = RedPajamaV2("rp", str(scored_layout), line_signals=True)
    rows = [row for shard in source.plan() for row in source.read(shard)]
    assert all(isinstance(row, Document) for row in rows)
    by_id = {row.meta["rpv2_id"]: row for row in rows if isinstance(row, Document)}
    assert len(by_id) == 5
    row = by_id["2023-06/0000/en_all.json.gz/0"]
    assert row.text == RECORDS[0]["text"]
    assert row.meta["rps_doc_word_count"] == str(len(_normal_words(row.text)))
    assert "rps_doc_ml_palm_score" not in row.meta
    assert json.loads(row.meta["rps_lines_num_words"])[1][2] == 2
    marked = {name for name, row in by_id.items() if row.meta.get("rpv2_duplicate")}
    assert marked == {"2023-06/0000/en_all.json.gz/1", "2023-06/0001/en_all.json.gz/0"}
    assert by_id["2023-06/0000/xx_all.json.gz/0"].meta["id"] == "mine"


def test_its_own_output_scores_to_the_same_layout(scored_layout: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    score([str(scored_layout / "documents")], again, choose("rpv2", {}, {}), "rpv2")
    for part in ("documents", "quality_signals", "minhash", "duplicates", "listings"):
        files = sorted(path.relative_to(scored_layout) for path in (scored_layout / part).rglob("*.*"))
        assert files == sorted(path.relative_to(again) for path in (again / part).rglob("*.*"))
        assert all((again / name).read_bytes() == (scored_layout / name).read_bytes() for name in files), part


def test_files_and_languages_are_chosen(scored_layout: Path) -> None:
    assert len(RedPajamaV2("rp", str(scored_layout), languages=("en",)).plan()) == 2
    assert len(RedPajamaV2("rp", str(scored_layout), buckets=("tail",)).plan()) == 1
    with pytest.raises(SourceError, match="no file of documents"):
        RedPajamaV2("rp", str(scored_layout), languages=("fr",)).plan()


def _repack(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join(change(lines))))


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (lambda lines: [b"not json\n", *lines[1:]], {"bad_signals"}),
        (lambda lines: [b'{"id": 7}\n', *lines[1:]], {"bad_signals"}),
        (lambda lines: lines[::-1], {"wrong_order"}),
        (lambda lines: [lines[0].replace(b"0000/en_all", b"0009/en_all"), lines[1]], {"other_file"}),
        (lambda lines: [re.sub(rb"\[\[0,313,", b"[[0,7,", lines[0]), lines[1]], {"other_text"}),
        (lambda lines: lines[1:], set()),
    ],
)
def test_signals_of_another_text_are_refused(scored_layout: Path, change: Any, reasons: set[str]) -> None:
    _repack(scored_layout / "quality_signals/2023-06/0000/en_all.signals.json.gz", change)
    source = RedPajamaV2("rp", str(scored_layout), languages=("en",))
    rows = list(source.read(source.plan()[0]))
    documents = [row for row in rows if isinstance(row, Document)]
    assert len(documents) == 2
    assert {row.reason for row in rows if isinstance(row, Reject)} == reasons
    assert sum("rps_doc_word_count" in row.meta for row in documents) == 1


@pytest.mark.parametrize("part", ["quality_signals", "documents", "duplicates"])
@pytest.mark.parametrize("seed", range(4))
def test_damage_is_rejects_and_never_other_documents_signals(scored_layout: Path, part: str, seed: int) -> None:
    suffix = layout.COMPONENTS[part]
    path = scored_layout / f"{part}/2023-06/0000/en_all{suffix}"
    data = bytearray(path.read_bytes())
    random = np.random.default_rng(seed)
    for at in random.integers(10, len(data), 3):
        data[at] ^= 0xFF
    path.write_bytes(data[: len(data) - int(random.integers(0, len(data) // 2))])
    source = RedPajamaV2("rp", str(scored_layout), languages=("en",))
    rows = list(source.read(source.plan()[0]))
    assert any(isinstance(row, Reject) for row in rows)
    for row in rows:
        if isinstance(row, Document) and "rps_doc_word_count" in row.meta:
            assert int(row.meta["rps_doc_word_count"]) == len(_normal_words(row.text))


# Duplicates


@settings(max_examples=60, deadline=None)
@given(
    shards=st.lists(st.lists(st.sampled_from("abcdefg"), max_size=9), min_size=1, max_size=4),
    keys_at_once=st.integers(1, 12),
)
def test_duplicates_are_all_but_the_first(tmp_path_factory: pytest.TempPathFactory, shards: Any, keys_at_once: int) -> None:
    folder = tmp_path_factory.mktemp("layout")
    names = [f"20{20 + i % 2}-06/{i:04d}/en_all.json.gz" for i in range(len(shards))]
    for name, digests in zip(names, shards):
        pq.write_table(pa.table({"digest": digests}, schema=DIGESTS), digests_path(folder, name))
    seen: set[str] = set()
    wanted = []
    for name in in_order(names):
        for line, digest in enumerate(shards[names.index(name)]):
            wanted += [f"{name}/{line}"] if digest in seen else []
            seen.add(digest)
    assert write_duplicates(folder, names, keys_at_once) == len(wanted)
    found = [row["doc_id"] for path in (folder / "duplicates").rglob("*.parquet") for row in pq.read_table(path).to_pylist()]
    assert sorted(found) == sorted(wanted)


def test_newer_snapshots_come_first() -> None:
    names = ["2019-30/0000/en_head.json.gz", "2023-06/0001/en_head.json.gz", "2023-06/0000/en_tail.json.gz"]
    assert in_order(names) == [names[2], names[1], names[0]]


# What grows and what is refused


def test_a_new_input_gets_the_next_shard_and_changes_no_other(scored_layout: Path, tmp_path: Path, tree: Any) -> None:
    before = tree(scored_layout / "documents")
    (tmp_path / "in" / "0.jsonl").write_text(json.dumps(RECORDS[0]) + "\n")
    done = score([str(tmp_path / "in")], scored_layout, choose("rpv2", {}, {}), "rpv2", snapshot="2023-06")
    assert [(one.name, bool(one.why)) for one in done.inputs] == [("0.jsonl", True), ("a.jsonl", False), ("b.jsonl", False)]
    after = tree(scored_layout / "documents")
    assert set(after) - set(before) == {"2023-06/0002/en_all.json.gz"}
    assert all(after[name] == data for name, data in before.items())
    assert done.n_duplicates == 3


def test_what_an_input_no_longer_holds_is_taken_away(scored_layout: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "a.jsonl").write_text(json.dumps(RECORDS[1]) + "\n")
    score([str(tmp_path / "in")], scored_layout, choose("rpv2", {}, {}), "rpv2", snapshot="2023-06")
    groups = sorted(path.name for path in (scored_layout / "duplicates/2023-06/0000").iterdir())
    assert groups == ["de_tail.duplicates.parquet"]
    assert sorted(path.name for path in (scored_layout / "listings").iterdir()) == ["de-2023-06-tail.txt", "en-2023-06-all.txt"]


def test_other_signals_and_snapshots_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(json.dumps(RECORDS[0]) + "\n")
    with pytest.raises(RecipeError, match="own signals"):
        score([str(tmp_path / "a.jsonl")], tmp_path / "out", choose("gopher", {}, {}), "rpv2")
    with pytest.raises(RecipeError, match="no snapshot"):
        score([str(tmp_path / "a.jsonl")], tmp_path / "out", choose("rpv2", {}, {}), "rpv2", Fields(), 1, "June")


def test_language_codes() -> None:
    assert [layout.language_code(tag) for tag in ("en", "EN_gb", "de-AT", "deu", "", None)] == [
        "en",
        "en",
        "de",
        "xx",
        "xx",
        "xx",
    ]
    assert document_id("x") != document_id("y")
