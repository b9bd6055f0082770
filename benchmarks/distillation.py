"""How near a state-space student comes to its teacher with a part of its tokens, and what each stage is worth.

    python benchmarks/distillation.py [--seeds 3] [--steps 900] [--quick | --tune]

A transformer of 4 layers, d48, learns Python's standard library, as installed, in 320 pieces; the last tenth of the files is
for validation. Its students are without attention (DDDD, MMMM) or keep one layer of it (DDAD). With a fifth of the teacher's
tokens each is made in three ways, in equal steps: alignment and distillation (stages 2+3 of MOHAWK), distillation alone, and
from scratch by cross entropy; DDDD also with orientation first, by cross entropy after alignment, with stage 3 from stored
logits, and by stages 2+3 with 35 % of the tokens. The upper half of the teacher becomes a ladder and heals for a tenth of its
steps by distillation; the controls heal by cross entropy, as a ladder and as it was.

Rates are chosen by --tune with a seed that is not among those reported, on DDDD alone. Losses are of the same validation
batches, in nats per token; ranges are of the seeds, and ± is 95 % of Student's t over them.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sysconfig
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from results import append, row

from tilth.models.config import ModelConfig
from tilth.models.weights import load_model, save_model
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.shards import write_tokens
from tilth.trainer.config import TrainConfig
from tilth.trainer.distill.student import make_student, student_config
from tilth.trainer.distill.teacher_pass import store_logits
from tilth.trainer.given import Given
from tilth.trainer.loop import train

VOCABULARY, SEQ_LEN, BATCH = 320, 128, 4
TEACHER = ModelConfig(vocab_size=VOCABULARY, d_model=48, layers="A*4", n_heads=4)
STUDENTS = ("DDDD", "MMMM", "DDAD")
FIFTH, THIRD = "20 %", "35 %"
SHARES = {FIFTH: 0.2, THIRD: 0.35}
RATES = {"teacher": 4e-3, "orientation": 1e-2, "alignment": 1e-2, "after": 1.5e-3, "kd": 3e-3, "scratch": 6e-3, "heal": 1e-3}
GRID = {"after": (1.5e-3, 3e-3, 6e-3), "kd": (1.5e-3, 3e-3, 6e-3), "scratch": (3e-3, 6e-3, 1.2e-2)}
TUNING_SEED = 100
T_95 = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}
"""Student's t for 95 % of a mean of so many seeds."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=900, help="of the teacher")
    parser.add_argument("--quick", action="store_true", help="one seed of a tenth of the steps; writes nothing")
    parser.add_argument("--tune", action="store_true", help="print losses over a grid of rates; writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps, seeds = (options.steps // 10, 1) if options.quick else (options.steps, options.seeds)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        sets = token_sets(root)
        if options.tune:
            tune(Study(root / "tuning", sets, TUNING_SEED, steps))
            return
        found = [studied(Study(root / str(seed), sets, seed, steps)) for seed in range(seeds)]
    print(f"{time.process_time() - began:.0f} s CPU")
    made = rows(found, steps, time.process_time() - began)
    if options.quick:
        for one in made:
            print("  ".join(one[name] for name in ("what", "size", "ours", "peer", "notes")))
    else:
        append(made)


def token_sets(root: Path) -> dict[str, Path]:
    """Python's standard library, by file."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in files]
    n_train = len(texts) * 9 // 10
    tokenizer = Tokenizer(train_bpe(texts[:n_train], VOCABULARY))
    for name, part in {"train": texts[:n_train], "validation": texts[n_train:]}.items():
        (root / name).mkdir()
        ids = tokenizer.encode_batch(part)
        write_tokens(root / name, ((i.to_bytes(16, "big"), "stdlib/0", i, each) for i, each in enumerate(ids)), tokenizer)
    return {name: root / name for name in ("train", "validation")}


@dataclass
class Study:
    """All runs of a seed, each in a folder of `root`, and their losses."""

    root: Path
    sets: dict[str, Path]
    seed: int
    teacher_steps: int
    losses: dict[str, float] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=lambda: dict(RATES))

    def run(
        self, name: str, config: ModelConfig, settings: TrainConfig, initial: str | None = None, stored: Path | None = None
    ) -> None:
        """Train from the weights in folder `initial`; all but the next token is learnt from the teacher."""
        is_taught = settings.objective != "next_token" and stored is None
        given = Given(self.root / initial if initial else None, self.root / "teacher" if is_taught else None, stored)
        began = time.perf_counter()
        done = train(config, settings, self.sets["train"], self.sets["validation"], self.root / name, given)
        self.losses[name] = done.validation_loss or float("nan")
        before, seconds = done.start_validation_loss or float("nan"), time.perf_counter() - began
        print(
            f"seed {self.seed} {name}: {before:.4f} -> {self.losses[name]:.4f}, {settings.steps} steps, {seconds:.0f} s",
            flush=True,
        )

    def settings(self, objective: str, steps: int, lr: float, order: int) -> TrainConfig:
        """A run that reads its batches in the given `order`: the teacher, and each stage of a student, has one of its own."""
        return TrainConfig(
            steps=steps, seq_len=SEQ_LEN, global_batch=BATCH, objective=objective, lr=lr, warmup_steps=max(1, steps // 10),
            eval_batches=24, checkpoint_every=0, seed=self.seed + 1000 * order, device="cpu",
        )  # fmt: skip

    def share(self, of: float) -> int:
        """That part of the teacher's steps."""
        return round(of * self.teacher_steps)

    def teach(self) -> None:
        self.run("teacher", TEACHER, self.settings("next_token", self.teacher_steps, self.rates["teacher"], 0))

    def begin(self, layers: str) -> ModelConfig:
        """The student with the weights of its teacher, saved, and its config."""
        config = student_config(TEACHER, layers)
        torch.manual_seed(self.seed)
        (self.root / layers).mkdir(exist_ok=True)
        tokenizer = (self.root / "teacher" / "tokenizer.json").read_bytes()
        save_model(self.root / layers, make_student(load_model(self.root / "teacher"), config), tokenizer)
        return config

    def align(self, config: ModelConfig, name: str, initial: str) -> int:
        """Stage 2 for a fifteenth of the teacher's steps, which are returned."""
        steps = self.share(1 / 15)
        self.run(name, config, self.settings("alignment", steps, self.rates["alignment"], 1), initial)
        return steps

    def distil(self, config: ModelConfig, name: str, steps: int, rate: str, initial: str, stored: Path | None = None) -> None:
        self.run(name, config, self.settings("distillation", steps, self.rates[rate], 2), initial, stored)


def studied(study: Study) -> dict[str, float]:
    """The losses of all runs of a seed."""
    study.teach()
    fifth = study.share(SHARES[FIFTH])
    for layers in STUDENTS:
        config = study.begin(layers)
        aligned = study.align(config, f"{layers} 2", layers)
        for told in shares_of(layers):
            study.distil(config, f"{layers} 2+3, {told}", study.share(SHARES[told]) - aligned, "after", f"{layers} 2")
        study.distil(config, f"{layers} KD, {FIFTH}", fifth, "kd", layers)
        study.run(f"{layers} scratch, {FIFTH}", config, study.settings("next_token", fifth, study.rates["scratch"], 2))
        if layers == STUDENTS[0]:
            more_ways(study, config, layers, fifth, aligned)
    heal(study)
    return study.losses


def shares_of(layers: str) -> tuple[str, ...]:
    """The shares of the teacher's tokens with which these layers are distilled; the larger one only of the first student."""
    return (FIFTH, THIRD) if layers == STUDENTS[0] else (FIFTH,)


def more_ways(study: Study, config: ModelConfig, layers: str, fifth: int, aligned: int) -> None:
    """Three stages, cross entropy instead of the third, and the third from stored logits."""
    oriented = study.share(1 / 30)
    study.run(f"{layers} 1", config, study.settings("orientation", oriented, study.rates["orientation"], 3), layers)
    study.align(config, f"{layers} 1+2", f"{layers} 1")
    study.distil(config, f"{layers} 1+2+3, {FIFTH}", fifth - aligned - oriented, "after", f"{layers} 1+2")
    by_targets = study.settings("next_token", fifth - aligned, study.rates["after"], 2)
    study.run(f"{layers} 2+CE, {FIFTH}", config, by_targets, f"{layers} 2")
    taught = study.settings("distillation", fifth - aligned, study.rates["after"], 2)
    store_logits(study.root / "teacher", taught, study.sets["train"], study.root / "logits")
    study.run(f"{layers} stored, {FIFTH}", config, taught, f"{layers} 2", study.root / "logits")


def heal(study: Study) -> None:
    """The upper half of the teacher as a ladder, a tenth more steps, against the same steps of cross entropy."""
    ladder = ModelConfig.from_dict(TEACHER.to_dict() | {"residual": "ladder", "residual_from": 2})
    steps, rate = study.share(0.1), study.rates["heal"]
    study.run("ladder KD", ladder, study.settings("distillation", steps, rate, 2), "teacher")
    study.run("ladder CE", ladder, study.settings("next_token", steps, rate, 2), "teacher")
    study.run("teacher CE", TEACHER, study.settings("next_token", steps, rate, 2), "teacher")


def tune(study: Study) -> None:
    """The losses of DDDD with a fifth of the tokens over a grid of rates."""
    layers, fifth = STUDENTS[0], study.share(SHARES[FIFTH])
    for rate in (2 * RATES["teacher"], RATES["teacher"]):
        shutil.rmtree(study.root / "teacher", ignore_errors=True)
        study.rates["teacher"] = rate
        study.teach()
    config = study.begin(layers)
    aligned = study.align(config, f"{layers} 2", layers)
    for rate in GRID["after"]:
        study.rates["after"] = rate
        study.distil(config, f"{layers} 2+3 at {rate}", fifth - aligned, "after", f"{layers} 2")
    for rate in GRID["kd"]:
        study.rates["kd"] = rate
        study.distil(config, f"{layers} KD at {rate}", fifth, "kd", layers)
    for rate in GRID["scratch"]:
        study.run(f"{layers} scratch at {rate}", config, study.settings("next_token", fifth, rate, 2))


def rows(found: list[dict[str, float]], steps: int, seconds: float) -> list[dict[str, str]]:
    """Each student against its teacher, and each claim against its control."""
    size = f"{len(found)} seeds, {steps} steps of {BATCH * SEQ_LEN} tokens"
    made = []

    def add(what: str, ours: str, peer: str, more: str = "") -> None:
        gaps = [100 * (one[ours] / one[peer] - 1) for one in found]
        n_lower = sum(one[ours] < one[peer] for one in found)
        values = "; ".join(f"{name} {' '.join(f'{one[name]:.4f}' for one in found)}" for name in (ours, peer))
        notes = f"peer: {peer}; {interval(gaps)} of its loss, lower with {n_lower} of {len(found)} seeds; {values}{more}"
        means = [statistics.mean(one[name] for one in found) for name in (ours, peer)]
        made.append(row(f"distillation: {what}", size, means[0], "nats", means[1], notes, threads=1))

    for layers in STUDENTS:
        for told in shares_of(layers):
            add(f"{layers}, stages 2+3 with {told} of the tokens, against teacher", f"{layers} 2+3, {told}", "teacher")
        best, alone, scratch = (f"{layers} {how}, {FIFTH}" for how in ("2+3", "KD", "scratch"))
        add(f"{layers}, stages 2+3 against KD alone, {FIFTH}", best, alone)
        add(f"{layers}, KD alone against scratch, {FIFTH}", alone, scratch)
        add(f"{layers}, from scratch against teacher, {FIFTH}", scratch, "teacher")
    first = STUDENTS[0]
    for told, other in (
        ("stages 1+2+3", "1+2+3"),
        ("alignment and cross entropy", "2+CE"),
        ("stage 3 from stored logits", "stored"),
    ):
        add(f"{first}, {told} against stages 2+3, {FIFTH}", f"{first} {other}, {FIFTH}", f"{first} 2+3, {FIFTH}")
    add("upper half a ladder, healed by KD, against teacher", "ladder KD", "teacher")
    add("upper half a ladder, healed by KD, against teacher with more CE", "ladder KD", "teacher CE")
    add("upper half a ladder, healed by KD against by CE", "ladder KD", "ladder CE", f"; all {seconds:.0f} s CPU")
    return made


def interval(values: list[float]) -> str:
    """Mean and range in %, and Student's 95 %."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.2f} %"
    half = T_95.get(len(values), 2.5) * statistics.stdev(values) / len(values) ** 0.5
    return f"{mean:+.2f} % ({min(values):+.2f} to {max(values):+.2f}; ±{half:.2f})"


if __name__ == "__main__":
    main()
