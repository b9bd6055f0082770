"""Single nucleotides as tokens, with the vocabulary of HyenaDNA and Caduceus, so that their published weights fit.

Capital and small letters are one token (soft-masking is a signal, not an input); what is not A, C, G, T or N, such as
U, the other IUPAC codes and gaps, is [UNK], as in Caduceus's own tokenizer. A token is one byte of ASCII text.
Source: kuleshov-group/caduceus, `tokenization_caduceus.py`; Nguyen et al. 2023 (HyenaDNA, arXiv:2306.15794).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SPECIAL_TOKENS = ("[CLS]", "[SEP]", "[BOS]", "[MASK]", "[PAD]", "[RESERVED]", "[UNK]")  # ids 0 to 6
LETTERS = ("A", "C", "G", "T", "N")  # ids 7 to 11
SEPARATOR = "[SEP]"  # what Caduceus and HyenaDNA put after a sequence
UNKNOWN = "[UNK]"
PAIRS = (("A", "T"), ("C", "G"))
_CHARACTERS: dict[str, Any] = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
_CAPITALS = [{"type": "Replace", "pattern": {"String": letter.lower()}, "content": letter} for letter in LETTERS]


@dataclass(frozen=True)
class Nucleotides:
    """The tokenizer of a DNA corpus: `Corpus(..., tokenizer=Nucleotides())`. A token is a nucleotide; nothing is trained."""


def nucleotide_tokenizer() -> bytes:
    """The tokenizer.json of single nucleotides; Hugging Face's `tokenizers` loads it."""
    import tokenizers

    vocabulary = {token: number for number, token in enumerate((*SPECIAL_TOKENS, *LETTERS))}
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token=UNKNOWN))
    folds = [tokenizers.normalizers.Replace(letter.lower(), letter) for letter in LETTERS]  # there is no upper-casing one
    library.normalizer = tokenizers.normalizers.Sequence(folds)
    library.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(_CHARACTERS["pattern"]["Regex"]), "isolated")
    library.decoder = tokenizers.decoders.Fuse()
    library.add_special_tokens(list(SPECIAL_TOKENS))
    return bytes(library.to_str().encode("utf-8"))


class NucleotideTable:
    """What each byte of ASCII text becomes: the same ids as the library's, by one look-up a byte."""

    def __init__(self, vocabulary: Mapping[str, int], dtype: np.dtype) -> None:
        ids = np.full(256, vocabulary[UNKNOWN], np.uint8)
        for letter in LETTERS:
            ids[[ord(letter), ord(letter.lower())]] = vocabulary[letter]
        self._ids, self._dtype = ids.tobytes(), dtype
        self.lengths = np.zeros(max(vocabulary.values()) + 1, np.int64)
        self.lengths[ids] = 1
        self.complement = complement_of(vocabulary)

    @classmethod
    def of(cls, data: bytes, vocabulary: Mapping[str, int], dtype: np.dtype) -> NucleotideTable | None:
        """The table of a tokenizer.json that takes text letter by letter without regard to case; None for any other."""
        described: dict[str, Any] = json.loads(data)
        model, steps, folding = (described.get(part) or {} for part in ("model", "pre_tokenizer", "normalizer"))
        is_by_letter = model.get("type") == "WordLevel" and steps == _CHARACTERS and folding.get("normalizers") == _CAPITALS
        letters = {token for token in vocabulary if len(token) == 1}
        has_ours = letters == {*LETTERS} and UNKNOWN in vocabulary and max(vocabulary.values()) < 256
        return cls(vocabulary, dtype) if is_by_letter and has_ours else None

    def encode(self, texts: Sequence[str]) -> list[np.ndarray | None]:
        """The ids (n_chars,) of each text; None for a text that is not ASCII, whose characters are not its bytes."""
        return [self._ids_of(text) if text.isascii() else None for text in texts]

    def _ids_of(self, text: str) -> np.ndarray:
        return np.frombuffer(text.encode("ascii").translate(self._ids), np.uint8).astype(self._dtype)


def complement_of(vocabulary: Mapping[str, int]) -> tuple[int, ...]:
    """The id of each id on the other strand, (vocab_size,): A pairs with T and C with G, all others with themselves."""
    pairs = list(range(max(vocabulary.values()) + 1))
    for one, other in PAIRS:
        pairs[vocabulary[one]], pairs[vocabulary[other]] = vocabulary[other], vocabulary[one]
    return tuple(pairs)
