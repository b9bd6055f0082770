"""`tilth score`: a row out for a row in, the same bytes however it is run, kept while it is true, made whole or not at all."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.cli.score_verbs import score as verb
from tilth.errors import BuildError, RecipeError, SourceError
from tilth.pipeline import score_signals
from tilth.pipeline.score import Scored, manifests, score
from tilth.pipeline.score_inputs import Fields, find_inputs, kind_of
from tilth.pipeline.score_signals import choose
from tilth.quality_signals.registry import compute_families, get_family

TEXTS = ["Soil and seed.\nRain.", "", "the the the the", "Grüße — ein Satz.", "zero \0 byte", "last"]
RPV2 = ("ccnet", "lines", "natural_language", "repetition", "stop_words")
Tree = Callable[[Path], dict[str, bytes]]


def _write(folder: Path) -> Path:
    """The same texts in every kind of file that holds records."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [{"text": text, "id": f"d{i}", "language": "en"} for i, text in enumerate(TEXTS)]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    (folder / "a.jsonl").write_text(lines)
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    pq.write_table(pa.Table.from_pylist(records), folder / "c.parquet")
    plain = [record for record in records if "\0" not in record["text"]]
    cells = ["text,id,language"] + ['"{}",{},{}'.format(*record.values()) for record in plain]
    (folder / "d.csv").write_text("\n".join(cells) + "\n")
    (folder / "e.txt").write_text(TEXTS[0])
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return _write(tmp_path / "in")


def _score(folder: Path | str, out: Path, signals: str = "rpv2", **options: Any) -> Scored:
    return score([str(folder)], out, choose(signals, {}, {}), **options)


def _rows(out: Path, name: str) -> list[dict[str, Any]]:
    return pq.read_table(out / f"{name}.signals.parquet").to_pylist()


def test_a_row_comes_out_for_every_row_and_says_what_it_is(folder: Path, tmp_path: Path) -> None:
    done = _score(folder, tmp_path / "out")
    assert [(one.name, one.counts["rows"], one.counts["rejects"]) for one in done.inputs] == [
        ("a.jsonl", 6, 2),
        ("b.jsonl.gz", 6, 2),
        ("c.parquet", 6, 2),
        ("d.csv", 5, 1),
        ("e.txt", 1, 0),
    ]
    rows = _rows(tmp_path / "out", "a.jsonl")
    assert [row["row"] for row in rows] == list(range(6))
    assert [row["location"] for row in rows] == [f"a.jsonl:{i + 1}" for i in range(6)]
    assert [row["id"] for row in rows] == ["d0", None, "d2", "d3", None, "d5"]
    assert [row["reject"] for row in rows] == [None, "empty", None, None, "nul_byte", None]
    assert all((row["rps_doc_word_count"] is None) == (row["reject"] is not None) for row in rows)


def test_values_are_those_of_the_families(folder: Path, tmp_path: Path) -> None:
    _score(folder, tmp_path / "out", "rpv2,gopher,c4")
    kept = [text for text in TEXTS if text and "\0" not in text]
    documents = pa.table({
        "shard": ["s"] * len(kept),
        "row": pa.array(range(len(kept)), pa.int32()),
        "text": pa.array(kept, pa.large_string()),
        "language": pa.array(["en"] * len(kept), pa.string()),
        "meta": pa.array([[("id", "x")]] * len(kept), pa.map_(pa.string(), pa.string())),
    })  # fmt: skip
    wanted = compute_families([get_family(name) for name in (*RPV2, "gopher", "gopher_repetition", "c4")], documents)
    for name in ("a.jsonl", "b.jsonl.gz", "c.parquet"):
        found = [row for row in _rows(tmp_path / "out", name) if row["reject"] is None]
        for table in wanted.values():
            for column in table.column_names[2:]:
                assert [row[column] for row in found] == table.column(column).to_pylist(), column


def test_json_lines_say_the_same(folder: Path, tmp_path: Path) -> None:
    _score(folder, tmp_path / "out")
    _score(folder, tmp_path / "lines", form="jsonl")
    packed = (tmp_path / "lines" / "a.jsonl.signals.jsonl.gz").read_bytes()
    lines = [json.loads(line) for line in gzip.decompress(packed).splitlines()]
    rows = _rows(tmp_path / "out", "a.jsonl")
    assert lines == [{**row, "doc_id": row["doc_id"] and str(row["doc_id"])} for row in rows]


