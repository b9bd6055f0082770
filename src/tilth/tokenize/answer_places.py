"""Where in the documents of a token set the answers begin: behind a mark, which is text and no token."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from tilth.errors import RecipeError
from tilth.tokenize import byte_level
from tilth.tokenize.shards import TokenSet

NOWHERE = -1
_GROUP_TOKENS = 1 << 20  # that are looked at together


def answer_places(tokens: TokenSet, mark: str) -> np.ndarray:
    """For each document the first token (n_documents,) int64 that holds any byte behind the first `mark`; -1 without a mark.

    That may be a token which begins in the mark, where a tokenizer joins the last letter of the mark and the next; and it is
    the separator, where nothing follows. Raises RecipeError for tokens that are not bytes of text.
    """
    return _places(tokens.folder, tokens.digest, mark)


@lru_cache(maxsize=16)
def _places(folder: Path, digest: str, mark: str) -> np.ndarray:
    tokens = TokenSet.open(folder)
    table = list(byte_tokens(tokens))
    table[tokens.separator_id] = b"\0"  # which is in no document: so nothing is found across two of them
    lengths, pattern = np.array([len(token) for token in table], np.int64), re.compile(re.escape(mark.encode()))
    places = np.full(tokens.n_documents, NOWHERE, np.int64)
    for first, end in _groups(tokens.lengths):
        begin, stop = int(tokens.offsets[first]), int(tokens.offsets[end - 1] + tokens.lengths[end - 1])
        ids = np.asarray(tokens.tokens[begin:stop])
        byte_ends = np.cumsum(lengths[ids])
        document_ends = byte_ends[tokens.offsets[first:end] + tokens.lengths[first:end] - 1 - begin]
        text = b"".join(map(table.__getitem__, ids.tolist()))
        found = np.array([match.end() for match in pattern.finditer(text)], np.int64)
        documents = np.searchsorted(document_ends, found)  # a mark never ends where its document does: there is the separator
        known, own = np.unique(documents, return_index=True)
        in_group = np.searchsorted(byte_ends, found[own], side="right") + begin
        places[first + known] = in_group - tokens.offsets[first + known]
    places.flags.writeable = False
    return places


def byte_tokens(tokens: TokenSet) -> list[bytes]:
    """The bytes of each token. Raises RecipeError for a tokenizer that is not byte-level."""
    tokenizer = tokens.tokenizer()
    if not byte_level.is_byte_level(json.loads(tokenizer.data)):
        fix = "Use a byte-level tokenizer: `tokenizer=Bpe()`, or that of a Llama 3."
        raise RecipeError("where an answer begins cannot be told: the tokens are no bytes of text", str(tokens.folder), fix)
    return tokenizer.token_bytes


def _groups(lengths: np.ndarray) -> Iterator[tuple[int, int]]:
    """Runs of documents of about _GROUP_TOKENS, each as its first and the one behind its last."""
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        before = int(ends[first - 1]) if first else 0
        end = max(first + 1, int(np.searchsorted(ends, before + _GROUP_TOKENS, side="right")))
        yield first, end
        first = end
