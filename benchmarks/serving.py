"""Times the serving engine on the CPU: a batch against one request at a time, against HF `generate`, samples that share a
prompt, and the first token after a shared prefix.

    python benchmarks/serving.py [PART ...] [--rounds 5] [--quick]      parts: batch, hf, samples, prefix; all without one

The batch is 16 requests on `hybrid-150m` (32 layers, 0.6 GB in fp32: weights that no cache of a CPU holds, as with any model
that is served), against the same requests one after the other, in an engine that pads no single row (the fastest for one).
HF generate gets the same weights and prompts, padded on the left (benchmarks/peers_models.txt); 64 samples of one prompt of
4096 tokens are set against 64 requests without a cache, and the first token after 8192 shared tokens against a cold one, both on
the hybrid of d256. In turns in one process, one thread; medians of CPU time of the process.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from unittest import mock

import torch
from hybrid_peer import HYBRID, check_same, hf_twin
from results import append, row, spread

from tilth.inference.engine.engine import Engine
from tilth.inference.engine.limits import EngineLimits
from tilth.inference.engine.requests import BranchFinished, Event, FinishReason, NewToken, Request
from tilth.inference.sampling import Sampling
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.presets import with_preset

Call = Callable[[], Any]
LONG_PROMPT, PREFIX, TAIL, N_SAMPLES = 4096, 8192, 64, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="write nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.parts or PARTS:
        torch.manual_seed(0)
        for rows in PARTS[name](options.rounds):
            if not options.quick:
                append(rows)
            else:
                print(*("  ".join(values.values()) for values in rows), sep="\n", flush=True)
        gc.collect()


def batch_of_16(rounds: int) -> Iterator[list[dict[str, str]]]:
    """16 requests together, and one after the other."""
    model = Decoder(ModelConfig(**with_preset({"preset": "hybrid-150m"})))
    requests = [request(draw(model, 64), 32) for _ in range(16)]
    times = in_turns({"ours": lambda: ask(engine_of(model), requests), "peer": lambda: one_by_one(model, requests[:4])}, rounds)
    n_tokens = 16 * 32
    ours, peer = statistics.median(times["ours"]), 4 * statistics.median(times["peer"])
    notes = (
        f"new tokens/s {n_tokens / ours:.1f} and {n_tokens / peer:.1f}; p10-p90 {spread(times['ours'])}; prompts of 64 read, too"
    )
    yield [row("serving, 16 together against one by one", "hybrid-150m fp32, 32 new", ours, "s", peer, notes, threads=1)]
    ours, peer = decoding_only(model, 16, rounds), decoding_only(model, 1, rounds)
    notes = f"tokens/s {16 / ours:.1f} and {1 / peer:.1f}; the ratio is of tokens/s"
    yield [row("serving, a decoding step of 16 against 16 of one", "hybrid-150m fp32", ours, "s", 16 * peer, notes, threads=1)]


def decoding_only(model: Decoder, n_rows: int, rounds: int) -> float:
    """Seconds of a step in which n_rows decode."""
    engine = engine_of(model)
    for _ in range(n_rows):
        engine.submit(request(draw(model, 64), 1000), lambda event: None)
    with unpadded() if n_rows == 1 else contextlib.nullcontext():
        while engine.stats().n_decoding < n_rows:
            engine.step()
        times = []
        for _ in range(4 * rounds):
            began = time.process_time()
            engine.step()
            times.append(time.process_time() - began)
    return statistics.median(times)


def against_hf(rounds: int) -> Iterator[list[dict[str, str]]]:
    """The same prompts through transformers' generate in one padded batch."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    model = Decoder(HYBRID)
    peer = hf_twin(model).eval()
    check_same(model, peer)
    engine = engine_of(model)
    for n_prompts in (16, 64):
        lengths = torch.randint(32, 129, (n_prompts,)).tolist()
        prompts = [draw(model, length) for length in lengths]
        calls = {"ours": partial(ask_cold, engine, [request(prompt, 64) for prompt in prompts])}
        calls["peer"] = partial(by_hf, peer, prompts, 64)
        found = {name: call() for name, call in calls.items()}
        same = sum(ours[0] == hf for ours, hf in zip(found["ours"], found["peer"], strict=True))
        times = in_turns(calls, rounds)
        ours, hf = (statistics.median(times[name]) for name in ("ours", "peer"))
        notes = (
            f"peer: transformers {transformers.__version__} generate, left padding; new tokens/s {n_prompts * 64 / ours:.0f} and "
            f"{n_prompts * 64 / hf:.0f}; {same} of {n_prompts} rows have the peer's tokens; p10-p90 {spread(times['ours'])}, "
            f"{spread(times['peer'])}"
        )
        size = f"B{n_prompts}, prompts of 32-128, 64 new, d256 MMMA fp32"
        yield [row("serving, engine against HF generate", size, ours, "s", hf, notes, threads=1)]