def test_the_second_run_makes_nothing(folder: Path, tmp_path: Path, tree: Tree) -> None:
    out = tmp_path / "out"
    _score(folder, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")}
    assert not any(one.why for one in _score(folder, out).inputs)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.parquet")} == before
    assert not list(out.glob(".partial-*"))


def test_what_is_no_longer_true_is_made_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    _score(folder, out)
    (folder / "a.jsonl").write_text('{"text": "other"}\n')
    (out / "e.txt.signals.parquet").unlink()
    (out / "d.csv.signals.parquet").write_bytes(b"cut")
    whys = {one.name: one.why for one in _score(folder, out).inputs}
    assert whys.pop("a.jsonl").startswith("input changed: a.jsonl")
    assert whys == {name: "outputs are gone or changed" if name in ("d.csv", "e.txt") else "" for name in whys}
    whys = {one.name: one.why for one in _score(folder, out, "gopher").inputs}
    assert all("signals.gopher" in why for why in whys.values())
    assert all("language" in one.why for one in _score(folder, out, "gopher", fields=Fields(language="de")).inputs)


def test_a_rise_of_a_version_makes_it_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import dataclasses

    from tilth.quality_signals import registry

    _score(folder / "a.jsonl", tmp_path / "out")
    family = get_family("lines")
    monkeypatch.setitem(registry._FAMILIES, "lines", dataclasses.replace(family, version=family.version + 1))
    (one,) = _score(folder / "a.jsonl", tmp_path / "out").inputs
    assert one.why == f"signals.lines {family.version} -> {family.version + 1}"


def test_manifests_hold_no_path_and_no_time(folder: Path, tmp_path: Path) -> None:
    _score(folder, tmp_path / "out")
    found = manifests(tmp_path / "out")
    assert list(found) == ["a.jsonl", "b.jsonl.gz", "c.parquet", "d.csv", "e.txt"]
    assert str(tmp_path) not in json.dumps(found)


@pytest.mark.cluster
@pytest.mark.parametrize("form", ["parquet", "rpv2"])
def test_the_same_bytes_for_any_number_of_workers(folder: Path, tmp_path: Path, tree: Tree, form: str) -> None:
    outs = [tmp_path / "one", tmp_path / "two"]
    for n_workers, out in enumerate(outs, 1):
        _score(folder, out, form=form, n_workers=n_workers)
    one, two = ({name: data for name, data in tree(out).items() if "fingerprints" not in name} for out in outs)
    assert one == two


@settings(max_examples=25, deadline=None)
@given(batch_rows=st.integers(1, 9), batch_bytes=st.integers(1, 60))
def test_values_do_not_depend_on_batches(tmp_path_factory: pytest.TempPathFactory, batch_rows: int, batch_bytes: int) -> None:
    home = tmp_path_factory.mktemp("batches")
    folder = _write(home / "in")
    _score(folder / "a.jsonl", home / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(score_signals, "BATCH_ROWS", batch_rows)
        patch.setattr(score_signals, "BATCH_BYTES", batch_bytes)
        _score(folder / "a.jsonl", home / "cut")
    assert _rows(home / "whole", "a.jsonl") == _rows(home / "cut", "a.jsonl")


KILLED = """
import sys, time
from tilth.pipeline import score_outputs
from tilth.pipeline.score import score
from tilth.pipeline.score_signals import choose

close = score_outputs.ParquetOutput.close
def slow(self):
    time.sleep(float(sys.argv[3]))
    close(self)
score_outputs.ParquetOutput.close = slow
score([sys.argv[1]], sys.argv[2], choose("gopher", {}, {}))
"""


def test_after_kill_9_the_same_command_goes_on(folder: Path, tmp_path: Path, tree: Tree) -> None:
    _score(folder, tmp_path / "whole", "gopher")
    out = tmp_path / "out"
    command = [sys.executable, "-c", KILLED, str(folder), str(out)]
    with subprocess.Popen([*command, "0.3"], stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not (out / "manifests/inputs/b.jsonl.gz.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert 2 <= len(kept) < 5
    subprocess.run([*command, "0"], check=True)
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    assert not list(out.glob(".partial-*"))
    whole, again = (
        {name: data for name, data in tree(at).items() if "fingerprints" not in name} for at in (tmp_path / "whole", out)
    )
    assert whole == again


def test_an_input_that_fails_does_not_stop_the_others(folder: Path, tmp_path: Path) -> None:
    (folder / "f.csv").write_text("body\nno such column as text\n")
    with pytest.raises(BuildError, match=r"1 of 6 inputs could not be scored.*no column `text`"):
        _score(folder, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*.parquet"))) == 5


def test_fields_and_language_are_the_users(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "das ist der Satz", "key": "k1"}\n')
    _score(tmp_path / "a.jsonl", tmp_path / "out", fields=Fields("body", "key", "de"))
    (row,) = _rows(tmp_path / "out", "a.jsonl")
    assert (row["id"], row["language"]) == ("k1", "de")
    assert row["rps_doc_stop_word_fraction"] == 0.75


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    for name in ("x", "y"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "p.jsonl").write_text(json.dumps({"text": name}) + "\n")
    paths = [str(tmp_path / name / "p.jsonl") for name in ("x", "y", "x")]
    assert [one.name for one in find_inputs(paths, Fields(), tmp_path / "out")] == ["x/p.jsonl", "y/p.jsonl"]
    score(paths, tmp_path / "out", choose("gopher", {}, {}))
    assert (tmp_path / "out" / "x" / "p.jsonl.signals.parquet").is_file()


def test_its_own_output_is_no_input(folder: Path) -> None:
    assert len(_score(folder, folder / "scored").inputs) == 5
    done = _score(folder, folder / "scored")
    assert len(done.inputs) == 5
    assert not any(one.why for one in done.inputs)


def test_a_file_named_like_a_pattern_is_itself(tmp_path: Path) -> None:
    for name in ("[a].txt", "a.txt", "b*.txt", "bb.txt"):
        (tmp_path / name).write_text(f"text of {name}")
    done = _score(tmp_path, tmp_path.parent / "out-patterns")
    assert [one.counts["rows"] for one in done.inputs] == [1] * 4


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl.zst", "JsonLines"), ("en_head.json.gz", "JsonLines"), ("x.PARQUET", "ParquetFiles"), ("t.tsv.gz", "CsvFiles"),
        ("CC-MAIN-1.warc.wet.gz", "Warc"), ("a.warc.zst", "Warc"), ("old.arc.gz", "Arc"), ("notes", "Folder"), ("n.md", "Folder"),
    ],
)  # fmt: skip
def test_names_tell_kinds(name: str, kind: str) -> None:
    assert kind_of(name) == kind


def test_mistakes_are_told_before_anything_is_made(folder: Path, tmp_path: Path) -> None:
    for wanted, words in (("gophr", "gopher"), ("quality", "--model quality=FILE"), ("bad_words", "--bad-words"), ("", "Known")):
        with pytest.raises(RecipeError) as caught:
            choose(wanted, {}, {})
        assert words in str(caught.value)
    with pytest.raises(RecipeError, match="not scored"):
        choose("gopher", {}, {"quality": b""})
    with pytest.raises(SourceError, match="no such file"):
        _score(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(RecipeError, match="parquet"):
        _score(folder, tmp_path / "out", form="parket")
    (tmp_path / "a file").write_text("x")
    with pytest.raises(SourceError, match="not a folder"):
        _score(folder, tmp_path / "a file")
    assert not (tmp_path / "out").exists()


def test_the_verb(folder: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    words = [str(folder), "-o", str(tmp_path / "out"), "--signals", "gopher"]
    done = runner.invoke(verb, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "a.jsonl" in done.stdout
    assert "5 of 5 made" in done.stderr
    done = runner.invoke(verb, [*words, "--json"], catch_exceptions=False)
    assert json.loads(done.stdout)["inputs"]["a.jsonl"] == {"rows": 6, "documents": 4, "rejects": 2, "bytes": 60, "made": ""}
    done = runner.invoke(verb, [*words[:-2], "--as", "rpv2"], catch_exceptions=False)
    assert "rps_doc_ldnoobw_words" in done.stderr
    assert runner.invoke(verb, [*words, "--model", "quality"]).exit_code == 2


@pytest.mark.data
def test_real_archives_are_scored_row_by_row(test_data: Path, tmp_path: Path) -> None:
    home = test_data / "whirlwind_cc"
    done = score([str(home / "whirlwind.warc.gz"), str(home / "whirlwind.warc.wet.gz")], tmp_path / "out", choose("all", {}, {}))
    assert all(one.counts["rows"] == one.counts["documents"] + one.counts["rejects"] for one in done.inputs)
    assert sum(one.counts["documents"] for one in done.inputs) == 2
    for one in done.inputs:
        assert len(_rows(tmp_path / "out", one.name)) == one.counts["rows"]


@pytest.mark.data
def test_damaged_archives_score_to_rejects(test_data: Path, tmp_path: Path) -> None:
    folder = test_data / "jwat_invalid"
    files = [str(path) for path in sorted(folder.rglob("*")) if kind_of(path.name) in ("Warc", "Arc")]
    done = score(files, tmp_path / "out", choose("gopher", {}, {}))
    assert len(done.inputs) == len(files) > 5
    assert sum(one.counts["rejects"] for one in done.inputs) > 0


def test_a_large_file_is_scored_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    line = json.dumps({"text": "Soil and seed and rain over the field. " * 500}) + "\n"  # 20 kB
    with open(path, "w") as file:
        for _ in range(6000):
            file.write(line)
    code = (
        "import resource, sys; from tilth.pipeline.score import score; from tilth.pipeline.score_signals import choose\n"
        "score([sys.argv[1]], sys.argv[2], choose('lines', {}, {}))\n"
        "print(next(int(line.split()[1]) // 1024 for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "out")], capture_output=True, text=True, check=True, env=os.environ
    )
    assert path.stat().st_size > 115e6
    assert int(done.stdout) < 700  # MiB, the libraries included
