"""The README's commands run, in a fresh project, and print what the README shows, in shape; then what they made is looked at."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@dataclass
class Command:
    words: str
    shown: list[str]


def readme_commands(text: str) -> list[Command]:
    """Every `$ command` of the console blocks, with the lines shown below it."""
    commands: list[Command] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                commands.append(Command(line[2:], []))
            elif line.endswith("\\") and commands and not commands[-1].shown:
                commands[-1].words += line
            elif commands and line.strip():
                commands[-1].shown.append(line)
    return commands


def first_word(line: str) -> str:
    """What a line begins with; numbers differ from run to run, so any number is as good as another."""
    word = line.split()[0]
    return "0" if re.fullmatch(r"[\d.,:x]+", word) else word.split("@")[0].rstrip(":,")


def run(words: str, cwd: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(words, shell=True, cwd=cwd, capture_output=True, text=True, env=environment, timeout=900, check=False)
    assert done.returncode == 0, f"$ {words}\n{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def outputs(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What every `tilth` command of the README really printed, in order."""
    folder = tmp_path_factory.mktemp("readme")
    printed: dict[str, str] = {}
    for command in readme_commands((repository / "README.md").read_text()):
        if not command.words.startswith("tilth "):
            continue
        head, _, rest = command.words.partition(" && cd ")
        printed[command.words] = run(head, folder)
        if rest:
            folder = folder / shlex.split(rest)[0]
    return printed


def test_the_readme_shows_what_the_commands_print(repository: Path, outputs: dict[str, str]) -> None:
    assert len(outputs) >= 8
    for command in readme_commands((repository / "README.md").read_text()):
        if command.words not in outputs:
            continue
        printed = {first_word(line) for line in outputs[command.words].splitlines() if line.strip()}
        missing = [line for line in command.shown if first_word(line) not in printed and "…" not in line]
        assert not missing, f"$ {command.words}\nshown but not printed: {missing}\nprinted:\n{outputs[command.words]}"


def test_the_loss_falls_and_the_delta_is_small(outputs: dict[str, str]) -> None:
    trained = [text for words, text in outputs.items() if words.startswith("tilth train")]
    assert len(trained) == 2
    for text in trained:
        start, end = map(float, re.findall(r"validation loss\s+([\d.]+) -> ([\d.]+)", text)[0])
        assert end < start
    (deployed,) = [text for words, text in outputs.items() if words.startswith("tilth deploy")]
    base, tuned, delta = map(float, re.findall(r"base ([\d.]+), fine-tune ([\d.]+), base \+ delta ([\d.]+)", deployed)[0])
    assert tuned < base
    assert abs(delta - tuned) < 0.5 * (base - tuned)


def test_the_trace_ends_at_a_swhid_a_file_and_a_licence(outputs: dict[str, str]) -> None:
    (traced,) = [text for words, text in outputs.items() if words.startswith("tilth trace")]
    assert re.search(r"text_swhid\s+swh:1:cnt:[0-9a-f]{40}", traced)
    assert re.search(r"^\s*path\s+\S+", traced, re.MULTILINE)
    assert re.search(r"^\s*licence\s+\S+", traced, re.MULTILINE)
