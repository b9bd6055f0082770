"""CCNet's perplexity: how surprised a language model, trained here on texts of your choice, is by a document.

Normal form, SentencePiece's unigram pieces (Kudo, arXiv:1804.10959), a 5-gram model with Kneser-Ney smoothing, and
10^(-log10 P / (pieces + 1)) of the whole document as one sentence, rounded to one decimal (Wenzek et al.,
arXiv:1911.00359). Scores equal those of kenlm on the same ARPA file, which `write_arpa` writes.
"""

from __future__ import annotations

import hashlib
import io
import re
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tilth.errors import RecipeError, SourceError
from tilth.quality_signals.models.ccnet_text import normalize_for_model
from tilth.quality_signals.models.container import Container
from tilth.quality_signals.models.kneser_ney import KneserNeyParameters, train_kneser_ney
from tilth.quality_signals.models.ngram_model import NgramModel

_CONTAINER = Container("a language model", "train_language_model")
N_DECIMALS = 1  # as published
_SECTIONS = {"keys": "<u8", "log10_probs": "<f4", "backoffs": "<f4"}
_CHARS_AT_ONCE = 1 << 20
_WIDE_SPACE = re.compile(r"[^\S\x00-\x7f]|[\x1c-\x1f]")
_SENTENCE_BYTES = 4000  # SentencePiece leaves out longer lines when it trains


@dataclass(frozen=True)
class LanguageModelParameters:
    """`n_pieces` is the size of SentencePiece's vocabulary (fewer if the texts do not give as many; 0: plain words).

    Pieces are learned from `max_piece_bytes` of the texts, chosen by hash.
    """

    n_pieces: int = 65_536
    character_coverage: float = 0.9995
    max_piece_bytes: int = 32 << 20
    ngrams: KneserNeyParameters = field(default_factory=KneserNeyParameters)


def train_language_model(texts: Iterable[str], parameters: LanguageModelParameters | None = None) -> bytes:
    """Train on texts like those that should score well; the bytes are the model with its manifest.

    Normal forms are kept in a scratch file; in memory are a digest of each text, the texts that pieces are learned from,
    and the model. The order of texts does not matter. Raises RecipeError if no text has words.
    """
    parameters = parameters or LanguageModelParameters()
    with tempfile.TemporaryDirectory(prefix="tilth-language-model-") as folder:
        spool = _Spool(Path(folder, "texts"), texts)
        if not spool.sizes:
            raise RecipeError("no text to train a language model on", fix="give texts that are not empty")
        pieces = _train_pieces(spool.sample(parameters.max_piece_bytes), parameters) if parameters.n_pieces else b""
        tokenizer = _load_pieces(pieces)
        sentences = (_split_words(text)[0] if tokenizer is None else _pieces(tokenizer, text) for text in spool.texts())
        trained = train_kneser_ney(sentences, parameters.ngrams)
        manifest = {
            "parameters": asdict(parameters),
            "data_sha256": hashlib.sha256(b"".join(sorted(spool.digests))).hexdigest(),
            "n_texts": trained.n_sentences,
            "n_tokens": trained.n_tokens,
            "n_ngrams": trained.model.n_ngrams,
            "discounts": trained.discounts,
            "discounts_estimated": trained.is_estimated,
        }
    return pack_language_model(trained.model, pieces, manifest)


def pack_language_model(ngrams: NgramModel, pieces: bytes = b"", manifest: dict[str, Any] | None = None) -> bytes:
    """The bytes of a model, such as one that `read_arpa` read; `pieces` is a SentencePiece model file (none: plain words)."""
    parts = {"pieces": memoryview(pieces), "words": memoryview("\n".join(ngrams.words).encode())}
    for name, kind in _SECTIONS.items():
        parts[name] = np.ascontiguousarray(getattr(ngrams, name), kind).view(np.uint8).data
    sizes = {name: part.nbytes for name, part in parts.items()}
    header = {"manifest": manifest or {}, "n_ngrams": ngrams.n_ngrams, "sizes": sizes}
    return _CONTAINER.pack(header, *parts.values())


def language_model_manifest(model: bytes) -> dict[str, Any]:
    """What a model was trained on and how."""
    return _CONTAINER.split(model)[0]["manifest"]


@lru_cache(maxsize=8)
def load_language_model(model: bytes) -> LanguageModel:
    """The model in these bytes; loaded once for each. Raises SourceError if the bytes are something else."""
    header, payload = _CONTAINER.split(model)
    if len(payload) != sum(header["sizes"].values()):
        raise SourceError("the language model is cut short", fix="train it again")
    parts, start = {}, 0
    for name in ("pieces", "words", *_SECTIONS):
        parts[name] = payload[start : start + header["sizes"][name]]
        start += header["sizes"][name]
    arrays: dict[str, Any] = {name: np.frombuffer(parts[name], kind) for name, kind in _SECTIONS.items()}
    words = bytes(parts["words"]).decode().split("\n")
    return LanguageModel(NgramModel(words, header["n_ngrams"], **arrays), bytes(parts["pieces"]))


def perplexities(model: bytes, texts: Iterable[str]) -> pa.Table:
    """Score texts: `perplexity` (float64), `log10_probability` (float64), `n_tokens` (int64), `undefined`; row-aligned.

    Without words the numbers are null and `undefined` says so.
    """
    return load_language_model(model).perplexities(texts)


