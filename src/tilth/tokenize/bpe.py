"""Tokenizers by their tokenizer.json, and byte-level BPE: trained to the same bytes from the same texts, lossless on any text,
safe on huge or hostile input."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import tokenizers

from tilth.errors import ContractError, RecipeError, SubsetError
from tilth.tokenize import nucleotides
from tilth.tokenize.byte_level import bytes_of
from tilth.tokenize.text_ends import begin_beside, default_separator, separator_beside

SEPARATOR = "<|endoftext|>"
MIN_VOCAB_SIZE = 257  # the separator and the 256 bytes

# The library needs about 290 bytes a token while it encodes, and more than linear time for one long run.
MAX_CHUNK_CHARS = 65_536
MAX_BATCH_CHARS = 1_000_000
MAX_TRAINING_RUN_CHARS = 256
# GPT-2's splitting pattern never joins a non-space to a space after it, so a cut there changes no token; nor does Llama 3's,
# but that joins marks to a line feed after them, where only a text without spaces is cut.
_SAFE_CUTS = (re.compile(r"(?<=\S) "), re.compile(r"(?<=\S)\n"))
_LONG_RUN = re.compile(rf"\S{{{MAX_TRAINING_RUN_CHARS}}}|\s{{{MAX_TRAINING_RUN_CHARS}}}")


class Tokenizer:
    """A trained tokenizer. Text never turns into a special token: `write_tokens` places the separator, a training form others.

    Without `separator` it is `<|endoftext|>`, the end of text of a published model, or [SEP] where nucleotides are the tokens.
    `begin_id` is what a model reads before a text: the separator, unless a model's files name a token for that alone.
    Raises ContractError when `data` is no tokenizer.json, or one of the two is no special token of it.
    """

    def __init__(self, data: bytes, separator: str | None = None, begin_id: int | None = None) -> None:
        try:
            self._library = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
        except Exception as error:  # the library raises bare Exception
            raise ContractError(f"this is not a tokenizer.json: {error}", fix="Train one with `train_bpe`.") from error
        vocabulary = self._library.get_vocab(with_added_tokens=True)
        self.vocab_size = max(vocabulary.values()) + 1
        self._nucleotides = nucleotides.NucleotideTable.of(data, vocabulary, self.dtype)
        ends = nucleotides.SEPARATOR if self._nucleotides else default_separator(self.special_ids)
        separator = separator or ends or SEPARATOR
        separator_id = self._library.token_to_id(separator)
        if separator_id is None:
            raise ContractError(
                f"the tokenizer has no separator token `{separator}`", fix="Name its end-of-text token as `separator`."
            )
        if begin_id is not None and begin_id not in self.special_ids.values():
            fix = "Copy the model's files again."
            raise ContractError(f"the tokenizer has no special token {begin_id}, which is to begin texts", fix=fix)
        # Without this the literal text `<|endoftext|>` in a document would end that document.
        self._library.encode_special_tokens = True
        # What a published tokenizer was saved with for its own training: it would cut texts off, or fill them up.
        self._library.no_truncation()
        self._library.no_padding()
        self.data, self.separator, self.separator_id = data, separator, int(separator_id)
        self.begin_id = self.separator_id if begin_id is None else begin_id
        self.digest = hashlib.sha256(data).hexdigest()

    @classmethod
    def open(cls, path: Path, separator: str | None = None) -> Tokenizer:
        """Read a tokenizer.json, or the one inside a folder; what lies beside it may name what ends and begins a text."""
        path = Path(path)
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            raise ContractError("there is no tokenizer.json", where=str(file))
        return cls(file.read_bytes(), separator or separator_beside(file), begin_beside(file))

    def __reduce__(self) -> tuple[type[Tokenizer], tuple[bytes, str, int]]:
        return Tokenizer, (self.data, self.separator, self.begin_id)

    @property
    def dtype(self) -> np.dtype[np.uint16] | np.dtype[np.uint32]:
        """How ids are stored: little-endian uint16 while the vocabulary is at most 65,536, else uint32."""
        return np.dtype("<u2") if self.vocab_size <= 65_536 else np.dtype("<u4")

    def encode(self, text: str) -> np.ndarray:
        """The ids (n_tokens,) of one text, without a separator."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The ids (n_tokens,) of each text, without separators; memory is bounded by the ids themselves."""
        if self._nucleotides is None:
            return self._encode_by_library(texts)
        found = self._nucleotides.encode(texts)
        return [self._encode_by_library([text])[0] if ids is None else ids for text, ids in zip(texts, found, strict=True)]

    def _encode_by_library(self, texts: Sequence[str]) -> list[np.ndarray]:
        parts: list[list[np.ndarray]] = [[] for _ in texts]
        for group in _groups(texts):
            encodings = self._library.encode_batch_fast([chunk for _, chunk in group], add_special_tokens=False)
            for (owner, _), encoding in zip(group, encodings, strict=True):
                parts[owner].append(np.array(encoding.ids, dtype=self.dtype))
        return [_joined(arrays, self.dtype) for arrays in parts]

    @cached_property
    def special_ids(self) -> dict[str, int]:
        """The id of each special token, the separator among them."""
        added = self._library.get_added_tokens_decoder()
        return {str(token.content): int(number) for number, token in added.items() if token.special}

    @cached_property
    def byte_lengths(self) -> np.ndarray:
        """How many bytes of text each token stands for, (vocab_size,) int64; 0 for special tokens.

        For byte-level tokenizers, and for nucleotides of ASCII text, of which an unknown letter is one byte, too.
        """
        if self._nucleotides is not None:
            return self._nucleotides.lengths
        return np.array([len(token) for token in self.token_bytes], np.int64)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of text that each token stands for, by id; none for special tokens. For byte-level tokenizers."""
        found = [b""] * self.vocab_size
        for token, number in self._library.get_vocab(with_added_tokens=False).items():
            found[number] = bytes_of(token)
        for number, added in self._library.get_added_tokens_decoder().items():
            found[int(number)] = b"" if added.special else str(added.content).encode()
        return found

    def difference(self, other: Tokenizer) -> str | None:
        """How a model that learnt texts by this one would misread those of `other`, in words; None where it would not."""
        if self.digest != other.digest:
            return "their tokenizer.json differ, so the same id would mean another token"
        if self.separator_id != other.separator_id:
            return f"its texts end with `{self.separator}`, these with `{other.separator}`"
        if self.begin_id != other.begin_id:
            names = {number: name for name, number in self.special_ids.items()}
            return f"its texts begin with `{names[self.begin_id]}`, these with `{names[other.begin_id]}`"
        return None

    @property
    def complement(self) -> tuple[int, ...] | None:
        """The id that pairs with each id on the other strand, (vocab_size,); None where the tokens are no nucleotides."""
        return self._nucleotides.complement if self._nucleotides else None

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`; the separator is shown as its name. For BPE `decode(encode(text)) == text` for every text."""
        return self._library.decode([int(i) for i in ids], skip_special_tokens=False)


