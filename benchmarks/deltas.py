"""Deltas: quality at the same bits, file sizes at real shapes, encoding speed and the memory of distillation.

    python benchmarks/deltas.py [quality] [sizes] [speed] [memory] [--seeds 3] [--quick]

quality: a small hybrid learns three novels, then grade-school mathematics (TILTH_TEST_DATA: pg_*, gsm8k_train); each codec is
distilled for the same steps on the same batches, and judged on problems that nothing was trained on. The peer is BitDelta,
distilled as well. sizes: exact bytes of the file, header and all, for the shapes of Llama-2-7B and Llama-3.1-8B in bf16, by a
layout that is checked against a real file. speed: bytes of fp32 differences a second on one core. memory: peak resident bytes
of distillation in a process of its own, as a multiple of the base's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from results import append, row, spread
from torch import Tensor

from tilth.deploy.choice import Choice
from tilth.deploy.codecs import MatrixCodec, parse_codec
from tilth.deploy.delta import Delta, Encoded, add_in_place, compress
from tilth.deploy.delta_file import file_bytes, save_delta
from tilth.deploy.distill import distill, mean_logit_error
from tilth.deploy.saved_tensors import SavedTensors
from tilth.deploy.teacher import Teacher
from tilth.deploy.token_batches import TokenBatch, read_batches
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.weights import load_model, save_model
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.shards import TokenSet, write_tokens

NOVELS = ("pg_mobydick2701/2701-0.txt", "pg_pride1342/1342-0.txt", "pg_alice11/11-0.txt")
PROBLEMS = "gsm8k_train/grade_school_math/data/train.jsonl"
N_HELD_OUT = 400
CODECS = ("bitdelta", "rank1", "residual:2", "low-rank")
# distillation as published: 200 steps of 4 sequences of 128 tokens
STEPS = {"base": 200, "tuned": 150, "distilled": 200}
SEQ_LEN, BATCH = 128, 4
GEOMETRIES = {
    # layers, width, heads, heads of keys, width of the MLP, vocabulary
    "Llama-2-7B": (32, 4096, 32, 32, 11008, 32_000),
    "Llama-3.1-8B": (32, 4096, 32, 8, 14336, 128_256),
}
CHANGED_SHARES = {"no row": 0.0, "1 % of rows": 0.01, "10 % of rows": 0.1, "all rows, 4 bits": 1.0, "all rows, 1 bit": 1.0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", default=[], help="quality, sizes, speed, memory; all where none is named")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--codecs", nargs="+", default=list(CODECS), help="of quality; BitDelta is always there")
    parser.add_argument("--quick", action="store_true", help="write nothing")
    parser.add_argument("--peak", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.peak:
        distil_once(options.peak)
        return
    rows: list[dict[str, str]] = []
    for name, measure in {
        "quality": lambda: quality(options.seeds, options.width, options.codecs),
        "sizes": sizes,
        "speed": speed,
        "memory": memory,
    }.items():
        if name in options.what or not options.what:
            rows += measure()
    if options.quick:
        for values in rows:
            print({name: value for name, value in values.items() if name in ("what", "size", "ours", "peer", "unit", "notes")})
    else:
        append(rows)


# -- quality --------------------------------------------------------------------------------------------------------------


def quality(n_seeds: int, width: int, asked: list[str]) -> list[dict[str, str]]:
    """Held-out logit errors of each codec after the same distillation, over seeds."""
    if "TILTH_TEST_DATA" not in os.environ:
        print("quality: left out, for TILTH_TEST_DATA names no folder")
        return []
    codecs = ["bitdelta", *(name for name in asked if name != "bitdelta")]
    errors: dict[str, list[float]] = {name: [] for name in codecs}
    kept: dict[str, list[float]] = {name: [] for name in codecs}
    bits: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        sets, vocab_size = token_sets(Path(folder))
        for seed in range(n_seeds):
            began = time.process_time()
            models = Path(folder) / str(seed)
            train_pair(models, sets, vocab_size, width, seed)
            for name, (error, share, bits_a_weight) in judged(models, sets, codecs, seed).items():
                errors[name].append(error)
                kept[name].append(share)
                bits[name] = bits_a_weight
            told = ", ".join(f"{name} {values[-1]:.5f}" for name, values in errors.items())
            print(f"seed {seed}: {told}; {time.process_time() - began:.0f} s CPU", flush=True)
    found = []
    for name in codecs[1:]:
        notes = f"paired ratios {' '.join(f'{a / b:.3f}' for a, b in zip(errors[name], errors['bitdelta'], strict=True))}; "
        notes += f"of the fine-tune's gain kept {' '.join(f'{x:.3f}' for x in kept[name])}, BitDelta "
        notes += f"{' '.join(f'{x:.3f}' for x in kept['bitdelta'])}; bits a weight at this width {bits[name]:.3f}, "
        notes += f"BitDelta {bits['bitdelta']:.3f}; tables at 16 bits in all"
        size = f"MAMA d{width}, 3 novels -> GSM8K, {STEPS['distilled']} steps, {n_seeds} seeds"
        means = (statistics.mean(errors[name]), statistics.mean(errors["bitdelta"]))
        found.append(row(f"delta {name}: held-out logit MSE against BitDelta", size, means[0], "MSE", means[1], notes, 1))
    return found


def token_sets(root: Path) -> tuple[dict[str, TokenSet], int]:
    """Novels in pieces, problems with their solutions, and problems that nothing is trained on; the size of the vocabulary."""
    data = Path(os.environ["TILTH_TEST_DATA"])
    novels = [(data / name).read_text(encoding="utf-8", errors="replace") for name in NOVELS]
    pieces = [text[i : i + 4000] for text in novels for i in range(0, len(text), 4000)]
    problems = [json.loads(line) for line in (data / PROBLEMS).read_text(encoding="utf-8").splitlines()]
    solved = [f"{item['question']}\n{item['answer']}" for item in problems]
    tokenizer = Tokenizer(train_bpe([*pieces[::3], *solved[::6]], 1024))
    sets = {}
    for name, texts in {"base": pieces, "tuned": solved[:-N_HELD_OUT], "held out": solved[-N_HELD_OUT:]}.items():
        (root / name).mkdir()
        documents = ((i.to_bytes(16, "little"), "s/00000", i, tokenizer.encode(text)) for i, text in enumerate(texts))
        write_tokens(root / name, documents, tokenizer)
        sets[name] = TokenSet.open(root / name)
    return sets, tokenizer.vocab_size


def train_pair(folder: Path, sets: dict[str, TokenSet], vocab_size: int, width: int, seed: int) -> None:
    """base: from scratch on novels; tuned: all of its weights on problems."""
    config = ModelConfig(
        vocab_size=vocab_size, d_model=width, layers="MAMA", n_heads=width // 32, n_kv_heads=width // 64, d_ff=2 * width,
        d_state=32, ssm_head_dim=32, chunk_size=32,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = Decoder(config)
    for name, rate in (("base", 3e-3), ("tuned", 5e-4)):
        optimiser = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step, n=STEPS[name]: min(1.0, (step + 1) / 20) * (1 - step / n)
        )
        for batch in read_batches(sets[name], n_batches=STEPS[name], batch_size=8, seq_len=SEQ_LEN, seed=seed):
            total, count = model.loss(batch.ids_BT, batch.targets_BT, batch.segments_BT)
            optimiser.zero_grad()
            (total / count).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        save_model(folder / name, model)


def judged(folder: Path, sets: dict[str, TokenSet], codecs: list[str], seed: int) -> dict[str, tuple[float, float, float]]:
    """Of each codec: logit MSE on held-out problems, the share of the gain in loss that is kept, bits a matrix weight."""
    base, tuned = load_model(folder / "base"), load_model(folder / "tuned")
    n = STEPS["distilled"]
    teacher = Teacher.of(tuned, read_batches(sets["tuned"], n_batches=n, batch_size=BATCH, seq_len=SEQ_LEN, seed=seed + 100))
    held_out = read_batches(sets["held out"], n_batches=8, batch_size=BATCH, seq_len=SEQ_LEN, seed=seed)
    judge = Teacher.of(tuned, held_out)
    found = {}
    for name in codecs:
        delta = compress(SavedTensors(folder / "base"), SavedTensors(folder / "tuned"), Choice(name, tables="16"))
        distilled = distill(base, teacher, delta, n_steps=n).delta
        rebuilt = load_model(folder / "base")
        add_in_place(distilled, rebuilt.state_dict())
        losses = [held_out_loss(model, judge) for model in (base, tuned, rebuilt)]
        matrices = distilled.of_kind("matrices").values()
        n_weights = sum(torch.Size(own.shape).numel() for own in matrices)
        bits = 8 * sum(own.n_bytes for own in matrices) / n_weights
        found[name] = mean_logit_error(base, judge, distilled), (losses[0] - losses[2]) / (losses[0] - losses[1]), bits
    return found


@torch.no_grad()
def held_out_loss(model: Decoder, judge: Teacher) -> float:
    """Mean cross entropy, nats a token."""
    sums = [model.loss(batch.ids_BT, batch.targets_BT, batch.segments_BT) for batch in judge.batches]
    return sum(total.item() for total, _ in sums) / sum(int(count) for _, count in sums)


# -- sizes ----------------------------------------------------------------------------------------------------------------


def sizes() -> list[dict[str, str]]:
    """Exact bytes at real shapes, and the real file of a small model with a large vocabulary."""
    check_layout()
    found = []
    for model, geometry in GEOMETRIES.items():
        bf16 = 2 * sum(torch.Size(shape).numel() for shape in shapes_of(*geometry).values())
        for codec in ("rank1", "bitdelta"):
            for rows, share in CHANGED_SHARES.items():
                table = "rows" if share < 1 else "rows-sign" if "1 bit" in rows else "rows-int"
                delta = laid_out(shapes_of(*geometry), codec, table, share)
                size = file_bytes(delta)
                matrices = delta.of_kind("matrices").values()
                signs = sum(torch.Size(own.shape).numel() for own in matrices) / 8
                notes = f"matrices {sum(own.n_bytes for own in matrices) / signs:.4f} bytes to a byte of signs; "
                notes += f"tables {sum(own.n_bytes for own in delta.of_kind('tables').values()) / 1e6:.1f} MB"
                found.append(
                    row(f"delta {codec}: whole file", f"{model} bf16, {rows} changed", size / 1e6, "MB", bf16 / 1e6, notes)
                )
    for vocab_size in (32_000, 128_256):
        for share, label in ((0.01, "1 % of rows changed"), (1.0, "all rows changed")):
            size, bf16 = real_file(vocab_size, share)
            what = f"V{vocab_size} d64, 2 layers bf16, {label}"
            found.append(row("delta rank1: a real file, tables by auto", what, size / 1e6, "MB", bf16 / 1e6))
    return found


def shapes_of(layers: int, width: int, heads: int, kv_heads: int, ff: int, vocab: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a Llama as Tilth holds it."""
    head_dim = width // heads
    shapes: dict[str, tuple[int, ...]] = {
        "embedding.weight": (vocab, width),
        "head.weight": (vocab, width),
        "norm.weight": (width,),
    }
    for i in range(layers):
        shapes |= {
            f"blocks.{i}.mixer_norm.weight": (width,),
            f"blocks.{i}.mlp_norm.weight": (width,),
            f"blocks.{i}.mixer.qkv_proj.weight": ((heads + 2 * kv_heads) * head_dim, width),
            f"blocks.{i}.mixer.out_proj.weight": (width, heads * head_dim),
            f"blocks.{i}.mlp.gate_up_proj.weight": (2 * ff, width),
            f"blocks.{i}.mlp.out_proj.weight": (width, ff),
        }
    return shapes


