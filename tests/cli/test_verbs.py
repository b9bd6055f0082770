"""The verbs in a project where nothing is built: formats, refusals, help, Ctrl-C."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pyarrow.parquet as pq
import pytest

from tilth.cli.main import cli

Tilth = Callable[..., subprocess.CompletedProcess[str]]
ENDLESS = "select sum(a.range * b.range) from range(10000000) a, range(10000000) b"
TYPES = "select 'nan'::float x, map {'k': 1} m, 1 a, 2 a, 'a,b' t, true y"


@pytest.fixture
def tilth(tmp_path: Path) -> Tilth:
    """Run a verb in an empty project."""
    (tmp_path / "recipes").mkdir()

    def run(*words: str, expect: int = 0, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "tilth", *words]
        done = subprocess.run(command, cwd=tmp_path, input=stdin, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == expect, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    return run


def test_json_csv_and_parquet_hold_the_same_answer(tilth: Tilth, tmp_path: Path) -> None:
    (row,) = json.loads(tilth("sql", TYPES, "--json").stdout, parse_constant=pytest.fail)
    assert row == {"x": None, "m": {"k": 1}, "a": 1, "a_1": 2, "t": "a,b", "y": True}
    header, cells = csv.reader(tilth("sql", TYPES, "--csv").stdout.splitlines())
    assert header == list(row)
    assert cells == ["nan", '{"k": 1}', "1", "2", "a,b", "true"]
    tilth("sql", TYPES, "--parquet", "out.parquet")
    assert pq.read_table(tmp_path / "out.parquet").column_names == header
    assert tilth("sql", TYPES).stdout.splitlines()[0].split() == header
    assert tilth("sql", stdin="select 3 as three").stdout.split() == ["three", "3"]


REFUSED = {
    "unknown verb": (["bild"], "Did you mean `build`?"),
    "unknown option": (["build", "x", "--wrkers", "2"], "--workers"),
    "missing argument": (["build"], "Missing argument 'RECIPE'"),
    "no workers": (["build", "x", "--workers", "0"], "--workers"),
    "two formats": (["sql", "--json", "--csv", "select 1"], "exclude each other"),
    "nowhere to write": (["sql", "select 1", "--parquet", "no/such/out.parquet"], "does not exist"),
    "a folder to write": (["report", "-o", "."], "this is a folder"),
    "an empty query": (["sql", ""], "there is no question"),
    "a budget that is no number": (["pick", "x", "true", "--from", "x", "--tokens", "inf"], "500k, 20M or 2B"),
    "a negative budget": (["pick", "x", "true", "--from", "x", "--tokens=-5"], "500k, 20M or 2B"),
    "negative steps": (["deploy", "x", "--base", "y", "--distill-steps", "-1"], "--distill-steps"),
    "a loss that is no number": (["deploy", "x", "--base", "y", "--max-loss", "nan"], "nan of the gain cannot be lost"),
    "a project that is there": (["new", "."], "there is a project already"),
    "a file in the way": (["new", "file"], "no folder can be made here"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_said_in_three_lines(name: str, tilth: Tilth, tmp_path: Path) -> None:
    words, answer = REFUSED[name]
    (tmp_path / "file").touch()
    lines = tilth(*words, expect=2).stderr.splitlines()
    assert [line[:6] for line in lines] == ["error:", "   at:", "  fix:"]
    assert answer in "\n".join(lines)


def test_new_says_how_to_go_on(tilth: Tilth, tmp_path: Path) -> None:
    said = tilth("new", "a b's").stderr
    assert "cd 'a b'\"'\"'s' && tilth build demo" in said
    assert (tmp_path / "a b's" / "recipes" / "demo.py").is_file()


def test_an_empty_project_is_whole(tilth: Tilth) -> None:
    assert "nothing is built yet" in tilth("check").stdout
    assert "nothing yet" in tilth("ls").stderr


def test_the_listing_of_verbs_cuts_no_sentence(tilth: Tilth) -> None:
    listed = tilth("--help").stdout.partition("Commands:")[2].strip().splitlines()
    assert [line.split()[0] for line in listed] == list(cli.commands)
    assert all(line.endswith(".") and not line.endswith("..") for line in listed)
    assert all(isinstance(verb, click.Command) for verb in cli.commands.values())


def test_ctrl_c_stops_a_query(tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    command = [sys.executable, "-m", "tilth", "sql", ENDLESS]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    # The query has begun once the process uses more than what starting takes.
    while _cpu_seconds(process.pid) < 1.5:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    try:
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130, said
    assert "stopped" in said


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
