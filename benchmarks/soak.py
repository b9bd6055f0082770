"""Twenty minutes of mixed use of a small server: every answer must be right or the refusal it should be, and memory must stay.

    python benchmarks/soak.py [--seconds 1200] [--clients 6] [--quick]

Clients, each its own seed, take turns at: completions and chats, whole and as streams, greedy and sampled, one to four samples,
stop strings, base and two tenants, conversations that grow by their own answers, streams that are hung up in the middle,
requests that are wrong (bad JSON, NaN, unknown tenants, prompts too long), health and metrics; and one of them loads and
unloads a third tenant all the time. Greedy answers to one prompt must be the same from beginning to end. The server's memory
(RSS) is read each second; growth is the median of the last tenth of the time against that of the tenth after the warm-up,
which is the first third: by then the prefix cache, whose cap is small here, has been full for long. The growth must be under 1 %.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import time
from collections import Counter
from typing import Any

import httpx
from results import append, row
from served_model import LOADED, SPARE, TEXT, Serving, serving

WARM_UP, WINDOW = 1 / 3, 1 / 10
BAR = 1.0  # per cent
FIXED = {"prompt": "def test(", "max_tokens": 12, "temperature": 0}


class Soak:
    """counts: what was asked and how it was answered; wrong: what should not have been."""

    def __init__(self, server: Serving, seconds: float) -> None:
        self.server, self.ends = server, time.monotonic() + seconds
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.fixed_answers: dict[str, str] = {}

    async def client(self, number: int) -> None:
        """One client until the time is over."""
        draw = random.Random(number)
        limits = httpx.Limits(max_connections=4)
        async with httpx.AsyncClient(base_url=self.server.url, timeout=300, limits=limits, trust_env=False) as http:
            while time.monotonic() < self.ends:
                turn = draw.choices(
                    (self.whole, self.stream, self.hang_up, self.bad, self.fixed, self.talk, self.look), (4, 4, 2, 2, 2, 2, 1)
                )[0]
                try:
                    await turn(http, draw)
                except Exception as error:
                    self.note(turn.__name__, f"{type(error).__name__}: {error}")

    def note(self, what: str, wrong: str = "") -> None:
        self.counts[what] += 1
        if wrong:
            self.wrong.append(f"{what}: {wrong}")

    def call(self, draw: random.Random) -> tuple[str, dict[str, Any]]:
        """A good call of any kind."""
        start, length = draw.randrange(len(TEXT)), draw.choice((20, 200, 1000))
        text = TEXT[start : start + length] or "x"
        body: dict[str, Any] = {"model": draw.choice(("base", *LOADED)), "n": draw.choice((1, 1, 1, 4))}
        body |= {"temperature": draw.choice((0, 0.8)), "top_p": 0.95, "seed": draw.randrange(1000)}
        if draw.random() < 0.3:
            body["stop"] = ["\n\n", "self"]
        if draw.random() < 0.3:
            body["cache_salt"] = str(draw.randrange(3))
        if draw.random() < 0.5:
            return "/v1/completions", body | {
                "prompt": text,
                "max_tokens": draw.randrange(1, 24),
                "logprobs": draw.choice((None, 2)),
            }
        return "/v1/chat/completions", body | {
            "messages": [{"role": "user", "content": text}],
            "max_tokens": draw.randrange(1, 24),
        }

    async def whole(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        path, body = self.call(draw)
        answer = await http.post(path, json=body)
        is_good = answer.status_code == 200 and len(answer.json()["choices"]) == body["n"]
        self.note("whole", "" if is_good else answer.text[:300])

    async def stream(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        path, body = self.call(draw)
        reasons, last = 0, ""
        async with http.stream("POST", path, json=body | {"stream": True}) as answer:
            async for line in answer.aiter_lines():
                last = line or last
                if line.startswith("data: {"):
                    reasons += sum(choice["finish_reason"] is not None for choice in json.loads(line[6:])["choices"])
        is_good = answer.status_code == 200 and reasons == body["n"] and last == "data: [DONE]"
        self.note("stream", "" if is_good else f"{answer.status_code}, {reasons} of {body['n']} ended, last line {last[:300]}")

    async def hang_up(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        """A client of its own: closing it closes the connection."""
        path, body = self.call(draw)
        body |= {"stream": True, "max_tokens": 400, "ignore_eos": True}
        own = httpx.AsyncClient(base_url=self.server.url, timeout=300, trust_env=False, verify=False)
        async with own, own.stream("POST", path, json=body) as answer:
            async for _ in answer.aiter_lines():
                break
        self.note("hung up", "" if answer.status_code == 200 else str(answer.status_code))

    async def bad(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        _, body = self.call(draw)
        body = {"model": "base", "prompt": "x", "temperature": body["temperature"]}
        content, expected = draw.choice((
            (b"{", 400),
            (json.dumps(body | {"temperature": float("nan")}).encode(), 400),
            (json.dumps(body | {"model": "nobody"}).encode(), 404),
            (json.dumps(body | {"prompt": "x" * 200_000}).encode(), 400),
            (json.dumps(body | {"prompt": [1] * 5000}).encode(), 400),
            (b"x" * (5 << 20), 413),
        ))  # fmt: skip
        answer = await http.post("/v1/completions", content=content)
        self.note(f"refused {expected}", "" if answer.status_code == expected else answer.text[:300])

    async def fixed(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        model = draw.choice(("base", *LOADED))
        answer = await http.post("/v1/completions", json=FIXED | {"model": model})
        text = answer.json()["choices"][0]["text"]
        expected = self.fixed_answers.setdefault(model, text)
        self.note("fixed", "" if text == expected else f"{model} said {text!r}, before {expected!r}")

    async def talk(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        """A conversation that grows by what it is told."""
        model, text = draw.choice(("base", *LOADED)), TEXT[draw.randrange(len(TEXT) - 200) :][:200]
        for _ in range(3):
            body = {"model": model, "prompt": text, "max_tokens": 16, "temperature": 0}
            answer = await http.post("/v1/completions", json=body)
            self.note("turn", "" if answer.status_code == 200 else answer.text[:300])
            text += answer.json()["choices"][0]["text"] + " and then"

    async def look(self, http: httpx.AsyncClient, draw: random.Random) -> None:
        for path in ("/health", "/ready", "/metrics", "/v1/models"):
            answer = await http.get(path)
            self.note("look", "" if answer.status_code == 200 else f"{path}: {answer.status_code}")

    async def come_and_go(self) -> None:
        """The third tenant is loaded, asked and unloaded, again and again."""
        headers = {"authorization": f"Bearer {self.server.token}"}
        async with httpx.AsyncClient(timeout=300, trust_env=False) as http:
            while time.monotonic() < self.ends:
                for path in ("load_delta", "unload_delta"):
                    answer = await http.post(f"{self.server.admin_url}/v1/{path}", json={"model": SPARE}, headers=headers)
                    self.note(path, "" if answer.status_code == 200 else answer.text[:300])
                    asked = await http.post(f"{self.server.url}/v1/completions", json=FIXED | {"model": SPARE})
                    expected = 200 if path == "load_delta" else 404
                    self.note(f"guest {expected}", "" if asked.status_code == expected else asked.text[:300])
                    await asyncio.sleep(0.5)

    async def watch(self) -> list[int]:
        """The server's memory, each second."""
        found = []
        while time.monotonic() < self.ends:
            found.append(self.server.rss_bytes)
            await asyncio.sleep(1)
        return found


