"""kill -9, Ctrl-C and a full disk: nothing finished is lost, the same command continues, the bytes are the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
Tree = Callable[[Path], dict[str, bytes]]
N_KILLS = int(os.environ.get("TILTH_KILLS", "10"))


def start_build(project: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tilth", "build", "small"]
    return subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_killed_at_random_moments_the_build_ends_with_the_same_bytes(project: Path, built: Path, tilth: Run, tree: Tree) -> None:
    random_ = random.Random(time.time_ns())
    n_killed = 0
    artifacts = project / ".tilth" / "artifacts"
    for _ in range(N_KILLS):
        process = start_build(project)
        n_before = len(list(artifacts.glob("*/*/manifest.json")))
        # Wait until it works, so that the kill does not always hit the interpreter's start.
        deadline = time.monotonic() + 20
        while (
            process.poll() is None and time.monotonic() < deadline and len(list(artifacts.glob("*/*/manifest.json"))) == n_before
        ):
            time.sleep(0.005)
        time.sleep(random_.uniform(0, 0.05))
        if process.poll() is None:
            n_killed += 1
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert n_killed >= N_KILLS // 2, "the builds ended before they could be killed"
    tilth("build", "small", cwd=project)
    assert tree(artifacts) == tree(built / ".tilth" / "artifacts")
    assert list((project / ".tilth" / "partial").iterdir()) == []
    assert "up to date" in tilth("build", "small", cwd=project).stderr


def test_ctrl_c_exits_with_130_and_the_same_command_resumes(project: Path, tilth: Run) -> None:
    command = [sys.executable, "-m", "tilth", "build", "small"]
    process = subprocess.Popen(command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    artifacts = project / ".tilth" / "artifacts"
    while not list(artifacts.glob("*/*/manifest.json")):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "the same command resumes" in said
    assert "outputs made" in tilth("build", "small", cwd=project).stderr


def run_with_small_files(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a verb that cannot write a file of more than 100 kB."""
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "from tilth.cli import main; main(sys.argv[1:])"
    )
    return subprocess.run([sys.executable, "-c", code, *words], cwd=project, capture_output=True, text=True, check=False)


def test_a_full_disk_leaves_an_earlier_answer_whole(built: Path, tmp_path: Path, tilth: Run) -> None:
    answer = tmp_path / "answer.parquet"
    tilth("sql", "select 1 as x", "--parquet", str(answer), cwd=built)
    before = answer.read_bytes()
    done = run_with_small_files(built, "sql", "select hash(i) as x from range(100_000) as r(i)", "--parquet", str(answer))
    assert done.returncode == 1, done.stderr
    assert "the disk is full" in done.stderr
    assert answer.read_bytes() == before
    assert list(tmp_path.iterdir()) == [answer]


def test_a_full_disk_stops_the_build_with_words_and_it_continues_with_space(project: Path, tilth: Run) -> None:
    """A limit on the size of a file, which the quality model alone exceeds, stands in for the full disk."""
    done = run_with_small_files(project, "build", "small")
    assert done.returncode == 1, done.stderr
    assert "the disk is full" in done.stderr
    assert ".tilth/artifacts" in done.stderr or ".tilth\n" in done.stderr, "a step met it"
    assert list((project / ".tilth" / "artifacts").glob("*/*/manifest.json"))
    assert "fix: Free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert "outputs made" in tilth("build", "small", cwd=project).stderr


def n_running(group: int) -> int:
    """Processes of a group, but for those that are dead and not yet reaped."""
    n = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, found = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it ended meanwhile
            continue
        n += int(found) == group and state != "Z"
    return n


@pytest.mark.slow
def test_ctrl_c_with_workers_stops_them_all_without_a_traceback(project: Path, tilth: Run) -> None:
    command = [sys.executable, "-m", "tilth", "build", "small", "--workers", "2"]
    process = subprocess.Popen(
        command, cwd=project, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not list((project / ".tilth" / "artifacts").glob("*/*/manifest.json")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    deadline = time.monotonic() + 10
    while n_running(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert n_running(process.pid) == 0
    assert "corpus/small@" in tilth("build", "small", cwd=project).stderr


def test_a_damaged_manifest_is_named_and_mended(project: Path, built: Path, tilth: Run, tree: Tree) -> None:
    tilth("build", "small", cwd=project)
    manifest = next(iter((project / ".tilth" / "artifacts" / "signals.language").glob("*/manifest.json")))
    manifest.write_bytes(manifest.read_bytes()[:40])
    for words in (["build", "small"], ["sql", "select 1"], ["ls"]):
        said = tilth(*words, cwd=project, expect=1).stderr
        assert str(manifest) in said
        assert "check --repair" in said
    assert "signals.language" in tilth("check", cwd=project, expect=1).stdout
    tilth("check", "--repair", cwd=project, expect=1)  # what is gone is still wanted
    assert "1 outputs made" in tilth("build", "small", cwd=project).stderr
    tilth("check", cwd=project)
    assert tree(project / ".tilth" / "artifacts") == tree(built / ".tilth" / "artifacts")
