"""UCI splice junctions: a small bidirectional model against k-mer logistic regression, and strands that share parameters.

    python benchmarks/dna_splice.py DATA --genome FASTA [--seeds 3] [--steps 400] [--quick]

DATA holds splice.arff (3,190 windows of 60 nucleotides: donor, acceptor, neither), FASTA a genome to pretrain on. Each seed
draws another test set of a fifth, without sequences that also occur in the other part. The peer of scikit-learn is logistic
regression on counts of k-mers, by place or not, with the best k and strength of six by the test set itself.
Variants of equal parameters, pretrained by masked nucleotides on the same windows and fine-tuned with the same batches:
shared (Caduceus-PS), turned (Caduceus-PH: half the sequences turned, both strands averaged), plain. The second row is the
masked loss on a held-out chromosome, of shared against turned: what a strand teaches about the other, without labels.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from results import append, row

from tilth.models.config import ModelConfig
from tilth.tokenize.bpe import Tokenizer
from tilth.tokenize.mixture import Source
from tilth.tokenize.nucleotides import nucleotide_tokenizer
from tilth.tokenize.shards import write_tokens
from tilth.trainer.config import TrainConfig
from tilth.trainer.given import Given
from tilth.trainer.loop import TrainResult, train

VARIANTS = {"shared": (True, 0.0), "turned": (False, 0.5), "plain": (False, 0.0)}
Examples = list[tuple[str, str]]  # sequence, class


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--genome", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--pretrain-steps", type=int, default=150)
    parser.add_argument("--quick", action="store_true", help="write nothing")
    options = parser.parse_args()
    torch.set_num_threads(1)
    examples = read_arff(next(options.data.rglob("splice.arff")))
    baseline: list[float] = []
    accuracy: dict[str, list[float]] = {name: [] for name in VARIANTS}
    masked: dict[str, list[float]] = {name: [] for name in VARIANTS}
    began = time.process_time()
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        training, test = split(examples, seed)
        baseline.append(logistic_regression(training, test))
        with tempfile.TemporaryDirectory() as folder:
            for name in VARIANTS:
                pretrained, tuned = study(name, Path(folder), options, training, test, seed)
                masked[name].append(pretrained.validation_loss or float("nan"))
                accuracy[name].append(tuned.validation_accuracy or float("nan"))
                print(
                    f"seed {seed} {name}: masked loss {masked[name][-1]:.4f}, accuracy {accuracy[name][-1]:.4f} "
                    f"(k-mers {baseline[-1]:.4f})",
                    flush=True,
                )
    if options.quick:
        return
    spent = f"{time.process_time() - began:.0f} s CPU"
    means = {name: statistics.mean(values) for name, values in accuracy.items()}
    told = "; ".join(f"{name} {' '.join(f'{x:.4f}' for x in values)}" for name, values in accuracy.items())
    error = min(1 - mean for mean in means.values())
    losses = "; ".join(f"{name} {' '.join(f'{x:.4f}' for x in values)}" for name, values in masked.items())
    size = f"{options.seeds} seeds"
    append(
        [
            row("UCI splice: errors, fine-tuned against k-mer logistic regression", size, error, "share",
                1 - statistics.mean(baseline), f"accuracies {told}; k-mers {' '.join(f'{x:.4f}' for x in baseline)}; {spent}", 1),
            row("UCI splice: errors, strands that share parameters against turned ones", size, 1 - means["shared"], "share",
                1 - means["turned"], f"accuracies {told}", 1),
            row("masked nucleotides of a held-out chromosome: shared strands against turned ones", size,
                statistics.mean(masked["shared"]), "nats", statistics.mean(masked["turned"]), losses, 1),
        ]
    )  # fmt: skip


def read_arff(path: Path) -> Examples:
    """The sequences and classes of splice.arff: a name, 60 columns of a nucleotide each, and the class."""
    rows = [line.replace(" ", "").split(",") for line in path.read_text().splitlines() if line and line[0] not in "%@"]
    return [("".join(values[1:61]), values[61]) for values in rows]


def split(examples: Examples, seed: int) -> tuple[Examples, Examples]:
    """Four fifths and one, without test sequences that were trained on."""
    order = np.random.default_rng(seed).permutation(len(examples))
    n_test = len(examples) // 5
    training = [examples[i] for i in order[n_test:]]
    known = {sequence for sequence, _ in training}
    return training, [examples[i] for i in order[:n_test] if examples[i][0] not in known]


def logistic_regression(training: Examples, test: Examples) -> float:
    """The best accuracy over k and the strength of the penalty: chosen on the test set, in the peer's favour."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression

    texts, classes = zip(*training, strict=True)
    test_texts, test_classes = zip(*test, strict=True)
    best = 0.0
    for longest in (3, 4, 5, 6):
        counts = CountVectorizer(analyzer="char", ngram_range=(1, longest), lowercase=False)
        features, held = counts.fit_transform(texts), counts.transform(test_texts)
        for strength in (0.01, 0.1, 1.0):
            found = LogisticRegression(C=strength, max_iter=2000).fit(features, classes)
            best = max(best, float(found.score(held, test_classes)))
    return best