async def run(server: Serving, seconds: float, n_clients: int) -> tuple[Soak, list[int]]:
    """The whole soak: what happened, and the server's memory by second."""
    soak = Soak(server, seconds)
    watching = asyncio.create_task(soak.watch())
    await asyncio.gather(*(soak.client(number) for number in range(n_clients)), soak.come_and_go())
    return soak, await watching


def growth_percent(memory: list[int], warm_up: float = WARM_UP) -> float:
    """The last tenth against the tenth after the warm-up, a share of the whole."""
    start, width = int(len(memory) * warm_up), max(1, int(len(memory) * WINDOW))
    return 100 * (statistics.median(memory[-width:]) / statistics.median(memory[start : start + width]) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1200)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--quick", action="store_true", help="write nothing")
    options = parser.parse_args()
    with serving(capacity_bytes=2 << 20) as server:
        soak, memory = asyncio.run(run(server, options.seconds, options.clients))
        cpu = server.cpu_seconds
    growth = growth_percent(memory)
    asked = ", ".join(f"{count} {what}" for what, count in sorted(soak.counts.items()))
    tenths = [memory[i * len(memory) // 10] / 2**20 for i in range(10)]
    notes = (
        f"peer: the bar; {len(soak.wrong)} wrong of {sum(soak.counts.values())} ({asked}); MiB at each tenth "
        f"{' '.join(f'{mib:.0f}' for mib in (*tenths, memory[-1] / 2**20))}; {cpu:.0f} s CPU; 3 tenants, one coming and going"
    )
    found = row(
        "soak, growth of memory after warm-up", f"{options.seconds:.0f} s, {options.clients} clients", growth, "%", BAR, notes, 1
    )
    print("  ".join(found[key] for key in ("what", "size", "ours", "unit", "notes")))
    print("\n".join(soak.wrong[:20]))
    if not options.quick:
        append([found])
    sys.exit(1 if soak.wrong or growth > BAR else 0)


if __name__ == "__main__":
    main()
