"""Trains the hybrid on the CPU by tilth.trainer and the same model by the Trainer of HF transformers, in turns.

    python benchmarks/train_hf.py [--threads 1] [--seq-len 1024] [--batch 4] [--steps 8] [--rounds 5] [--quick]

The hybrid of hybrid_peer.py in fp32 from the same weights, on the same sequences in the same order, with the same AdamW, clipping
and constant learning rate. Ours is `train` with all it does (memory map, packing by the order of the run, metrics, checkpoint
at the end); the documents have the length of a sequence, because transformers' CPU path cannot keep packed ones apart. A round
is a whole run of each; its time is that of the steps after the first two, both in CPU time of the process and by the clock.
Written are the medians of the rounds, and the largest difference between the two loss curves. Needs benchmarks/peers_models.txt.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from hybrid_peer import HYBRID, check_same, hf_twin
from results import append, row, spread

from tilth.models.decoder import Decoder
from tilth.models.weights import save_model
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.order import RunOrder
from tilth.tokenize.shards import TokenSet, write_tokens
from tilth.trainer.config import TrainConfig
from tilth.trainer.loop import train

WARM_UP = 2
LR = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="write nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options)
        found: dict[str, list[Run]] = {"ours": [], "hf": []}
        for number in range(options.rounds):
            found["ours"].append(bench.ours(number))
            found["hf"].append(bench.hf(number))
            print(f"round {number}: " + "; ".join(f"{name} {runs[-1]}" for name, runs in found.items()), flush=True)
    report(found, options)


class Run:
    """Losses of all steps, and the seconds per step after the warm-up, by both clocks."""

    def __init__(self, losses: list[float], marks: list[tuple[float, float]]) -> None:
        self.losses = losses
        n_steps = len(marks) - 1 - WARM_UP
        self.cpu, self.wall = ((marks[-1][i] - marks[WARM_UP][i]) / n_steps for i in (0, 1))

    def __str__(self) -> str:
        return f"{self.cpu:.3f} s CPU and {self.wall:.3f} s by the clock a step, loss {self.losses[-1]:.4f}"


def now() -> tuple[float, float]:
    return time.process_time(), time.perf_counter()


class Bench:
    """The token set, the initial weights and the settings that both trainers share."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.config = TrainConfig(
            steps=options.steps, seq_len=options.seq_len, global_batch=options.batch, lr=LR, min_lr_ratio=1.0, decay="cosine",
            weight_decay=0.1, checkpoint_every=0, device="cpu", seed=0,
        )  # fmt: skip
        tokenizer = Tokenizer(train_bpe(["seed soil rain root leaf"] * 10, 280))
        self.tokens = write_documents(folder / "tokens", tokenizer, options)
        torch.manual_seed(0)
        model = Decoder(HYBRID)
        self.initial = folder / "initial"
        save_model(self.initial, model, tokenizer.data)
        print(f"logits of the two models differ by at most {check_same(model, hf_twin(model)):.1e}")
        self.model = model

    def ours(self, number: int) -> Run:
        losses, marks = [], [now()]

        def on_step(line: dict[str, Any]) -> None:
            losses.append(line["loss"])
            marks.append(now())

        train(HYBRID, self.config, self.tokens, None, self.folder / f"run{number}", self.initial, on_step)
        return Run(losses, marks)

    def hf(self, number: int) -> Run:
        losses: list[float] = []
        marks: list[tuple[float, float]] = []

        class Watch(transformers.TrainerCallback):
            def on_train_begin(self, *_: Any, **__: Any) -> None:
                marks.append(now())

            def on_step_end(self, *_: Any, **__: Any) -> None:
                marks.append(now())

            def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
                if "loss" in logs:
                    losses.append(float(logs["loss"]))

        arguments = transformers.TrainingArguments(
            output_dir=str(self.folder / f"hf{number}"), max_steps=self.config.steps, learning_rate=LR, weight_decay=0.1,
            per_device_train_batch_size=self.config.global_batch, lr_scheduler_type="constant", adam_beta1=self.config.beta1,
            adam_beta2=self.config.beta2, adam_epsilon=1e-8, max_grad_norm=self.config.clip_norm, optim="adamw_torch_fused",
            logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True, dataloader_num_workers=0,
            train_sampling_strategy="sequential", seed=0,
        )  # fmt: skip
        trainer = SameDecay(
            model=hf_twin(self.model), args=arguments, train_dataset=list(self.sequences()), callbacks=[Watch()],
            data_collator=lambda rows: {"input_ids": torch.stack(rows), "labels": torch.stack(rows)},
        )  # fmt: skip
        trainer.remove_callback(transformers.trainer_callback.PrinterCallback)
        trainer.train()
        return Run(losses, marks)

    def sequences(self) -> Iterator[torch.Tensor]:
        """The rows of all steps in the order of the run; transformers shifts the labels itself."""
        tokens = TokenSet.open(self.tokens)
        order = RunOrder(tokens.lengths, self.config.seq_len, self.config.global_batch, self.config.seed)
        for step in range(self.config.steps):
            for plan in order.sequences(step):
                yield torch.from_numpy(tokens.sequence(plan)[0])


