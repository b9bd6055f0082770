"""SIGTERM: what runs is finished, what comes is refused, the process ends with 0 within its bound; a second one ends it at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tilth.errors import UserError

SECONDS = 120.0
SCRIPT = Path(__file__).parent / "run_stub_server.py"


class ServerProcess:
    """The script beside this file; its engine is told by lines what to do."""

    def __init__(self, drain_seconds: float) -> None:
        command = [sys.executable, str(SCRIPT), str(drain_seconds)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def tell(self, line: str) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def ask(self) -> httpx.Response:
        body = {"model": "base", "prompt": "some text", "max_tokens": 4, "seed": 1}
        return httpx.post(f"{self.url}/v1/completions", json=body, timeout=SECONDS)

    def wait_until(self, what: Callable[[], bool]) -> None:
        ends = time.monotonic() + SECONDS
        while not what():
            assert time.monotonic() < ends, "it never came to that"
            time.sleep(0.02)

    def n_open(self) -> str:
        lines = httpx.get(f"{self.url}/metrics", timeout=SECONDS).text.splitlines()
        return next(line.split()[1] for line in lines if line.startswith("tilth_open_requests "))

    def is_draining(self) -> bool:
        return httpx.get(f"{self.url}/ready", timeout=SECONDS).status_code == 503

    def end(self) -> tuple[int, str]:
        """Its exit code, and what it wrote to stderr."""
        _, errors = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, errors


@pytest.fixture
def start() -> Iterator[Callable[[float], ServerProcess]]:
    started: list[ServerProcess] = []

    def begin(drain_seconds: float) -> ServerProcess:
        started.append(ServerProcess(drain_seconds))
        return started[-1]

    yield begin
    for each in started:
        if each.process.poll() is None:
            each.process.kill()
            each.process.communicate(timeout=SECONDS)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_runs_is_finished_and_what_comes_is_refused(start: Callable[[float], ServerProcess], number: signal.Signals) -> None:
    server = start(SECONDS)
    assert not server.is_draining()
    server.tell("hold")
    with ThreadPoolExecutor() as threads:
        running = threads.submit(server.ask)
        server.wait_until(lambda: server.n_open() == "1.0")
        server.process.send_signal(number)
        server.wait_until(server.is_draining)
        refused = server.ask()
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert "retry-after" in refused.headers
        assert httpx.get(f"{server.url}/health", timeout=SECONDS).status_code == 200
        server.tell("go_on")
        assert running.result().json()["choices"][0]["finish_reason"] == "length"
    assert server.end() == (0, "")


@pytest.mark.slow
def test_what_does_not_end_in_time_is_given_up(start: Callable[[float], ServerProcess]) -> None:
    server = start(0.5)
    server.tell("hold")
    with ThreadPoolExecutor() as threads:
        running = threads.submit(server.ask)
        server.wait_until(lambda: server.n_open() == "1.0")
        server.process.terminate()
        assert (running.result().status_code, running.result().json()["error"]["code"]) == (503, "draining")
    assert server.end() == (0, "")


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(start: Callable[[float], ServerProcess]) -> None:
    server = start(10 * SECONDS)
    server.tell("hold")
    with ThreadPoolExecutor() as threads:
        running = threads.submit(server.ask)
        server.wait_until(lambda: server.n_open() == "1.0")
        server.process.terminate()
        server.wait_until(server.is_draining)
        server.process.terminate()  # a moment later: the same wish
        time.sleep(0.6)
        assert server.process.poll() is None
        server.process.terminate()
        assert server.end()[0] == 143
        # told in words where there was time, else by the closed connection
        assert running.exception() is not None or running.result().status_code == 503


def test_a_port_that_is_taken(serve: Callable[..., object], server: object) -> None:
    with pytest.raises(UserError, match="cannot be listened on"):
        serve(port=server.port)  # type: ignore[attr-defined]