class LanguageModel:
    """An n-gram model and what cuts texts into its words."""

    def __init__(self, ngrams: NgramModel, pieces: bytes = b"") -> None:
        self.ngrams = ngrams
        self._tokenizer = _load_pieces(pieces)
        if self._tokenizer is not None:
            names = [self._tokenizer.id_to_piece(i) for i in range(self._tokenizer.get_piece_size())]
            self._piece_ids = np.array(ngrams.word_ids(names), np.int64)
            # Pieces that kenlm or Python would split, and unknown ones, which can be words of the model all the same.
            self._is_odd = np.array([name.split() != [name] for name in names])
            self._is_odd[self._tokenizer.unk_id()] = True
            # Other characters are likely to be unknown, so their texts are cut into strings at once.
            self._known_chars = frozenset(" ").union(*names)

    def perplexities(self, texts: Iterable[str]) -> pa.Table:
        """See the function of this name."""
        tables = [self._portion(portion) for portion in _portions(map(normalize_for_model, texts))]
        return pa.concat_tables([_TABLE.empty_table(), *tables]).combine_chunks()

    def _portion(self, texts: list[str]) -> pa.Table:
        ids, lengths = self._tokens(texts)
        offsets = np.concatenate(([0], np.cumsum([len(found) for found in ids])))
        scores = self.ngrams.scores(np.concatenate([np.zeros(0, np.int64), *ids]), offsets).astype(float).tolist()
        rows = [
            (round(10.0 ** (-score / (length + 1)), N_DECIMALS), score, length, None) if text else (None, None, None, "no words")
            for text, score, length in zip(texts, scores, lengths)
        ]
        columns = zip(*rows) if rows else [()] * len(_TABLE)
        return pa.Table.from_arrays([pa.array(column, f.type) for column, f in zip(columns, _TABLE)], schema=_TABLE)

    def _tokens(self, texts: list[str]) -> tuple[list[npt.NDArray[np.int64]], list[int]]:
        """Ids of the model's words in each text, and the number of words as CCNet counts them."""
        ids, lengths = [], []
        for text in texts:
            if self._tokenizer is not None and self._known_chars.issuperset(text):
                pieces = np.array(self._tokenizer.encode(text, out_type=int), np.int64)
                if not self._is_odd[pieces].any():
                    ids.append(self._piece_ids[pieces])
                    lengths.append(len(pieces))
                    continue
            line = text if self._tokenizer is None else " ".join(self._tokenizer.encode(text, out_type=str))
            words, n_words = _split_words(line)
            ids.append(np.array(self.ngrams.word_ids(words), np.int64))
            lengths.append(n_words)
        return ids, lengths


_TABLE = pa.schema(
    [
        pa.field("perplexity", pa.float64()),
        pa.field("log10_probability", pa.float64()),
        pa.field("n_tokens", pa.int64()),
        pa.field("undefined", pa.string()),
    ]
)


class _Spool:
    """Normal forms of texts in a file, with a digest and the place of each; empty ones are left out."""

    def __init__(self, path: Path, texts: Iterable[str]) -> None:
        self.path = path
        self.digests: list[bytes] = []
        self.sizes: list[int] = []
        with path.open("wb") as file:
            for text in texts:
                if data := normalize_for_model(text).encode():
                    file.write(data)
                    self.sizes.append(len(data))
                    self.digests.append(hashlib.sha256(data).digest())

    def texts(self) -> Iterator[str]:
        """The texts as they came."""
        with self.path.open("rb") as file:
            for size in self.sizes:
                yield file.read(size).decode()

    def sample(self, max_bytes: int) -> list[str]:
        """Texts in the order of their digests, until `max_bytes` are reached; at least one."""
        starts = np.cumsum([0, *self.sizes])
        found: list[str] = []
        size = 0
        with self.path.open("rb") as file:
            for place in sorted(range(len(self.sizes)), key=self.digests.__getitem__):
                size += self.sizes[place]
                if found and size > max_bytes:
                    break
                file.seek(int(starts[place]))
                found.append(file.read(self.sizes[place]).decode())
        return found


def _train_pieces(texts: list[str], parameters: LanguageModelParameters) -> bytes:
    import sentencepiece

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_sentences(texts), model_writer=model, model_type="unigram", num_threads=1, minloglevel=2,
            vocab_size=parameters.n_pieces, hard_vocab_limit=False, character_coverage=parameters.character_coverage,
        )  # fmt: skip
    except RuntimeError as error:
        fix = "train on more text, or set `n_pieces=0` for plain words"
        raise RecipeError("SentencePiece cannot learn pieces from these texts", where=str(error)[:200], fix=fix) from error
    return model.getvalue()


def _sentences(texts: list[str]) -> Iterator[str]:
    """Texts cut at spaces into lines that SentencePiece takes."""
    for text in texts:
        line: list[str] = []
        size = 0
        for word in text.split(" "):
            size += len(word.encode()) + 1
            if line and size > _SENTENCE_BYTES:
                yield " ".join(line)
                line, size = [], len(word.encode()) + 1
            line.append(word)
        yield " ".join(line)


def _load_pieces(pieces: bytes) -> Any:
    if not pieces:
        return None
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_proto=pieces)
    except RuntimeError as error:
        raise SourceError("this is not a SentencePiece model", where=str(error)[:200]) from error


def _pieces(tokenizer: Any, text: str) -> list[str]:
    return _split_words(" ".join(tokenizer.encode(text, out_type=str)))[0]


def _split_words(line: str) -> tuple[list[str], int]:
    """Words as kenlm splits them, at ASCII white space only, and their number as CCNet counts them, by Python's split."""
    words = line.split()
    if _WIDE_SPACE.search(line):
        return [word.decode() for word in line.encode().split()], len(words)
    return words, len(words)


def _portions(texts: Iterable[str]) -> Iterator[list[str]]:
    portion: list[str] = []
    n_chars = 0
    for text in texts:
        portion.append(text)
        n_chars += len(text) + 1
        if n_chars >= _CHARS_AT_ONCE:
            yield portion
            portion, n_chars = [], 0
    yield portion
