"""Times what `tilth evaluate` draws samples with: a transformer teacher, and its students that keep a quarter of its attention
layers, an eighth, and none. The bar: from prompts of 1000 tokens on, in batches that fill memory, twice the teacher's tokens/s.

    python benchmarks/reasoning_speed.py [PART ...] [--quick]      parts: mha, gqa, llama, solve; all without one

mha and gqa: 8 layers of d256, 4 heads of 64 with 4 or 1 key heads, vocabulary 4096. llama: 4 layers, of which the student keeps
one as attention, with the widths of Llama-3.2-1B (32 heads of 64 over 8 key heads) and not its vocabulary. Weights are random;
students come from `student_config` and `make_student`. fp32, one thread, medians of CPU time, the models in turns step by step.

"problems": a sample of each prompt, nothing shared; "samples": 16 of each, which share its keys and values. The batch is 16 for
all models, or the largest for which `needed_bytes` of `evaluate.engines` keeps to the memory, at most MOST_ROWS.
A decoding step of the whole engine is timed in the middle of N_NEW tokens. The prompts are not read for it: keys and values are
filled with noise. A prompt is read for itself; tokens/s of all are B N_NEW / (its reading for each request + N_NEW - 1 steps).
`solve` draws whole evaluations of two batches each in 64 MiB, with nothing put together, as a check of that.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, cast
from unittest import mock

import torch
from results import append, row
from torch import Tensor

from tilth.evaluate.engines import MeasuredEngine, make_engine, needed_bytes
from tilth.evaluate.problems import Problem
from tilth.evaluate.prompting import Coder, Prompting
from tilth.evaluate.solving import Solving, solve
from tilth.inference.cache.costs import StateCosts
from tilth.inference.engine.engine import Engine
from tilth.inference.engine.jobs import Reading
from tilth.inference.engine.paging import KeyValuePool
from tilth.inference.engine.requests import Request
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.trainer.distill.student import make_student, student_config

MIB = 1 << 20
N_NEW, N_SAMPLES, EQUAL_BATCH, MOST_ROWS = 128, 16, 16, 256
ROOMS = {"B16": None, "64 MiB": 64 * MIB, "256 MiB": 256 * MIB, "1 GiB": 1024 * MIB}
COMPARED = ("B16", "256 MiB", "1 GiB")
MOST_STEPS, FEWEST_STEPS, SECONDS = 7, 3, 2.0
SMALL = ModelConfig(vocab_size=4096, d_model=256, layers="A*8", n_heads=4)
SMALL_GQA = ModelConfig(vocab_size=4096, d_model=256, layers="A*8", n_heads=4, n_kv_heads=1)
LLAMA = ModelConfig(
    vocab_size=4096, d_model=2048, layers="A*4", n_heads=32, n_kv_heads=8, head_dim=64, d_ff=8192, rope_theta=500_000.0
)
Models = dict[str, Decoder]


@dataclass(frozen=True)
class Cell:
    """What is drawn: prompts of so many tokens, n samples of each, in how many bytes of states (None: EQUAL_BATCH rows)."""

    n_prompt: int
    n: int
    room: str

    def solving(self, model: Decoder) -> Solving:
        """With as many rows as the model has room for. Raises IndexError where it has none for one request."""
        costs, memory = StateCosts.of(model.config), ROOMS[self.room]
        if memory is None:
            return Solving(n=self.n, batch=EQUAL_BATCH, max_tokens=N_NEW)
        sizes = [Solving(n=self.n, batch=rows, max_tokens=N_NEW) for rows in range(self.n, MOST_ROWS + 1, self.n)]
        return [each for each in sizes if needed_bytes(costs, each, self.n_prompt) <= memory][-1]

    def engine(self, model: Decoder) -> MeasuredEngine:
        return make_engine(model, self.solving(model), self.n_prompt, ROOMS[self.room])

    @property
    def kind(self) -> str:
        return "problems" if self.n == 1 else f"{self.n} samples of a problem"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []])
    parser.add_argument("--quick", action="store_true", help="write nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.parts or PARTS:
        torch.manual_seed(0)
        found = []
        for values in PARTS[name]():
            print("  ".join(values.values()), flush=True)
            found.append(values)
        if not options.quick:  # all at once: a file that has changed would make the commit of the next row a dirty one
            append(found)
        gc.collect()


def family(config: ModelConfig) -> Models:
    """The teacher and its students, by how much of its attention they keep."""
    teacher = Decoder(config).eval()
    patterns = {"a quarter": f"DDDA*{len(config.pattern) // 4}", "an eighth": "DDDDDDDA", "none": f"D*{len(config.pattern)}"}
    students = {name: text for name, text in patterns.items() if name != "an eighth" or len(config.pattern) == 8}
    return {"teacher": teacher} | {
        name: make_student(teacher, student_config(config, text)).eval() for name, text in students.items()
    }


def compare(config: ModelConfig, name: str, prompts: tuple[int, ...], rounds: int) -> Iterator[dict[str, str]]:
    """A row for each cell: microseconds a token of the student with a quarter of the attention, against the teacher's."""
    models = family(config)
    for n_prompt in prompts:
        reading = medians({each: partial(read_one, model, n_prompt) for each, model in models.items()}, rounds)
        for n in (1, N_SAMPLES):
            for room in COMPARED:
                yield cell_row(models, Cell(n_prompt, n, room), name, reading)
                gc.collect()


