"""Trains on documents of 0.3 sequences' mean length: packed into whole rows, against one padded document a row.

    python benchmarks/packing.py [--threads 1] [--seq-len 1024] [--batch 4] [--documents 16] [--rounds 3] [--quick]

The hybrid of hybrid_peer.py, fp32, with AdamW and clipping; lengths are exponential, at most a sequence. A useful token is one
with a target. In turns, on the same documents: ours packed by the order of a run; ours padded to the sequence, as a fixed-shape
collator does; ours padded to the longest of each batch; and both paddings in HF transformers, whose CPU path cannot keep packed
documents of a hybrid apart. `ratio` is ours packed over the peer named in the row, in useful tokens/s; medians of the
rounds. Then the leak: how much a token's loss in a packed row differs from that in its document alone (fp64 and fp32).
Needs benchmarks/peers_models.txt.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from hybrid_peer import HYBRID, hf_twin
from results import append, row, spread
from torch import Tensor
from torch.nn import functional

from tilth.models.decoder import Decoder
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.order import RunOrder
from tilth.tokenize.shards import TokenSet, write_tokens
from tilth.trainer.data import micro_batches

SHARE = 0.3
Loss = Callable[[], Tensor]  # a mean over the batch's targets
IGNORED = -100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="write nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    torch.manual_seed(0)
    model = Decoder(HYBRID)
    with tempfile.TemporaryDirectory() as folder:
        tokens = write_documents(Path(folder), options)
        ways = prepare(model, hf_twin(model), tokens, options)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(-1, options.rounds):  # the first warms up
            for name, (trained, losses, n_targets) in ways.items():
                speeds = one_pass(trained, losses[:1] if number < 0 else losses, n_targets)
                if number >= 0:
                    found[name].append(speeds)
                    print(f"round {number} {name}: {speeds[0]:.0f} useful tokens/s of CPU time", flush=True)
        rows = report(found, tokens, options) + leak(tokens, options)
    if not options.quick:
        append(rows)


def write_documents(folder: Path, options: argparse.Namespace) -> TokenSet:
    """Random tokens in documents whose mean length, separator included, is SHARE of a sequence."""
    rng = np.random.default_rng(0)
    tokenizer = Tokenizer(train_bpe(["seed soil rain root leaf"] * 10, 280))
    known = np.array([i for i in range(tokenizer.vocab_size) if i != tokenizer.separator_id])
    lengths = np.minimum(rng.exponential(size=options.documents), 1 / SHARE - 0.1)
    lengths = np.clip(np.rint(lengths * SHARE * options.seq_len / lengths.mean()), 8, options.seq_len).astype(int)
    write_tokens(
        folder,
        ((i.to_bytes(16, "big"), "bench", i, rng.choice(known, length - 1)) for i, length in enumerate(lengths.tolist())),
        tokenizer,
    )
    return TokenSet.open(folder)


def prepare(model: Decoder, peer: Any, tokens: TokenSet, options: argparse.Namespace) -> dict[str, tuple[Any, list[Loss], int]]:
    """For each way: the model, a loss for each step of one pass over the documents, and the targets of the pass."""
    order = RunOrder(tokens.lengths, options.seq_len, options.batch, 0)
    n_packed = max(1, round(tokens.n_tokens / options.seq_len / options.batch))
    plans = [list(enumerate(order.sequences(step))) for step in range(n_packed)]
    packed = [next(micro_batches(tokens, own, None, torch.device("cpu"), lambda row, plan, number: row)) for own in plans]
    documents = [torch.from_numpy(tokens.document(i).astype(np.int64)) for i in range(tokens.n_documents)]
    batches = [documents[i : i + options.batch] for i in range(0, len(documents), options.batch)]
    n_targets = sum(len(document) - 1 for document in documents)
    n_packed_targets = sum(int((targets != IGNORED).sum()) for _, targets, _ in packed)
    ways: dict[str, tuple[Any, list[Loss], int]] = {
        "packed": (model, [lambda b=b: mean(*model.loss(*b)) for b in packed], n_packed_targets)
    }
    for name, length in (("padded", options.seq_len), ("padded to the longest", None)):
        padded = [pad(batch, length) for batch in batches]
        ways[f"ours {name}"] = (model, [lambda b=b: mean(*model.loss(b[0], b[1])) for b in padded], n_targets)
        ways[f"HF {name}"] = (
            peer,
            [lambda b=b: peer(input_ids=b[0], attention_mask=b[2], labels=b[3]).loss for b in padded],
            n_targets,
        )
    return ways


def mean(total: Tensor, count: Tensor) -> Tensor:
    return total / count


def pad(documents: list[Tensor], length: int | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """ids, targets, mask and labels (which transformers shifts itself) of one document a row."""
    width = length or max(map(len, documents))
    ids = torch.stack([functional.pad(d, (0, width - len(d))) for d in documents])
    targets = torch.stack([functional.pad(d[1:], (0, width - len(d) + 1), value=IGNORED) for d in documents])
    labels = torch.stack([functional.pad(d, (0, width - len(d)), value=IGNORED) for d in documents])
    return ids, targets, (labels != IGNORED).long(), labels


def one_pass(trained: Any, losses: list[Loss], n_targets: int) -> tuple[float, float]:
    """Useful tokens per second of CPU time and by the clock; one step of AdamW a batch, as in training."""
    optimizer = torch.optim.AdamW(trained.parameters(), lr=1e-4, fused=True)
    began = time.process_time(), time.perf_counter()
    for loss in losses:
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
    return n_targets / (time.process_time() - began[0]), n_targets / (time.perf_counter() - began[1])


def report(found: dict[str, list[tuple[float, float]]], tokens: TokenSet, options: argparse.Namespace) -> list[dict[str, str]]:
    rows = []
    size = f"d256 MMMA, B{options.batch} T{options.seq_len}, {tokens.n_documents} documents of {tokens.lengths.mean():.0f} tokens"
    for name in list(found)[1:]:
        speeds = {way: [pair[0] for pair in found[way]] for way in ("packed", name)}
        walls = [statistics.median(pair[1] for pair in found[way]) for way in ("packed", name)]
        medians = {way: statistics.median(values) for way, values in speeds.items()}
        notes = (
            f"peer: {name}; useful tokens/s {medians['packed']:.0f} and {medians[name]:.0f} by CPU time, {walls[0]:.0f} and "
            f"{walls[1]:.0f} by the clock ({walls[0] / walls[1]:.2f}); p10-p90 ours {spread(speeds['packed'])}, peer "
            f"{spread(speeds[name])}; torch {torch.__version__}, transformers {transformers.__version__}"
        )
        rows.append(
            row(
                "packed training, per useful token",
                size,
                1e3 / medians["packed"],
                "ms",
                1e3 / medians[name],
                notes,
                options.threads,
            )
        )
        print("  ".join(rows[-1][key] for key in ("what", "ours", "peer", "ratio", "notes")), flush=True)
    return rows


@torch.no_grad()
def leak(tokens: TokenSet, options: argparse.Namespace) -> list[dict[str, str]]:
    """The largest difference of a token's loss, packed and alone."""
    torch.manual_seed(1)
    model = Decoder(HYBRID)
    for name, weight in model.named_parameters():
        if name.endswith("proj.weight"):
            weight.mul_(3)  # layers that speak up: at initialisation a leak would be small
    documents = [torch.from_numpy(tokens.document(i).astype(np.int64)) for i in range(min(6, tokens.n_documents))]
    ids = torch.cat(documents)[None]
    segments = torch.cat([torch.full((len(d),), i, dtype=torch.int32) for i, d in enumerate(documents)])[None]
    lengths = [len(document) for document in documents]
    rows = []
    for dtype in (torch.float64, torch.float32):
        model.to(dtype)
        alone = [losses(model(document[None])[0], document) for document in documents]
        worst, mean_worst, without = 0.0, 0.0, 0.0
        for packed, blind, document, wanted in zip(
            model(ids, segments)[0].split(lengths), model(ids)[0].split(lengths), documents, alone, strict=True
        ):
            found = losses(packed, document)
            worst = max(worst, float((found - wanted).abs().max()))
            mean_worst = max(mean_worst, abs(float(found.double().mean() - wanted.double().mean())))
            without = max(without, float((losses(blind, document) - wanted).abs().max()))
        size = f"{len(documents)} documents, {ids.shape[1]} tokens, {str(dtype).removeprefix('torch.')}"
        notes = (
            f"largest difference of a token's loss, packed and alone; of a document's mean loss {mean_worst:.1e}; "
            f"peer: the same row without segments; one unit in the last place of a loss in fp32 is {2**-20:.1e}"
        )
        rows.append(row("packed training, leak", size, worst, "nats", without, notes, threads=options.threads))
        print("  ".join(rows[-1][key] for key in ("what", "size", "ours", "peer", "notes")), flush=True)
    return rows


def losses(logits_TV: Tensor, ids_T: Tensor) -> Tensor:
    return functional.cross_entropy(logits_TV[:-1], ids_T[1:], reduction="none")


if __name__ == "__main__":
    main()
