"""What a run's data cost: seeking in its order, making a batch, writing the losses of documents, listing those of a step.

python benchmarks/training_data.py [seek] [step] [why]     all three by default; times are of the CPU, but for `why`
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import results
import torch

from tilth.corpus.sources.json_lines import JsonLines
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.losses import linear_cross_entropy
from tilth.pipeline.build import build
from tilth.pipeline.curate import pick
from tilth.pipeline.launch import train
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import Bpe, Corpus, Train
from tilth.pipeline.why import Why
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.mixture import TokenMixture
from tilth.tokenize.order import RunOrder
from tilth.tokenize.shards import write_tokens
from tilth.trainer.data import count_targets, micro_batches
from tilth.trainer.document_losses import DocumentLosses
from tilth.trainer.parallel import World

CPU = torch.device("cpu")
N_DOCUMENTS = 100_000
DEMO = {"layers": "MMA", "d_model": 128, "n_heads": 2, "d_state": 32, "ssm_head_dim": 64}
HYBRID = {"layers": "MMAM", "d_model": 256, "n_heads": 4, "d_state": 64, "ssm_head_dim": 64}


def cpu_ms(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = work()
    return 1e3 * (time.process_time() - began), found


def seek() -> list[dict[str, str]]:
    """From nothing to the sequences of a step in the middle, and from a document to all steps that read it."""
    rows = []
    for n in (10**6, 10**7, 10**8):
        lengths = np.random.default_rng(0).integers(20, 1_000, n)
        first_ms, order = cpu_ms(lambda lengths=lengths: RunOrder(lengths, 2_048, 8, seed=0))
        step = order.n_tokens // 2_048 // 16
        table_ms, _ = cpu_ms(lambda order=order, step=step: order.sequences(step))
        steps = [cpu_ms(lambda order=order, i=i: order.sequences(i))[0] for i in range(step, step + 200)]
        size = f"{n:.0e} documents, {order.n_tokens:.3g} tokens"
        rows.append(results.row("order of a run, first seek", size, (first_ms + table_ms) / 1e3, "s", threads=1))
        rows.append(results.row("order of a run, next steps", f"{size}, 8 x 2048", statistics.median(steps), "ms", threads=1))
        if n <= 10**7:
            inverse_ms, _ = cpu_ms(lambda order=order, step=step: list(order.uses(0, step)))
            uses = [cpu_ms(lambda order=order, i=i, step=step: list(order.uses(i, step)))[0] for i in range(1, 30)]
            note = f"the first costs {inverse_ms:.0f} ms"
            rows.append(results.row("uses of a document", size, statistics.median(uses), "ms", notes=note, threads=1))
    return rows


def step() -> list[dict[str, str]]:
    """A batch, and the losses of documents, against the step that they are for."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = Tokenizer(train_bpe(["soil seed root"], 300))
        random = np.random.default_rng(0)
        lengths = np.maximum(1, random.lognormal(4.5, 1.0, 20_000)).astype(int)
        (folder / "tokens").mkdir()
        write_tokens(
            folder / "tokens",
            ((i.to_bytes(16, "big"), "s/0", i, random.integers(1, 257, n)) for i, n in enumerate(lengths.tolist())),
            tokenizer,
        )
        tokens = TokenMixture.open(folder / "tokens")
        for what, layers in (("demo, d128 MMA", DEMO), ("hybrid, d256 MMAM", HYBRID)):
            rows += _step_of(f"{what}, 8 x 256, vocabulary 2048", layers, tokens, folder)
    return rows