def train_bpe(
    texts: Iterable[str], vocab_size: int, max_bytes: int | None = None, special_tokens: Sequence[str] = ()
) -> bytes:  # fmt: skip
    """Train a byte-level BPE and return its tokenizer.json; the same texts in the same order give the same bytes.

    The separator is id 0, then the 256 bytes, then merges, then `special_tokens`, so that these move no other id; a small
    corpus may yield fewer than `vocab_size` tokens.
    Only the first `max_bytes` (UTF-8) of the texts are read. Raises RecipeError for a vocabulary that cannot
    hold every byte and SubsetError when there is no text.
    Source: Sennrich et al. 2016 (BPE); Radford et al. 2019 (byte level, splitting pattern).
    """
    least = MIN_VOCAB_SIZE + len(special_tokens)
    if vocab_size < least:
        raise RecipeError(f"a vocabulary of {vocab_size} cannot hold all bytes", where="vocab_size", fix=f"Use {least} or more.")
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size - len(special_tokens),
        special_tokens=[SEPARATOR],
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    counted = _Counted(texts, max_bytes)
    library.train_from_iterator(counted.pieces(), trainer)
    if counted.n_bytes == 0:
        raise SubsetError("there is no text to train a tokenizer on", fix="Choose a subset that holds text.")
    library.add_special_tokens(list(special_tokens))
    return library.to_str().encode("utf-8")


def count_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> np.ndarray:
    """Tokens that each text takes in token shards, (n_texts,) int64: its own and the separator."""
    counts: list[int] = []
    for group in _text_groups(texts):
        counts.extend(len(ids) + 1 for ids in tokenizer.encode_batch(group))
    return np.array(counts, dtype=np.int64)


def split_text(text: str, max_chars: int = MAX_CHUNK_CHARS) -> Iterator[str]:
    """Cut a text into chunks of at most `max_chars` that join to it, where no token changes if there is such a place."""
    start = 0
    while len(text) - start > max_chars:
        cut = _last_safe_cut(text, start + 1, start + max_chars)
        yield text[start:cut]
        start = cut
    yield text[start:]


def _last_safe_cut(text: str, low: int, high: int) -> int:
    for begin in (max(low, high - 2_048), low):
        for cut in _SAFE_CUTS:
            cuts = [match.start() for match in cut.finditer(text, begin, high)]
            if cuts:
                return cuts[-1]
    return high


def _groups(texts: Sequence[str]) -> Iterator[list[tuple[int, str]]]:
    """Yield (text index, chunk) lists of bounded size."""
    group: list[tuple[int, str]] = []
    n_chars = 0
    for owner, text in enumerate(texts):
        for chunk in split_text(text):
            group.append((owner, chunk))
            n_chars += len(chunk)
            if n_chars >= MAX_BATCH_CHARS:
                yield group
                group, n_chars = [], 0
    if group:
        yield group


def _text_groups(texts: Iterable[str]) -> Iterator[list[str]]:
    group: list[str] = []
    n_chars = 0
    for text in texts:
        group.append(text)
        n_chars += len(text)
        if n_chars >= MAX_BATCH_CHARS or len(group) >= 10_000:
            yield group
            group, n_chars = [], 0
    if group:
        yield group


def _joined(arrays: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate(arrays) if arrays else np.empty(0, dtype)


class _Counted:
    """The texts to train on, cut to `max_bytes` and into pieces that the trainer digests, with a count of bytes."""

    def __init__(self, texts: Iterable[str], max_bytes: int | None) -> None:
        self.texts, self.max_bytes, self.n_bytes = texts, max_bytes, 0

    def pieces(self) -> Iterator[str]:
        for text in self.texts:
            data = text.encode("utf-8")
            if self.max_bytes is not None and self.n_bytes + len(data) > self.max_bytes:
                # A cut may fall inside a character: its torn bytes are left out.
                text = data[: self.max_bytes - self.n_bytes].decode("utf-8", errors="ignore")
                self.n_bytes = self.max_bytes
                yield from _training_pieces(text)
                return
            self.n_bytes += len(data)
            yield from _training_pieces(text)


def _training_pieces(text: str) -> Iterator[str]:
    """Every merge visits the whole of each distinct run that it occurs in: a long run without spaces must be cut."""
    for chunk in split_text(text):
        start = 0
        for match in _LONG_RUN.finditer(chunk):
            yield chunk[start : match.end()]
            start = match.end()
        yield chunk[start:]
