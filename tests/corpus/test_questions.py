"""Sources of questions, preferences and solutions: GSM8K's own files, made arithmetic, and lines that are damaged."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth.corpus.batches import batches
from tilth.corpus.questions.arithmetic import Arithmetic
from tilth.corpus.records import Document, Reject
from tilth.corpus.sources.preferences import Preferences
from tilth.corpus.sources.questions import Questions
from tilth.corpus.sources.solutions import Solutions
from tilth.errors import SourceError

GOOD = {"question": "Tom has 2 eggs and 3 more. How many?", "answer": "2+3 = <<2+3=5>>5 eggs.\n#### 5"}


def rows(source: Any) -> list[Document | Reject]:
    return [row for shard in source.plan() for row in source.read(shard)]


def written(tmp_path: Path, *lines: object) -> str:
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return str(path)


def test_a_line_becomes_a_document(tmp_path: Path) -> None:
    (row,) = rows(Questions("gsm8k", written(tmp_path, {**GOOD, "id": 7, "level": 3}), licence="MIT"))
    assert isinstance(row, Document)
    assert row.text == "Question: Tom has 2 eggs and 3 more. How many?\nAnswer: 2+3 = 5 eggs.\n#### 5"
    assert row.meta == {"question": GOOD["question"], "answer": "5", "id": "7", "level": "3"}
    assert row.licences[0].spdx == "MIT"
    (kept,) = rows(Questions("gsm8k", written(tmp_path, GOOD), keeps_calculator=True))
    assert isinstance(kept, Document)
    assert "<<2+3=5>>5" in kept.text


def test_an_answer_without_steps_and_one_with_a_long_end(tmp_path: Path) -> None:
    found = rows(
        Questions("q", written(tmp_path, {"question": "1+1?", "answer": "#### 2"}, {**GOOD, "answer": "a\n####  1,050 \n"}))
    )
    texts = [row.text for row in found if isinstance(row, Document)]
    assert texts[0] == "Question: 1+1?\nAnswer: #### 2"
    assert texts[1].endswith("\nAnswer: a\n#### 1,050")


def test_damaged_lines_are_rejects_at_their_place(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        GOOD,
        '{"question": "torn',
        {"question": "no answer"},
        {"answer": "#### 1"},
        {"question": "", "answer": "#### 1"},
        {"question": 3, "answer": "#### 1"},
        {"question": "q", "answer": ["#### 1"]},
        {"question": "q", "answer": "it is 5"},
        {"question": "q", "answer": "#### 5\nor so"},
        {"question": "q\nAnswer: no", "answer": "#### 5"},
        [1],
        {"question": "q\x00", "answer": "#### 5"},
        {"question": "\ud800", "answer": "#### 5"},
        GOOD,
    )
    found = rows(Questions("q", path))
    rejects = [row for row in found if isinstance(row, Reject)]
    assert [row.reason for row in rejects] == [
        "invalid_json", "missing_answer", "missing_question", "missing_question", "wrong_type", "wrong_type", "no_final_answer",
        "no_final_answer", "holds_marker", "not_an_object", "nul_byte", "lone_surrogate",
    ]  # fmt: skip
    assert [row.location for row in rejects] == [f"lines.jsonl:{number}" for number in range(2, 14)]
    assert len(found) - len(rejects) == 2


def test_packed_and_torn_files(tmp_path: Path) -> None:
    data = gzip.compress("".join(json.dumps(GOOD) + "\n" for _ in range(50)).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(data[:-12])
    found = rows(Questions("q", str(tmp_path)))
    assert {row.reason for row in found if isinstance(row, Reject)} == {"truncated"}
    with pytest.raises(SourceError):
        rows(Questions("q", str(tmp_path / "nothing.jsonl")))


def test_a_long_line_is_read_in_a_process_of_its_own(tmp_path: Path) -> None:
    (row,) = rows(Questions("q", written(tmp_path, {"question": "x" * (2 << 20), "answer": "#### 1"})))
    assert isinstance(row, Document)
    assert len(row.text) > 2 << 20


def test_arithmetic_is_a_source(tmp_path: Path) -> None:
    source = Questions("sums", Arithmetic(n=30, n_steps=2, seed=4))
    found = rows(source)
    assert len(found) == 30
    for row, problem in zip(found, source.path.problems(), strict=True):  # type: ignore[union-attr]
        assert isinstance(row, Document)
        assert row.meta == {"question": problem.question, "answer": problem.answer}
        assert re.fullmatch(r"Question: [\d +-]+\nAnswer: \d+ [+-] \d+ = \d+\n\d+ [+-] \d+ = \d+\n#### \d+", row.text)
    assert len({row.doc_id for row in found if isinstance(row, Document)}) == 30
    (shard,) = source.plan()
    assert shard == source.plan()[0]
    (other,) = Questions("sums", Arithmetic(n=30, n_steps=2, seed=5)).plan()
    assert other.fingerprint != shard.fingerprint
    assert sum(batch.documents.num_rows for batch in batches(source.read(shard), shard)) == 30


def test_preferences(tmp_path: Path) -> None:
    pair = {"prompt": "Question: 2 + 3", "chosen": " 5", "rejected": " 6", "judge": "a person"}
    found = rows(
        Preferences(
            "pairs",
            written(
                tmp_path,
                pair,
                {**pair, "rejected": " 5"},
                {**pair, "chosen": None},
                {**pair, "chosen": "\n"},
                {**pair, "rejected": "6\nRejected: 7"},
                {**pair, "prompt": "Answer: 2"},
                {**pair, "prompt": 4},
            ),
        )
    )
    assert isinstance(found[0], Document)
    assert found[0].text == "Question: 2 + 3\nAnswer: 5\nRejected: 6"
    assert found[0].meta == {"judge": "a person"}
    reasons = [row.reason for row in found[1:] if isinstance(row, Reject)]
    assert reasons == ["equal_answers", "missing_chosen", "empty_chosen", "holds_marker", "holds_marker", "wrong_type"]


def test_solutions(tmp_path: Path) -> None:
    sample = {"question": "2 + 3", "text": " 2 + 3 = 6\n#### 6", "is_correct": False, "branch": 2}
    path = written(tmp_path, sample, {**sample, "is_correct": None}, {**sample, "text": None}, {**sample, "question": " "})
    found = rows(Solutions("samples", path))
    assert isinstance(found[0], Document)
    assert found[0].text == "Question: 2 + 3\nAnswer: 2 + 3 = 6\n#### 6"
    assert found[0].meta == {"question": "2 + 3", "is_correct": "false", "branch": "2"}
    assert [row.reason for row in found[1:] if isinstance(row, Reject)] == ["not_judged", "missing_text", "empty_question"]


def write_samples(path: Path) -> str:
    rows = [
        ("2 + 3", " #### 5", True), ("2 + 3", " #### 6", False), ("2 + 3", " #### 5", True), ("2 + 3", " five\n#### 5", True),
        ("2 + 3", " #### 7", False), ("2 + 3", "", None), ("1 + 1", " #### 2", True), ("4 + 4", " #### 8", True),
        ("4 + 4", " #### 9\nAnswer: 8", False),
    ]  # fmt: skip
    table = pa.table(
        {
            "problem": [question for question, _, _ in rows],
            "question": [question for question, _, _ in rows],
            "text": [text for _, text, _ in rows],
            "is_correct": pa.array([is_correct for *_, is_correct in rows], pa.bool_()),
            "score": [0.5] * len(rows),
        }
    )
    pq.write_table(table, path)
    return str(path)


def test_samples_of_an_evaluation(tmp_path: Path) -> None:
    path = write_samples(tmp_path / "samples.parquet")
    found = rows(Solutions("samples", path))
    assert [row.reason for row in found if isinstance(row, Reject)] == ["not_judged"]
    told = [(row.text, row.meta) for row in found if isinstance(row, Document)]
    assert told[1] == ("Question: 2 + 3\nAnswer: #### 6", {"question": "2 + 3", "is_correct": "false"})
    assert len(told) == 8
    pairs = rows(Preferences("pairs", path))
    assert [row.text for row in pairs if isinstance(row, Document)] == [
        "Question: 2 + 3\nAnswer: #### 5\nRejected: #### 6",
        "Question: 2 + 3\nAnswer: five\n#### 5\nRejected: #### 7",
    ]
    assert [row.reason for row in pairs if isinstance(row, Reject)] == ["not_judged", "holds_marker"]
    assert len({row.doc_id for row in pairs if isinstance(row, Document)}) == 2
    few = rows(Preferences("pairs", path, pairs_per_question=1))
    assert sum(isinstance(row, Document) for row in few) == 1


def test_samples_that_were_not_judged_part_no_question(tmp_path: Path) -> None:
    samples = [(" #### 5", True), ("", None), (" #### 6", False), ("", None), (" five\n#### 5", True), (" #### 7", False)]
    columns = {"question": ["2 + 3"] * len(samples), "text": [text for text, _ in samples]}
    pq.write_table(pa.table({**columns, "is_correct": [is_correct for _, is_correct in samples]}), tmp_path / "s.parquet")
    pairs = rows(Preferences("pairs", str(tmp_path / "s.parquet")))
    assert [row.text.partition("Answer:")[2] for row in pairs if isinstance(row, Document)] == [
        " #### 5\nRejected: #### 6",
        " five\n#### 5\nRejected: #### 7",
    ]
    few = rows(Preferences("pairs", str(tmp_path / "s.parquet"), pairs_per_question=1))
    assert sum(isinstance(row, Document) for row in few) == 1


@pytest.mark.parametrize(("folder", "file", "n"), [("gsm8k_train", "train", 7473), ("gsm8k_test", "test", 1319)])
def test_the_published_files(test_data: Path, folder: str, file: str, n: int) -> None:
    path = test_data / folder / "grade_school_math" / "data" / f"{file}.jsonl"
    if not path.is_file():
        pytest.skip("GSM8K is not here")
    found = rows(Questions("gsm8k", str(path)))
    assert len(found) == n
    for row, line in zip(found, path.read_text(encoding="utf-8").splitlines(), strict=True):
        assert isinstance(row, Document), row
        record = json.loads(line)
        prompt, answer = row.text.split("\nAnswer:")
        assert prompt == f"Question: {record['question'].strip()}"
        assert "<<" not in answer
        assert answer.rpartition("#### ")[2] == record["answer"].rpartition("#### ")[2].strip() == row.meta["answer"]
        float(row.meta["answer"].replace(",", ""))
        marks = re.findall(r"<<([^<>\n]*)>>", record["answer"])
        assert len(answer) + sum(len(mark) + 4 for mark in marks) <= len(record["answer"]) + 1
