"""Folders as `datasets` saves them and as the hub lays them out: splits, configurations, cards, licences."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth.corpus.records import Document, Reject
from tilth.corpus.sources.hugging_face import HuggingFaceDataset, card_licences, parse_card, split_of
from tilth.errors import SourceError


def rows(path: Path, **options: object) -> list[Document | Reject]:
    source = HuggingFaceDataset("hub", str(path), **options)  # type: ignore[arg-type]
    return [row for shard in source.plan() for row in source.read(shard)]


def summary(found: list[Document | Reject]) -> list[tuple[str, str]]:
    return [(row.meta["split"], row.text) for row in found if isinstance(row, Document)]


def saved_to_disk(root: Path) -> None:
    (root / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    for split in ("train", "test"):
        (root / split).mkdir()
        (root / split / "dataset_info.json").write_text("{}")
        (root / split / "state.json").write_text("{}")
        for i in range(2):
            table = pa.table({"text": [f"{split} {i}"], "id": [i]})
            with (
                pa.OSFile(str(root / split / f"data-0000{i}-of-00002.arrow"), "wb") as file,
                pa.ipc.new_stream(file, table.schema) as writer,
            ):
                writer.write_table(table)


def test_saved_to_disk(tmp_path: Path) -> None:
    saved_to_disk(tmp_path)
    assert summary(rows(tmp_path)) == [("test", "test 0"), ("test", "test 1"), ("train", "train 0"), ("train", "train 1")]
    assert summary(rows(tmp_path, split="test")) == [("test", "test 0"), ("test", "test 1")]
    assert [shard.params["split"] for shard in HuggingFaceDataset("hub", str(tmp_path)).plan()] == ["test", "train"]


def test_the_hubs_layout_with_a_card(tmp_path: Path) -> None:
    card = (
        "---\nlicense: cc-by-sa-4.0\nconfigs:\n- config_name: en\n  default: true\n  data_files:\n  - split: train\n    path: en/*.parquet\n"
        "- config_name: de\n  data_files:\n  - split: train\n    path: [de/a.jsonl]\n  - split: dev_set\n    path: de/b.csv\n---\n# Name\n"
    )
    (tmp_path / "README.md").write_text(card)
    for folder in ("en", "de"):
        (tmp_path / folder).mkdir()
    pq.write_table(pa.table({"text": ["hello"]}), tmp_path / "en/0.parquet")
    (tmp_path / "de/a.jsonl").write_text('{"text": "hallo"}\n{"text": 1}\n')
    (tmp_path / "de/b.csv").write_text("text\nwelt\n")
    (english,) = rows(tmp_path)
    assert isinstance(english, Document)
    assert [(claim.spdx, claim.scope, claim.evidence_path) for claim in english.licences] == [
        ("CC-BY-SA-4.0", "repository", "README.md")
    ]
    german = rows(tmp_path, config="de", licence="MIT")
    assert summary(german) == [("dev_set", "welt"), ("train", "hallo")]
    assert [row.reason for row in german if isinstance(row, Reject)] == ["wrong_type"]
    assert {claim.spdx for row in german if isinstance(row, Document) for claim in row.licences} == {"MIT"}
    with pytest.raises(SourceError, match="no configuration `fr`"):
        rows(tmp_path, config="fr")
    with pytest.raises(SourceError, match="no split `test`"):
        rows(tmp_path, split="test")


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data/train-00000-of-00001.parquet", "train"), ("data/validation-00000-of-00001.parquet", "validation"), ("test.jsonl", "test"),
        ("dev/0000.parquet", "validation"), ("my_eval_data.csv", "test"), ("data.jsonl", "train"), ("contest.jsonl", "train"),
        ("data/random-00001-of-00009.parquet", "random"), ("test/data-00000-of-00002.arrow", "test"),
    ],
)  # fmt: skip
def test_splits_by_name(name: str, split: str) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize(
    ("card", "licences"),
    [
        ("---\nlicense: mit\n---\n", ["MIT"]), ("---\r\nlicense: [apache-2.0, odc-by]\r\n---\r\n", ["Apache-2.0", "ODC-By-1.0"]),
        ("---\nlicense: other\n---\n", ["LicenseRef-other"]), ("# no card\n", []), ("---\n- a list\n---\n", []), ("---\npretty_name: x\n---", []),
    ],
)  # fmt: skip
def test_licences_of_cards(card: str, licences: list[str]) -> None:
    assert card_licences(parse_card(card, "test")) == licences


def test_a_card_that_is_no_yaml_is_an_error() -> None:
    with pytest.raises(SourceError, match="YAML"):
        parse_card("---\na: [\n---\n", "test")
    with pytest.raises(SourceError, match="YAML"):
        parse_card("---\na: !!python/object/apply:os.system [true]\n---\n", "test")


def test_a_damaged_arrow_file_is_a_reject(tmp_path: Path) -> None:
    saved_to_disk(tmp_path)
    path = tmp_path / "train/data-00000-of-00002.arrow"
    path.write_bytes(path.read_bytes()[:200])
    found = rows(tmp_path, split="train")
    assert [(row.location, row.reason) for row in found if isinstance(row, Reject)] == [
        ("train/data-00000-of-00002.arrow:0", "damaged")
    ]
    assert summary(found) == [("train", "train 1")]


def test_a_folder_without_data_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(SourceError, match="no file of data"):
        rows(tmp_path)