def by_hf(peer: Any, prompts: list[list[int]], n_new: int) -> list[list[int]]:
    longest = max(map(len, prompts))
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    seen = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    found = peer.generate(ids, attention_mask=seen, max_new_tokens=n_new, do_sample=False, pad_token_id=0)
    new: list[list[int]] = found[:, longest:].tolist()
    return new


def samples_of_one_prompt(rounds: int) -> Iterator[list[dict[str, str]]]:
    """64 samples of one prompt as branches of one request, and as 64 requests of an engine without a cache."""
    model = Decoder(HYBRID)
    prompt, how = draw(model, LONG_PROMPT), Sampling(temperature=1.0)
    for n_new in (16, 64):
        together = [request(prompt, n_new, n=N_SAMPLES, sampling=how)]
        apart = [request(prompt, n_new, seed=seed, sampling=how) for seed in range(N_SAMPLES)]
        found: dict[str, list[list[list[int]]]] = {}

        def run(name: str, requests: list[Request], found: dict[str, Any] = found, **options: Any) -> None:
            found[name] = ask(engine_of(model, **options), requests)

        times = in_turns(
            {"ours": partial(run, "ours", together), "peer": partial(run, "peer", apart, uses_cache=False)}, 1 + rounds // 5
        )
        ours, peer = (statistics.median(times[name]) for name in ("ours", "peer"))
        same = sum(ours == theirs[0] for ours, theirs in zip(found["ours"][0], found["peer"], strict=True))
        notes = f"{same} of {N_SAMPLES} samples are the same; rounds {len(times['ours'])}"
        size = f"{N_SAMPLES} samples of {n_new} after {LONG_PROMPT}, d256 MMMA fp32"
        yield [row("serving, samples of one request against requests", size, ours, "s", peer, notes, threads=1)]


def first_token_after_a_prefix(rounds: int) -> Iterator[list[dict[str, str]]]:
    """Time to the first token of a prompt whose first 8192 tokens are shared, warm and cold."""
    model = Decoder(HYBRID)
    prefix = draw(model, PREFIX)
    warm, cold = engine_of(model), engine_of(model, uses_cache=False)
    for _ in range(2):  # the second leaves the path of the first, and its state there is kept
        ask(warm, [request([*prefix, *draw(model, TAIL)], 1)])
    times = in_turns(
        {
            "ours": lambda: ask(warm, [request([*prefix, *draw(model, TAIL)], 1)]),
            "peer": lambda: ask(cold, [request([*prefix, *draw(model, TAIL)], 1)]),
        },
        rounds,
    )
    ours, peer = (statistics.median(times[name]) for name in ("ours", "peer"))
    hit = warm.stats().n_cached_tokens[None]
    notes = (
        f"{1 - ours / peer:.1%} less; {hit} tokens came from the cache; p10-p90 {spread(times['ours'])}, {spread(times['peer'])}"
    )
    size = f"{PREFIX} shared + {TAIL} own tokens, d256 MMMA fp32"
    yield [row("serving, first token on a hit against cold", size, ours, "s", peer, notes, threads=1)]


def ask_cold(engine: Engine, requests: list[Request]) -> list[list[list[int]]]:
    """With a cache that is filled, but has nothing to give."""
    engine.clear_cache()
    return ask(engine, requests)


def engine_of(model: Decoder, **options: Any) -> Engine:
    return Engine(model, limits=EngineLimits(capacity_bytes=4 << 30), **options)


def request(prompt: list[int], n_new: int, **options: Any) -> Request:
    return Request(prompt_ids=tuple(prompt), max_tokens=n_new, **options)


def draw(model: Decoder, n_tokens: int) -> list[int]:
    return torch.randint(1, model.config.vocab_size, (n_tokens,)).tolist()


def ask(engine: Engine, requests: list[Request]) -> list[list[list[int]]]:
    """The tokens of each branch of each request."""
    found: list[list[list[int]]] = [[[] for _ in range(each.n)] for each in requests]
    for number, each in enumerate(requests):

        def listen(event: Event, number: int = number) -> None:
            if isinstance(event, NewToken):
                found[number][event.branch].append(event.token_id)
            elif isinstance(event, BranchFinished):
                assert event.reason == FinishReason.LENGTH, event.message

        engine.submit(each, listen)
    while engine.step():
        pass
    return found


@contextlib.contextmanager
def unpadded() -> Iterator[None]:
    """An engine whose single rows may have other bits than rows in a batch: faster alone."""
    with mock.patch("tilth.inference.engine.engine.rows_apart", contextlib.nullcontext):
        yield


def one_by_one(model: Decoder, requests: list[Request]) -> None:
    with unpadded():
        engine = engine_of(model)
        for each in requests:
            ask(engine, [each])


def in_turns(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each call, round after round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.process_time()
            call()
            times[name].append(time.process_time() - began)
    return times


PARTS = {"batch": batch_of_16, "hf": against_hf, "samples": samples_of_one_prompt, "prefix": first_token_after_a_prefix}

if __name__ == "__main__":
    main()