class SameDecay(transformers.Trainer):
    """Decays what we decay: matrices other than the embedding (transformers would decay the embedding as well)."""

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        names = super().get_decay_parameter_names(model)
        return [name for name in names if "embed" not in name and model.get_parameter(name).ndim > 1]


def write_documents(folder: Path, tokenizer: Tokenizer, options: argparse.Namespace) -> Path:
    """Documents of one sequence each, in which every token tells the next one with chance 0.7."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    known = np.array([i for i in range(tokenizer.vocab_size) if i != tokenizer.separator_id])
    n_documents = options.batch * options.steps * 2

    def documents() -> Iterator[tuple[bytes, str, int, np.ndarray]]:
        for number in range(n_documents):
            chain = [int(rng.integers(len(known)))]
            for is_told, other in zip(
                rng.random(options.seq_len - 2) < 0.7, rng.integers(len(known), size=options.seq_len - 2), strict=True
            ):
                chain.append((7 * chain[-1] + 3) % len(known) if is_told else int(other))
            yield number.to_bytes(16, "big"), "bench", number, known[chain]

    write_tokens(folder, documents(), tokenizer)
    return folder


def report(found: dict[str, list[Run]], options: argparse.Namespace) -> None:
    difference = max(
        abs(ours - hf)
        for a, b in zip(found["ours"], found["hf"], strict=True)
        for ours, hf in zip(a.losses, b.losses, strict=True)
    )
    rows = []
    clocks: dict[str, Callable[[Run], float]] = {"CPU time": lambda run: run.cpu, "wall": lambda run: run.wall}
    for name, clock in clocks.items():
        times = {trainer: [clock(run) for run in runs] for trainer, runs in found.items()}
        medians = {trainer: statistics.median(values) for trainer, values in times.items()}
        n_tokens = options.batch * options.seq_len
        notes = (
            f"peer: HF Trainer, transformers {transformers.__version__}, GraniteMoeHybrid without experts; tokens/s "
            f"{n_tokens / medians['ours']:.0f} and {n_tokens / medians['hf']:.0f}; "
            f"{options.rounds} rounds of {options.steps} steps, p10-p90 ours {spread(times['ours'])}, "
            f"peer {spread(times['hf'])}; loss curves differ by at most {difference:.1e} "
            f"(last loss {found['ours'][-1].losses[-1]:.3f}); torch {torch.__version__}"
        )
        size = f"d256 MMMA vocab 4096, B{options.batch} T{options.seq_len} fp32"
        rows.append(row(f"train step, {name}", size, medians["ours"], "s", medians["hf"], notes, threads=options.threads))
    if options.quick:
        for made in rows:
            print(made["what"], made["ours"], made["peer"], made["ratio"], made["notes"])
    else:
        append(rows)


if __name__ == "__main__":
    main()