def laid_out(shapes: dict[str, tuple[int, ...]], codec: str, table: str, share: float) -> Delta:
    """A delta of bf16 tensors of which only the shapes exist."""
    encoded = {}
    for name, shape in shapes.items():
        own, parts = ("whole", {"values": empty(torch.bfloat16, *shape)})
        if name.startswith("blocks.") and len(shape) == 2:
            own, parts = codec, signs_of(shape[0], shape[1], codec == "rank1")
        elif len(shape) == 2:
            n_rows = round(share * shape[0])
            own, parts = table, rows_of(table, n_rows, shape[1])
            if not n_rows:
                continue
        encoded[name] = Encoded(own, shape, torch.bfloat16, parts)
    return Delta("0" * 64, "0" * 64, encoded)


def signs_of(n_outputs: int, n_inputs: int, is_rank1: bool) -> dict[str, Tensor]:
    """The parts of rank1, or of BitDelta."""
    parts = {"signs": empty(torch.int32, -(-n_inputs // 32), n_outputs), "scale": empty(torch.float32)}
    if is_rank1:
        parts |= {"row_scale": empty(torch.float16, n_outputs), "column_scale": empty(torch.float16, n_inputs)}
    return parts


def rows_of(table: str, n_rows: int, width: int) -> dict[str, Tensor]:
    """The parts of n_rows changed rows."""
    parts = {"rows": empty(torch.int32, n_rows)}
    if table == "rows":
        return parts | {"values": empty(torch.bfloat16, n_rows, width)}
    if table == "rows-int":
        return parts | {"codes4": empty(torch.uint8, n_rows, -(-width // 2)), "row_scale": empty(torch.float32, n_rows)}
    return parts | signs_of(n_rows, width, is_rank1=True)


def empty(dtype: torch.dtype, *shape: int) -> Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=dtype, device="meta")


def small_pair(vocab_size: int, share: float) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A tiny bf16 Llama and one of which a share of the rows and all matrices changed."""
    generator = torch.Generator().manual_seed(0)
    shapes = shapes_of(2, 64, 4, 4, 128, vocab_size)
    base = {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in shapes.items()}
    tuned = {name: tensor + (0.05 * torch.randn(tensor.shape, generator=generator)).bfloat16() for name, tensor in base.items()}
    for name in ("embedding.weight", "head.weight"):
        kept = round(share * vocab_size)
        tuned[name][kept:] = base[name][kept:]
    return base, tuned


def real_file(vocab_size: int, share: float) -> tuple[int, int]:
    """The size of a file, and of the model in bf16."""
    base, tuned = small_pair(vocab_size, share)
    delta = compress(base, tuned)
    with tempfile.TemporaryDirectory() as folder:
        size = save_delta(Path(folder) / "delta.safetensors", delta, delta.base_digest)
    return size, sum(tensor.nbytes for tensor in tuned.values())


def check_layout() -> None:
    """The layout above is that of a real file, for each kind of table."""
    for tables, table in {"16": "rows", "4": "rows-int", "1": "rows-sign"}.items():
        for codec in ("rank1", "bitdelta"):
            base, tuned = small_pair(1000, 1.0)
            real = compress(base, tuned, Choice(codec, tables=tables))
            assert file_bytes(real) == file_bytes(laid_out(shapes_of(2, 64, 4, 4, 128, 1000), codec, table, 1.0)), (codec, table)


# -- speed ----------------------------------------------------------------------------------------------------------------


def speed(n_rounds: int = 7) -> list[dict[str, str]]:
    """Encoding and decoding one matrix of a 7B model, CPU time of one core."""
    found = []
    difference_NK = torch.randn(4096, 4096, generator=torch.Generator().manual_seed(0))
    for name in ("rank1", "bitdelta", "residual:2"):
        codec = parse_codec(name)
        assert isinstance(codec, MatrixCodec)
        parts = codec.encode_difference(difference_NK)
        for what, call in {
            "encode": lambda codec=codec: codec.encode_difference(difference_NK),
            "decode": lambda codec=codec, parts=parts: codec.decode(parts, (4096, 4096)),
        }.items():
            rates = []
            for _ in range(n_rounds):
                began = time.process_time()
                call()
                rates.append(difference_NK.nbytes / 1e6 / (time.process_time() - began))
            notes = f"fp32 difference, one core; {spread(rates)}"
            found.append(row(f"delta {name}: {what}", "4096 x 4096", statistics.median(rates), "MB/s", notes=notes, threads=1))
    return found


# -- memory ---------------------------------------------------------------------------------------------------------------


def memory() -> list[dict[str, str]]:
    """Peak resident bytes of compressing and distilling, less those of the same with a tiny model, over the base's bytes."""
    peaks, n_bytes = {}, {}
    for name, sizes in {"tiny": ("A*2", 64, 128), "large": ("A*28", 512, 1408)}.items():
        with tempfile.TemporaryDirectory() as folder:
            n_bytes[name] = save_pair(Path(folder), *sizes)
            # glibc keeps what is freed unless it was over 32 MB, as the matrices of a real model are: here all of it goes back
            environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
            command = [sys.executable, __file__, "--peak", folder]
            ran = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
            peaks[name] = int(ran.stdout.split()[-1])
    ours = (peaks["large"] - peaks["tiny"]) / n_bytes["large"]
    notes = f"base {n_bytes['large'] / 1e6:.0f} MB fp32; peak {peaks['large'] / 1e6:.0f} MB, that of the same with a tiny model "
    notes += (
        f"{peaks['tiny'] / 1e6:.0f} MB, MALLOC_MMAP_THRESHOLD_=65536; peer: base, fine-tune and compressed model, as published"
    )
    return [row("delta: memory to compress and distil", "28 layers d512, 2 steps of 4 x 128", ours, "x base", 3.0, notes, 1)]


def save_pair(root: Path, layers: str, width: int, ff: int) -> int:
    """A base and a model of which every weight differs; the bytes of one."""
    torch.manual_seed(0)
    model = Decoder(ModelConfig(vocab_size=2048, d_model=width, layers=layers, n_heads=8, d_ff=ff, tie_embeddings=True))
    save_model(root / "base", model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    save_model(root / "tuned", model)
    return sum(parameter.nbytes for parameter in model.parameters())


def distil_once(root: Path) -> None:
    """Compress and distil for two steps; prints the peak of this process in bytes."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 2048, (2, 4, 128), generator=generator)
    batches = [TokenBatch(ids_BT, ids_BT, torch.zeros(4, 128, dtype=torch.int32)) for ids_BT in ids]
    delta = compress(SavedTensors(root / "base"), SavedTensors(root / "tuned"))
    teacher = Teacher.of(load_model(root / "tuned"), batches)
    distilled = distill(load_model(root / "base"), teacher, delta, n_steps=2)
    save_delta(root / "delta.safetensors", distilled.delta, delta.base_digest)
    print(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


if __name__ == "__main__":
    main()
