"""`tilth dedup`: an option that a method would not heed is refused with the reason; the help lists all of them, by group."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from tilth.cli.dedup_options import METHODS, RULES
from tilth.cli.dedup_verbs import dedup

VALUES = {
    "preset": "fineweb", "threshold": "0.9", "recall": "0.9", "n_tokens": "4", "unit": "words", "url": "link", "keep": "longest",
    "mode": "keep_first", "min_tokens": "9", "index": "kept", "workers": "2", "embeddings": "a.jsonl", "remove": "a.jsonl",
    "explain": None,
}  # fmt: skip


def test_what_a_method_does_not_heed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n')
    monkeypatch.chdir(tmp_path)
    options = {parameter.name: parameter.opts[0] for parameter in dedup.params}
    n_refused = 0
    for method in METHODS:
        for name, rule in RULES.items():
            if method in rule.methods:
                continue
            value = [] if VALUES[name] is None else [VALUES[name]]
            with pytest.raises(click.UsageError) as raised:
                dedup.main(["a.jsonl", "-o", "out.parquet", "--method", method, options[name], *value], standalone_mode=False)
            assert f"`--method {method}` does not heed `{options[name]}`: {rule.reason}" in raised.value.format_message()
            n_refused += 1
    assert n_refused > 60
    assert not (tmp_path / "out.parquet").exists()


def test_every_option_is_ruled_or_goes_with_every_method() -> None:
    free = {"files", "output", "method", "id_field", "text", "as_data", "debug"}
    assert {parameter.name for parameter in dedup.params} == free | set(RULES)
    assert set(VALUES) == set(RULES)
    assert all(set(rule.methods) < set(METHODS) for rule in RULES.values())


def test_the_help_has_every_option_and_method_under_its_heading() -> None:
    done = subprocess.run([sys.executable, "-m", "tilth", "dedup", "--help"], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for parameter in dedup.params:
        if isinstance(parameter, click.Option):
            assert any(line.strip().startswith(parameter.opts[0]) for line in lines), parameter.name
    heads = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert heads == ["Files:", "How alike (minhash):", "What is kept of a cluster:", "What is cut:", "The work:", "Options:"]
    assert all(method in done.stdout for method in METHODS)
    assert "dedup" in next(line for line in _verbs() if "repeated passages in your own files." in line)


def _verbs() -> list[str]:
    done = subprocess.run([sys.executable, "-m", "tilth", "--help"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()
