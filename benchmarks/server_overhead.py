"""What the server itself costs: HTTP, validation, tokenising, queue and answer, over an engine that answers at once.

    python benchmarks/server_overhead.py [--requests 2000] [--rounds 5] [--quick]

The server is one process with the tests' stub engine; this one asks, by plain sockets, as fast as answers come. Latency: one
connection, completions of one token and of 16, chats, and streams until [DONE]; p50 and p99 of wall time. Throughput: 32
connections; requests by wall time, and by CPU time of the server's process, which is what a core can do where the load comes
from elsewhere. Medians over rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
from results import append, row, spread

STUB = Path(__file__).parents[1] / "tests" / "deploy" / "server" / "stub_engine.py"
PROMPT = "the quick brown fox jumps over the lazy dog and then it sleeps "
MESSAGES = [{"role": "system", "content": "You are brief."}, {"role": "user", "content": PROMPT}]
CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "completion, 1 token": ("/v1/completions", {"prompt": PROMPT, "max_tokens": 1}),
    "completion, 16 tokens": ("/v1/completions", {"prompt": PROMPT, "max_tokens": 16}),
    "chat, 16 tokens": ("/v1/chat/completions", {"messages": MESSAGES, "max_tokens": 16}),
    "stream, 16 tokens": ("/v1/completions", {"prompt": PROMPT, "max_tokens": 16, "stream": True}),
}
CONNECTIONS = 32


def load_stub() -> ModuleType:
    """The stub engine of the tests."""
    spec = importlib.util.spec_from_file_location("stub_engine", STUB)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["stub_engine"] = module
    spec.loader.exec_module(module)
    return module


def serve() -> None:
    """The server's process: prints its port, serves until SIGTERM."""
    from tilth.deploy.server.limits import Limits
    from tilth.deploy.server.ports import Ports
    from tilth.deploy.server.running import run_process
    from tilth.deploy.server.service import Served
    from tilth.tokenize.bpe import Tokenizer, train_bpe

    tokenizer = Tokenizer(train_bpe([PROMPT * 50], 320))
    engine = load_stub().StubEngine(max_waiting=4096)
    served = Served(engine=engine, name="base", tokenizer=tokenizer, vocab_size=tokenizer.vocab_size)
    sys.exit(run_process(served, Limits(), Ports(port=0), on_ready=lambda port, _: print(port, flush=True)))


class Connection:
    """HTTP/1.1 by hand: no client library's time is counted."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, request: bytes) -> bytes:
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(head.decode())
        if b"content-length: " in head:
            return await self.reader.readexactly(int(head.split(b"content-length: ")[1].split(b"\r\n")[0]))
        body = await self.reader.readuntil(b"0\r\n\r\n")  # chunked
        assert b"[DONE]" in body
        return body


def request_bytes(path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps({"model": "base", "seed": 1, **body}).encode()
    return (
        f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n".encode()
        + data
    )


async def latencies(port: int, request: bytes, n: int) -> list[float]:
    """Seconds of n calls, one after the other."""
    connection = await Connection.open(port)
    found = []
    for _ in range(n):
        began = time.perf_counter()
        await connection.ask(request)
        found.append(time.perf_counter() - began)
    connection.writer.close()
    return found


async def throughput(port: int, request: bytes, n: int) -> float:
    """Seconds of n calls over CONNECTIONS connections."""
    connections = await asyncio.gather(*(Connection.open(port) for _ in range(CONNECTIONS)))

    async def keep_asking(connection: Connection) -> None:
        for _ in range(n // CONNECTIONS):
            await connection.ask(request)

    began = time.perf_counter()
    await asyncio.gather(*(keep_asking(connection) for connection in connections))
    seconds = time.perf_counter() - began
    for connection in connections:
        connection.writer.close()
    return seconds


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def measure(port: int, server: psutil.Process, options: argparse.Namespace) -> list[dict[str, str]]:
    rows = []
    for name, (path, body) in CALLS.items():
        request = request_bytes(path, body)
        asyncio.run(latencies(port, request, 200))
        p50s, p99s, rates, core_rates = [], [], [], []
        for _ in range(options.rounds):
            seconds = sorted(asyncio.run(latencies(port, request, options.requests // 4)))
            p50s.append(seconds[len(seconds) // 2] * 1e3)
            p99s.append(seconds[int(len(seconds) * 0.99)] * 1e3)
            before = cpu_seconds(server)
            n = options.requests // CONNECTIONS * CONNECTIONS
            rates.append(n / asyncio.run(throughput(port, request, n)))
            core_rates.append(n / (cpu_seconds(server) - before))
        notes = f"p99 {statistics.median(p99s):.3g} ms; p50 of rounds {spread(p50s)}; client by plain sockets on the same cores"
        rows.append(row("server overhead, p50", name, statistics.median(p50s), "ms", 1.5, f"peer: the bar; {notes}"))
        rate, core_rate = statistics.median(rates), statistics.median(core_rates)
        notes = (
            f"{rate:.0f}/s by wall time with the client on the same cores; {CONNECTIONS} connections; rounds {spread(core_rates)}"
        )
        rows.append(row("server, requests a second of its CPU time", name, core_rate, "1/s", None, notes))
        print("  ".join(rows[-2][key] for key in ("what", "size", "ours", "notes")), flush=True)
        print("  ".join(rows[-1][key] for key in ("what", "size", "ours", "notes")), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="write nothing")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return serve()
    process = subprocess.Popen([sys.executable, __file__, "--serve"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        rows = measure(int(process.stdout.readline()), psutil.Process(process.pid), options)
    finally:
        process.terminate()
        process.wait(30)
    if not options.quick:
        append(rows)
    return None


if __name__ == "__main__":
    main()
