"""kill -9 while deltas are loaded and unloaded: nothing on the disk changes, and the next server answers as the first did."""

from __future__ import annotations

import hashlib
import importlib
import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

TOKEN = {"authorization": "Bearer of the benchmark"}


def digests(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.rglob("*")) if path.is_file()}


def start(served: Any, folder: Path) -> tuple[subprocess.Popen[str], str, str]:
    command = [sys.executable, served.__file__, str(folder), str(2 << 20), "8"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout
    ready = json.loads(process.stdout.readline())
    return process, *(f"http://127.0.0.1:{ready[port]}" for port in ("port", "admin_port"))


def load(admin_url: str, model: str) -> None:
    answer = httpx.post(f"{admin_url}/v1/load_delta", json={"model": model}, headers=TOKEN, timeout=60)
    assert answer.status_code == 200


def answers(url: str, models: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for model in models:
        body = {"model": model, "prompt": "def test(", "max_tokens": 12, "temperature": 0}
        found[model] = httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()["choices"][0]["text"]
    return found


@pytest.mark.slow
def test_a_server_killed_while_it_loads_deltas_leaves_all_as_it_was(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(repository / "benchmarks"))
    served = importlib.import_module("served_model")
    served.write_models(tmp_path)
    before, models = digests(tmp_path), ("base", *served.LOADED, served.SPARE)
    expected: dict[str, str] = {}
    n_cut = 0
    for moment in (None, 0.002, 0.01):
        process, url, admin_url = start(served, tmp_path)
        try:
            if moment is None:
                load(admin_url, served.SPARE)
                expected = answers(url, models)
            else:
                assert answers(url, models[:-1]) == {model: expected[model] for model in models[:-1]}
                with ThreadPoolExecutor() as pool:
                    loading = pool.submit(load, admin_url, served.SPARE)
                    time.sleep(moment)
                    process.kill()
                    how = loading.exception()
                assert how is None or isinstance(how, httpx.TransportError)
                n_cut += how is not None
        finally:
            process.kill()
            process.communicate(timeout=60)
        assert digests(tmp_path) == before
    assert n_cut  # at least one was killed before it had answered
    process, url, admin_url = start(served, tmp_path)
    try:
        load(admin_url, served.SPARE)
        assert answers(url, models) == expected
    finally:
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 0