def _step_of(size: str, layers: dict[str, Any], tokens: TokenMixture, folder: Path) -> list[dict[str, str]]:
    model, order = Decoder(ModelConfig(vocab_size=2_048, **layers)), tokens.order(256, 8, seed=0)
    losses = DocumentLosses(folder, 0, World(0, 1, CPU))
    order.sequences(0)  # the table of the epoch is made once a run
    batch_ms, plain_ms, losses_ms = [], [], []

    def prepare(number: int) -> Any:
        share = order.batch(number)
        (batch,) = micro_batches(tokens, list(enumerate(share)), None, CPU, lambda row, plan, place: row)
        return batch, share, count_targets([batch])

    def forth_and_back(batch: Any) -> None:
        model.zero_grad()
        model.loss(*batch)[0].backward()

    def write(batch: Any, share: Any, each_BT: torch.Tensor, number: int) -> None:
        losses.begin(share)
        losses.add(batch, each_BT)
        losses.write(number)

    for number in range(20):
        took, (batch, share, _) = cpu_ms(lambda number=number: prepare(number))
        batch_ms.append(took)
        each_BT = torch.empty(batch[0].shape)
        model.loss(*batch, each_BT)
        plain_ms.append(cpu_ms(lambda batch=batch: forth_and_back(batch))[0])
        took = cpu_ms(lambda batch=batch, share=share, each=each_BT, number=number: write(batch, share, each, number))[0]
        losses_ms.append(took)
    whole = statistics.median(plain_ms)
    keeping = max(0.0, _keeping_ms(model, batch))
    kept = f"of a forward and backward of {whole:.0f} ms ({results.spread(plain_ms)})"
    share_of_batch = 100 * statistics.median(batch_ms) / whole
    share_of_losses = 100 * (statistics.median(losses_ms) + keeping) / whole
    note = f"{statistics.median(losses_ms):.2f} ms, and {keeping:.2f} for each token's loss in the head, {kept}"
    return [
        results.row("data loading", size, share_of_batch, "%", notes=f"{statistics.median(batch_ms):.2f} ms {kept}", threads=1),
        results.row("document losses", size, share_of_losses, "%", notes=note, threads=1),
    ]


def _keeping_ms(model: Decoder, batch: Any) -> float:
    """What the head takes longer when it hands out the loss of each token: the rest of a step is as it was."""
    ids_BT, targets_BT, segments_BT = batch
    hidden_BTD = model.hidden(ids_BT, segments_BT).detach().requires_grad_()
    differences = []
    for number in range(60):
        times = {}
        for given in (False, True) if number % 2 else (True, False):
            each_BT = torch.empty(ids_BT.shape) if given else None
            times[given], _ = cpu_ms(
                lambda each=each_BT: linear_cross_entropy(hidden_BTD, model.head_weight, targets_BT, each_BT=each)[0].backward()
            )
        differences.append(times[True] - times[False])
    return statistics.median(differences)


def why() -> list[dict[str, str]]:
    """The documents of a step with their rows of the catalog, in an open session."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        project, source = Project(Path(name) / "project"), Path(name) / "pages.jsonl"
        (project.folder / "recipes").mkdir(parents=True)
        random, words = np.random.default_rng(0), ["soil", "seed", "root", "leaf", "rain", "field", "barn", "rye"]
        with source.open("w") as file:
            for i in range(N_DOCUMENTS):
                text = f"{i} " + " ".join(words[j] for j in random.integers(0, 8, int(random.integers(20, 120))))
                file.write(json.dumps({"text": text, "url": f"https://example.org/{i}"}) + "\n")
        build(project, "web", Corpus(sources=[JsonLines("web", str(source))], signals=[], tokenizer=Bpe(400)))
        pick(project, "all", "true", corpus="web", validation_share=0.0)
        model = {"layers": "M", "d_model": 16, "d_state": 8, "ssm_head_dim": 16}
        for batch, seq_len in ((8, 256), (64, 512)):
            settings = {"steps": 12, "seq_len": seq_len, "global_batch": batch, "document_losses": True}
            train(project, f"run{batch}", Train("all", settings, model=model))
            began = time.perf_counter()
            with Why(project, f"run{batch}") as session:
                opened = time.perf_counter() - began
                times, read = [], []
                for number in range(12):
                    began = time.perf_counter()
                    read.append(session.step(number, by="loss"))
                    times.append(1e3 * (time.perf_counter() - began))
                again = [_timed(session, number) for number in range(12) for _ in range(3)]
            n = statistics.mean(len({one.document["doc_id"] for one in own}) for own in read)
            size = f"{N_DOCUMENTS:,} documents, {n:.0f} of a step of {batch} x {seq_len}"
            note = (
                f"wall; with losses; p10-p90 {results.spread(times + again)}, largest {max(times):.1f}; opens in {opened:.2f} s"
            )
            rows.append(results.row("why, a step", size, statistics.median(times + again), "ms", notes=note))
    return rows


def _timed(session: Why, number: int) -> float:
    began = time.perf_counter()
    session.step(number, by="loss")
    return 1e3 * (time.perf_counter() - began)


def main() -> None:
    torch.set_num_threads(1)
    parts = {"seek": seek, "step": step, "why": why}
    for name in sys.argv[1:] or parts:
        results.append(parts[name]())


if __name__ == "__main__":
    main()