def study(
    name: str, root: Path, options: argparse.Namespace, training: Examples, test: Examples, seed: int
) -> tuple[TrainResult, TrainResult]:
    """Pretrain on the genome, fine-tune on the examples."""
    shares, turned = VARIANTS[name]
    tokenizer = Tokenizer(nucleotide_tokenizer())
    model = {
        "vocab_size": 12, "d_model": 64, "layers": "S*2", "d_ff": 0, "d_state": 16, "bidirectional": True,
        "rcps": shares, "complement": tokenizer.complement if name != "plain" else None,
    }  # fmt: skip
    common = {"checkpoint_every": 0, "reverse_complement": turned, "seed": seed, "device": "cpu"}
    genome = {split: root / f"genome-{split}" for split in ("train", "validation")}
    if not genome["train"].exists():
        sequences = fasta(options.genome)
        *others, held = sequences
        write(genome["train"], [window for sequence in others for window in windows(sequence)], tokenizer)
        write(genome["validation"], windows(held), tokenizer)
    steps = options.pretrain_steps
    settings = TrainConfig(
        steps=steps,
        seq_len=256,
        global_batch=16,
        objective="masked",
        lr=8e-3,
        warmup_steps=steps // 10,
        eval_batches=20,
        **common,
    )
    pretrained = train(ModelConfig.from_dict(model), settings, genome["train"], genome["validation"], root / f"{name}-pretrained")
    names = sorted({label for _, label in training})
    sources = [
        [Source(label, write(root / f"{name}-{part}-{label}", [s for s, c in rows if c == label], tokenizer),
                sum(c == label for _, c in rows)) for label in names]
        for part, rows in (("train", training), ("test", test))
    ]  # fmt: skip
    settings = TrainConfig(
        steps=options.steps, seq_len=60, global_batch=32, objective="classify", lr=3e-3, warmup_steps=options.steps // 10,
        eval_batches=1000, **common,
    )  # fmt: skip
    classes = ModelConfig.from_dict(model | {"n_classes": len(names)})
    tuned = train(classes, settings, *sources, root / f"{name}-tuned", Given(root / f"{name}-pretrained"))
    return pretrained, tuned


def fasta(path: Path) -> list[str]:
    """The sequences of a FASTA file."""
    return ["".join(record.splitlines()[1:]) for record in path.read_text().split(">")[1:]]


def windows(sequence: str, size: int = 4096) -> list[str]:
    return [sequence[i : i + size] for i in range(0, len(sequence), size)]


def write(folder: Path, texts: Sequence[str], tokenizer: Tokenizer) -> Path:
    folder.mkdir()
    write_tokens(folder, ((i.to_bytes(16, "big"), "dna/0", i, tokenizer.encode(text)) for i, text in enumerate(texts)), tokenizer)
    return folder


if __name__ == "__main__":
    main()
