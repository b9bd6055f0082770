"""Token shards (contract tokens/1): written in one pass with bounded memory, read through a memory map that was checked."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tilth.contracts import TOKENS_INDEX, check, uuid_array
from tilth.errors import ContractError
from tilth.tokenize.bpe import Tokenizer
from tilth.tokenize.order import SequencePlan
from tilth.tokenize.strands import other_strand

IGNORED = -100  # the target of a position that no loss is taken of
_ROWS_PER_BATCH = 50_000
_FIELDS = {
    "dtype": str,
    "n_tokens": int,
    "n_documents": int,
    "vocab_size": int,
    "separator": str,
    "separator_id": int,
    "tokenizer_digest": str,
    "tokens_digest": str,
    "lengths_digest": str,
}


def write_tokens(folder: Path, documents: Iterable[tuple[bytes, str, int, np.ndarray]], tokenizer: Tokenizer) -> dict[str, Any]:
    """Write `documents` (doc_id of 16 bytes, shard, row, ids (n,)) into `folder` and return the counts.

    Each document is followed by the separator, which counts in its length. `folder` must exist; publishing it
    at once is the caller's part. Raises ContractError for an id outside the vocabulary or a separator in a document.
    """
    folder = Path(folder)
    tokens_hash, lengths_hash = hashlib.sha256(), hashlib.sha256()
    index = _Index(folder / "index.parquet")
    separator = np.array([tokenizer.separator_id], dtype=tokenizer.dtype)
    with open(folder / "tokens.bin", "wb", buffering=1 << 20) as file, index:
        for doc_id, shard, row, ids in documents:
            ids = np.asarray(ids)
            _check_ids(ids, tokenizer, f"{shard} row {row}")
            data = np.concatenate([ids.astype(tokenizer.dtype), separator]).tobytes()
            file.write(data)
            tokens_hash.update(data)
            length = len(ids) + 1
            lengths_hash.update(length.to_bytes(8, "little"))
            index.add(doc_id, shard, row, length)
    (folder / "tokenizer.json").write_bytes(tokenizer.data)
    described = {
        "dtype": tokenizer.dtype.name,
        "n_tokens": index.n_tokens,
        "n_documents": index.n_documents,
        "vocab_size": tokenizer.vocab_size,
        "separator": tokenizer.separator,
        "separator_id": tokenizer.separator_id,
        "begin_id": tokenizer.begin_id,
        "tokenizer_digest": tokenizer.digest,
        "tokens_digest": tokens_hash.hexdigest(),
        "lengths_digest": lengths_hash.hexdigest(),
    }
    (folder / "tokens.json").write_text(json.dumps(described, indent=1) + "\n", encoding="utf-8")
    return {"n_documents": index.n_documents, "n_tokens": index.n_tokens, "size_bytes": index.n_tokens * tokenizer.dtype.itemsize}


def _check_ids(ids: np.ndarray, tokenizer: Tokenizer, where: str) -> None:
    if len(ids) == 0:
        return
    if int(ids.min()) < 0 or int(ids.max()) >= tokenizer.vocab_size:
        raise ContractError(f"a token id lies outside the vocabulary of {tokenizer.vocab_size}", where=where)
    if (ids == tokenizer.separator_id).any():
        raise ContractError("a document holds the separator, which only ends documents", where=where)


@dataclass
class _Index:
    """index.parquet, written in batches."""

    path: Path
    n_documents: int = 0
    n_tokens: int = 0
    rows: list[tuple[bytes, str, int, int, int]] = field(default_factory=list)

    def __enter__(self) -> _Index:
        self.writer = pq.ParquetWriter(self.path, TOKENS_INDEX.schema, compression="zstd")
        return self

    def add(self, doc_id: bytes, shard: str, row: int, length: int) -> None:
        self.rows.append((doc_id, shard, row, self.n_tokens, length))
        self.n_documents += 1
        self.n_tokens += length
        if len(self.rows) == _ROWS_PER_BATCH:
            self._flush()

    def _flush(self) -> None:
        columns = list(zip(*self.rows, strict=True)) or [()] * 5
        arrays = [uuid_array(list(columns[0])), *columns[1:]]
        named = [
            array if isinstance(array, pa.Array) else pa.array(array, type=wanted.type)
            for array, wanted in zip(arrays, TOKENS_INDEX.schema, strict=True)
        ]
        batch = pa.record_batch(named, schema=TOKENS_INDEX.schema)
        check(batch, TOKENS_INDEX)
        self.writer.write_batch(batch)
        self.rows.clear()

    def __exit__(self, *error: object) -> None:
        if error[0] is None and (self.rows or not self.n_documents):
            self._flush()
        self.writer.close()


@dataclass(frozen=True)
class TokenSet:
    """The token shards of one subset, memory-mapped."""

    folder: Path
    tokens: np.ndarray  # (n_tokens,) uint16 or uint32, a read-only map
    lengths: np.ndarray  # (n_documents,) int64, with the separator
    offsets: np.ndarray  # (n_documents,) int64, into `tokens`
    vocab_size: int
    separator_id: int
    begin_id: int  # what a model reads before a document: the separator, or of a foreign tokenizer its own token for that
    tokenizer_digest: str
    digest: str  # of what a run reads: tokens, document lengths and tokenizer

    @classmethod
    def open(cls, folder: Path) -> TokenSet:
        """Map `folder`. Raises ContractError when a file is missing, cut short, or disagrees with the others."""
        folder = Path(folder)
        described = _read_description(folder)
        dtype = np.dtype(described["dtype"]).newbyteorder("<")
        _check_size(folder / "tokens.bin", described["n_tokens"], dtype.itemsize)
        n_tokens = described["n_tokens"]
        # An empty file cannot be mapped.
        tokens = np.memmap(folder / "tokens.bin", dtype, "r") if n_tokens else np.empty(0, dtype)
        index = _read_index(folder, described)
        tokenizer_digest = hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest()
        if tokenizer_digest != described["tokenizer_digest"]:
            raise ContractError("tokenizer.json is not the tokenizer that made these tokens", where=str(folder))
        identity = {key: described[key] for key in ("dtype", "vocab_size", "tokenizer_digest", "tokens_digest", "lengths_digest")}
        begin_id = described.get("begin_id", described["separator_id"])
        identity["begin_id"] = begin_id
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        lengths, offsets = index.column("length").to_numpy(), index.column("offset").to_numpy()
        ids = described["vocab_size"], described["separator_id"], begin_id
        return cls(folder, tokens, lengths, offsets, *ids, tokenizer_digest, digest)

    @property
    def n_tokens(self) -> int:
        return len(self.tokens)

    @property
    def n_documents(self) -> int:
        return len(self.lengths)

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that made these tokens."""
        return Tokenizer.open(self.folder)

    @cached_property
    def complement(self) -> np.ndarray:
        """The id on the other strand for each id, (vocab_size,) int64. Raises ContractError: the tokens are no nucleotides."""
        pairs = self.tokenizer().complement
        if pairs is None:
            what = "these tokens have no other strand: they are no nucleotides"
            raise ContractError(what, str(self.folder), "Build the corpus with `tokenizer=Nucleotides()`.")
        return np.array(pairs, np.int64)

    def document(self, index: int) -> np.ndarray:
        """The ids (length,) of one document, with its separator."""
        return self.tokens[self.offsets[index] : self.offsets[index] + self.lengths[index]]

    def rows(self, indices: Sequence[int]) -> pa.Table:
        """The index rows (contract tokens/1) of the documents at `indices`, in that order."""
        table = pq.read_table(self.folder / "index.parquet")
        return table.take(pa.array(indices, pa.int64()))

    def sequence(self, plan: SequencePlan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What a model reads for `plan`: (ids_T int64, targets_T int64, segments_T int32).

        The target of a position is the next token. The separator between two documents is the target that ends the first
        and the input that begins the second, read as `begin_id`, as a prompt is begun when a model is sampled from. Segments
        number the pieces of the plan as they are read; the first has no position where it gives only the separator before the
        second. A turned plan is the reverse complement of all T+1 tokens. Raises ContractError for an id outside the vocabulary,
        which means that tokens.bin was damaged, and for a plan to turn what is no DNA.
        """
        parts = []
        for piece in plan.pieces:
            begin = int(self.offsets[piece.document]) + piece.start
            parts.append(self.tokens[begin : begin + piece.length])
        tokens = np.concatenate(parts).astype(np.int64)
        if int(tokens.max()) >= self.vocab_size:
            what = f"tokens.bin is damaged: it holds ids outside the vocabulary of {self.vocab_size}"
            raise ContractError(what, where=str(self.folder))
        lengths = [piece.length for piece in plan.read_order]
        pieces = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
        if plan.is_turned:  # which brings a document's separator to its front, where it begins it
            tokens, segments = other_strand(tokens, self.complement), pieces[:-1]
        else:  # a separator belongs to the document of its target
            segments = pieces[1:]
        ids = np.where(tokens[:-1] == self.separator_id, self.begin_id, tokens[:-1])
        return ids, tokens[1:], segments

    def verify(self) -> None:
        """Read every token again. Raises ContractError when they are not those that were written."""
        described = _read_description(self.folder)
        with open(self.folder / "tokens.bin", "rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != described["tokens_digest"]:
                raise ContractError("tokens.bin was changed after it was written", where=str(self.folder / "tokens.bin"))
        if hashlib.sha256(self.lengths.astype("<i8").tobytes()).hexdigest() != described["lengths_digest"]:
            raise ContractError("index.parquet was changed after it was written", where=str(self.folder / "index.parquet"))


def _read_description(folder: Path) -> dict[str, Any]:
    for name in ("tokens.json", "tokens.bin", "index.parquet", "tokenizer.json"):
        if not (folder / name).is_file():
            raise ContractError(f"`tokens/1` is violated: {name} is missing", where=str(folder))
    try:
        described = json.loads((folder / "tokens.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ContractError(f"`tokens/1` is violated: tokens.json is no JSON ({error})", where=str(folder)) from error
    known = described if isinstance(described, dict) else {}
    wrong = [key for key, kind in _FIELDS.items() if not isinstance(known.get(key), kind)]
    if wrong or known["dtype"] not in ("uint16", "uint32"):
        raise ContractError(f"`tokens/1` is violated: tokens.json lacks or misstates {wrong or ['dtype']}", where=str(folder))
    return described


def _check_size(path: Path, n_tokens: int, itemsize: int) -> None:
    size, promised = path.stat().st_size, n_tokens * itemsize
    if size != promised:
        difference = f"{abs(size - promised)} bytes too {'short' if size < promised else 'long'}"
        raise ContractError(
            f"tokens.bin is {difference}: {size} bytes where tokens.json promises {promised} ({n_tokens} tokens)",
            where=str(path),
            fix="Copy the folder again; in a project, `tilth check --repair`, and train again.",
        )


def _read_index(folder: Path, described: dict[str, Any]) -> pa.Table:
    path = folder / "index.parquet"
    try:
        index = pq.read_table(path, columns=["offset", "length"])
    except (pa.ArrowException, OSError) as error:
        raise ContractError(f"index.parquet cannot be read: {error}", where=str(path)) from error
    lengths, offsets = index.column("length").to_numpy(), index.column("offset").to_numpy()
    if index.num_rows != described["n_documents"] or int(lengths.sum()) != described["n_tokens"]:
        raise ContractError(
            f"index.parquet has {index.num_rows} documents of {int(lengths.sum())} tokens where tokens.json promises "
            f"{described['n_documents']} of {described['n_tokens']}",
            where=str(path),
        )
    if len(lengths) and (int(lengths.min()) < 1 or not np.array_equal(offsets, np.cumsum(lengths) - lengths)):
        raise ContractError("index.parquet: offsets and lengths do not tile tokens.bin", where=str(path))
    return index
