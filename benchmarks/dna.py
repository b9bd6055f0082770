"""DNA data: reading FASTA (plain, gzip, BGZF), cutting intervals, tokens and signals, against peers where they are installed.

python benchmarks/dna.py [MEGABASES]     Processor time of one thread. Peers: tokenizers; biopython and pyfaidx if they are there.
"""

from __future__ import annotations

import contextlib
import gzip
import random
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import tokenizers
from results import append, row

from tilth.corpus.sources.bed import Bed
from tilth.corpus.sources.fasta import Fasta
from tilth.dedup.minhash.shingles import shingle
from tilth.quality_signals.registry import compute_family, get_family
from tilth.tokenize.bpe import Tokenizer
from tilth.tokenize.nucleotides import nucleotide_tokenizer

WINDOW = 10_000


def seconds(run: Callable[[], Any], n: int = 3) -> float:
    """The least processor time of some runs; the first, which compiles, does not count."""
    run()
    found = []
    for _ in range(n):
        started = time.process_time()
        run()
        found.append(time.process_time() - started)
    return min(found)


def sequences(n_bases: int) -> dict[str, str]:
    """Two chromosomes, a twentieth N, a third soft-masked."""
    rng = random.Random(1)
    block = "".join(rng.choices("ACGT", k=1 << 20))
    masked = block[: 1 << 18] + block[1 << 18 : 9 << 17].lower() + "N" * (1 << 16) + block[9 << 17 :]
    whole = (masked * (n_bases // len(masked) + 1))[:n_bases]
    return {"chr1": whole[: n_bases * 2 // 3], "chr2": whole[n_bases * 2 // 3 :]}


def bgzf(data: bytes) -> bytes:
    packed = bytearray()
    for start in range(0, len(data), 65_280):
        part = data[start : start + 65_280]
        deflate = zlib.compressobj(6, zlib.DEFLATED, -15)
        body = deflate.compress(part) + deflate.flush()
        packed += struct.pack("<4BI2BH2BHH", 31, 139, 8, 4, 0, 0, 255, 6, 66, 67, 2, len(body) + 25) + body
        packed += struct.pack("<II", zlib.crc32(part), len(part))
    return bytes(packed)


def read(path: Path) -> int:
    source = Fasta(name="dna", path=str(path), window=WINDOW)
    return sum(1 for shard in source.plan(lambda _: "0" * 64) for _ in source.read(shard))


def main() -> None:
    n_mega = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    genome, size = sequences(n_mega * 1_000_000), f"{n_mega} Mb, windows of {WINDOW}"
    data = "".join(
        f">{name}\n" + "".join(f"{text[at : at + 60]}\n" for at in range(0, len(text), 60)) for name, text in genome.items()
    ).encode()
    rows = []

    def rate(
        what: str,
        run: Callable[[], Any],
        peer: Callable[[], Any] | None = None,
        notes: str = "",
        of: str = size,
        mega: float = n_mega,
    ) -> None:
        ours, theirs = seconds(run), None if peer is None else seconds(peer, 1)
        notes = f"{mega / ours:.0f} MB/s; processor time, one thread{'; ' + notes if notes else ''}"
        rows.append(row(what, of, ours, "s", theirs, notes, threads=1))

    with tempfile.TemporaryDirectory() as folder:
        files = {"plain": Path(folder) / "a.fa", "gzip": Path(folder) / "b.fa.gz", "BGZF": Path(folder) / "c.fa.gz"}
        files["plain"].write_bytes(data)
        files["gzip"].write_bytes(gzip.compress(data, 6))
        files["BGZF"].write_bytes(bgzf(data))
        for form, path in files.items():
            peer = None
            with contextlib.suppress(ImportError):
                from Bio import SeqIO

                def peer(path: Path = path, form: str = form) -> int:
                    with open(path) if form == "plain" else gzip.open(path, "rt") as file:
                        return sum(len(record.seq) for record in SeqIO.parse(file, "fasta"))

            rate(
                f"FASTA to documents, {form}",
                lambda path=path: read(path),
                peer,
                "peer: biopython's records, not cut" if peer else "",
            )
        cut_intervals(Path(folder), files["plain"], genome, rate)
    texts = [text[at : at + WINDOW] for text in genome.values() for at in range(0, len(text), WINDOW)]
    own, library = Tokenizer(nucleotide_tokenizer()), tokenizers.Tokenizer.from_str(nucleotide_tokenizer().decode())
    few = texts[: len(texts) // 20]
    rate("nucleotide tokens", lambda: own.encode_batch(texts), None)
    few_ours, few_theirs = seconds(lambda: own.encode_batch(few)), seconds(lambda: library.encode_batch_fast(few), 1)
    rows.append(
        row(
            "nucleotide tokens, a part",
            f"{n_mega / 20:g} Mb",
            few_ours,
            "s",
            few_theirs,
            "peer: tokenizers, all its threads",
            threads=1,
        )
    )
    table = pa.table({
        "shard": ["s"] * len(texts), "row": pa.array(range(len(texts)), pa.int32()), "text": pa.array(texts, pa.large_string()),
    })  # fmt: skip
    rate("signals of nucleotides", lambda: compute_family(get_family("nucleotides"), table))
    for unit in ("characters", "nucleotides"):
        rate(
            f"21-mers as shingles, {unit}",
            lambda unit=unit: shingle(pa.array(few, pa.large_string()), 21, unit),
            of=f"{n_mega / 20:g} Mb",
            mega=n_mega / 20,
        )
    append(rows)


def cut_intervals(folder: Path, fasta: Path, genome: dict[str, str], rate: Callable[..., None]) -> None:
    """100,000 intervals of 200 letters, half of them on the other strand."""
    rng = random.Random(2)
    lines = []
    for _ in range(100_000):
        name = rng.choice([*genome])
        start = rng.randrange(len(genome[name]) - 200)
        lines.append(f"{name}\t{start}\t{start + 200}\tx\t0\t{rng.choice('+-')}\n")
    (folder / "a.bed").write_text("".join(lines))
    source = Bed(name="sites", path=str(folder / "a.bed"), fasta=str(fasta))
    peer = None
    with contextlib.suppress(ImportError):
        import pyfaidx

        def peer() -> int:
            n = 0
            with pyfaidx.Fasta(str(fasta)) as opened:
                for line in lines:
                    name, start, end, _, _, strand = line.split()
                    found = opened[name][int(start) : int(end)]
                    n += len(str(-found if strand == "-" else found))
            return n

    def ours() -> int:
        return sum(1 for shard in source.plan(lambda _: "0" * 64) for _ in source.read(shard))

    rate("BED over FASTA to documents", ours, peer, "peer: pyfaidx, strings alone" if peer else "", of="100,000 x 200", mega=20)


if __name__ == "__main__":
    main()