def cell_row(models: Models, cell: Cell, name: str, reading: dict[str, float]) -> dict[str, str]:
    batches = {each: cell.solving(model).batch for each, model in models.items()}
    engines = {each: decoding(cell, model) for each, model in models.items()}
    step = medians({each: cast(Callable[[], Any], engine.step) for each, engine in engines.items()})
    decoded = {each: batches[each] / step[each] for each in models}
    whole = {
        each: batches[each] * N_NEW / (batches[each] // cell.n * reading[each] + (N_NEW - 1) * step[each]) for each in models
    }
    students = [each for each in models if each != "teacher"]
    notes = (
        "attention kept: all, "
        + ", ".join(students)
        + f"; rows {listed(batches)}; tokens/s decoding {listed(decoded)}, with the prompts {listed(whole)}; times the teacher's "
        + ", ".join(f"{decoded[each] / decoded['teacher']:.2f}" for each in students)
        + ", with the prompts "
        + ", ".join(f"{whole[each] / whole['teacher']:.2f}" for each in students)
        + f"; ms to read a prompt {listed({each: 1e3 * seconds for each, seconds in reading.items()})}"
    )
    size = f"{name}, prompts of {cell.n_prompt}, {cell.kind}, {N_NEW} new, {cell.room}"
    ours, peer = (1e6 / decoded[each] for each in ("a quarter", "teacher"))
    return row("reasoning, decoding by a hybrid student against its teacher", size, ours, "us/token", peer, notes, threads=1)


def decoding(cell: Cell, model: Decoder) -> MeasuredEngine:
    """An engine whose rows have all read their prompts and said half of what they will; what they remember is noise."""
    how, measured = cell.solving(model), cell.engine(model)
    engine = cast(Any, measured)._engine
    for _ in range(how.batch // how.n):
        prompt = tuple(torch.randint(1, model.config.vocab_size, (cell.n_prompt,)).tolist())
        request = Request(prompt_ids=prompt, max_tokens=N_NEW, n=how.n, sampling=how.sampling, uses_cache=False)
        measured.submit(request, lambda event: None)
    with mock.patch("tilth.inference.engine.engine.read_chunk", skip_chunk):
        with mock.patch.object(Engine, "_decode", return_value=False):
            while measured.step():
                pass
        with mock.patch.object(model, "step", lambda ids_B, states: torch.zeros(len(ids_B), model.config.vocab_size)):
            for _ in range(N_NEW // 2):
                measured.step()
    assert engine.stats().n_decoding == how.batch
    with torch.inference_mode():
        for pages in engine._memory.pool.layers.values():
            noise = torch.randn(4096, *pages.keys.shape[1:])
            for start in range(0, len(pages.keys), len(noise)):
                for each in (pages.keys, pages.values):
                    each[start : start + len(noise)] = noise[: len(each) - start]
    return measured


def skip_chunk(model: Decoder, pool: KeyValuePool, reading: Reading, end: int) -> Tensor | None:
    """Instead of read_chunk: the states stay as they are."""
    reading.n_read = end
    return torch.zeros(1, model.config.vocab_size) if end == len(reading.tokens) else None


def read_one(model: Decoder, n_prompt: int) -> None:
    """One prompt and its first token."""
    measured = make_engine(model, Solving(n=1, batch=1, max_tokens=1), n_prompt)
    prompt = tuple(torch.randint(1, model.config.vocab_size, (n_prompt,)).tolist())
    measured.submit(Request(prompt_ids=prompt, max_tokens=1, uses_cache=False), lambda event: None)
    while measured.step():
        pass


def medians(calls: dict[str, Callable[[], Any]], most: int = MOST_STEPS) -> dict[str, float]:
    """Median CPU seconds of each call, in turns, fewer of them where they take long; the first counts only where it is all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    began = time.process_time()
    for turn in range(most + 1):
        for name, call in calls.items():
            before = time.process_time()
            call()
            times[name].append(time.process_time() - before)
        if turn >= min(FEWEST_STEPS, most) and time.process_time() - began > SECONDS:
            break
    return {name: statistics.median(values[1:] or values) for name, values in times.items()}


def listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{value:.0f}" for value in values.values())


class Ids:
    """A coder of questions that are the seeds of their prompts; no text ends before max_tokens."""

    end_ids: tuple[int, ...] = ()

    def __init__(self, n_prompt: int, vocab_size: int) -> None:
        self.n_prompt, self.vocab_size = n_prompt, vocab_size

    def encode(self, text: str) -> tuple[int, ...]:
        generator = torch.Generator().manual_seed(int(text))
        return tuple(torch.randint(1, self.vocab_size, (self.n_prompt,), generator=generator).tolist())

    def decode(self, ids: list[int]) -> str:
        return ""

    def has_stopped(self, ids: list[int]) -> bool:
        return False


def whole_evaluations() -> Iterator[dict[str, str]]:
    """Problems in and samples out, by `solve`, in as many rows as the memory holds."""
    for config, name, n in ((SMALL_GQA, "gqa d256", 1), (SMALL_GQA, "gqa d256", N_SAMPLES)):
        models, cell, speeds, batches = family(config), Cell(1024, n, "64 MiB"), {}, {}
        for each in ("teacher", "a quarter"):
            how = cell.solving(models[each])
            problems = [Problem(str(number), str(number), "1") for number in range(2 * how.batch // n)]
            coder = cast(Coder, Ids(cell.n_prompt, config.vocab_size))
            engine = cell.engine(models[each])
            began = time.process_time()
            samples = [s for group in solve(engine, coder, Prompting("{question}"), problems, how) for s in group]
            seconds = time.process_time() - began
            assert {sample.finish_reason for sample in samples} == {"length"}
            speeds[each], batches[each] = sum(sample.n_tokens for sample in samples) / seconds, how.batch
        size = f"{name}, prompts of {cell.n_prompt}, {cell.kind}, {N_NEW} new, {cell.room}"
        ours, peer = (1e6 / speeds[each] for each in ("a quarter", "teacher"))
        notes = f"tokens/s of teacher and student {listed(speeds)}, rows {listed(batches)}; two batches each, prompts read, too"
        yield row(
            "reasoning, whole evaluation by a hybrid student and its teacher", size, ours, "us/token", peer, notes, threads=1
        )


PARTS: dict[str, Callable[[], Iterator[dict[str, str]]]] = {
    "mha": partial(compare, SMALL, "mha d256", (1024, 2048, 4096), 2),
    "gqa": partial(compare, SMALL_GQA, "gqa d256", (1024, 2048, 4096), 2),
    "llama": partial(compare, LLAMA, "Llama-3.2-1B widths, 4 layers", (1024,), 0),
    "solve": whole_evaluations,
}

if __name__ == "__main__":
    main()
