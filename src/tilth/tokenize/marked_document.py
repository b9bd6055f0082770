"""A document with markers as token ids: each marker one token where its source has set it, everything else letters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tilth.errors import ContractError
from tilth.tokenize.bpe import Tokenizer
from tilth.tokenize.repository_form import WHOLE, Piece, RepositoryFile, encode_pieces
from tilth.tokenize.source_ranges import SYNTHETIC, Segments
from tilth.tokenize.thread_markers import MARKERS
from tilth.tokenize.token_spans import TokenSpan

MAX_MARKER_BYTES = 64


def encode_marked(
    document: RepositoryFile, places: Sequence[int], tokenizer: Tokenizer
) -> tuple[np.ndarray, list[TokenSpan]]:  # fmt: skip
    """Ids (n,) without the separator that will end them, and the spans that tile them and the separator.

    `places` are where markers begin in the text as it was read (UTF-8 bytes, ascending). A marker that an edit has cut or
    changed is none any more. Raises ContractError where a place of a text that was not edited holds no marker.
    """
    pieces = list(_pieces(document, places, tokenizer))
    ids, spans = encode_pieces(pieces, tokenizer)
    end = TokenSpan(len(ids), len(ids) + 1, SYNTHETIC, None, document.doc_id, document.shard, document.row)
    return ids, [*spans, end]


def _pieces(document: RepositoryFile, places: Sequence[int], tokenizer: Tokenizer) -> Iterator[Piece]:
    data = document.text.encode()
    done = 0
    for place in places:
        at, end = (place, len(data)) if document.segments is None else _kept_range(document.segments, place)
        close = data.find(b">", at, min(end, at + MAX_MARKER_BYTES)) + 1
        name = data[at:close].decode("utf-8", "replace")
        if name not in MARKERS or name not in tokenizer.special_ids or at < done:
            if document.segments is not None:
                continue
            what = f"there is no marker at byte {place} of {document.shard} row {document.row}"
            raise ContractError(what, where=data[place : place + 40].decode("utf-8", "replace"))
        if at > done:
            yield Piece(data[done:at].decode(), file=document, part=WHOLE, start=done)
        yield Piece(name, is_special=True, file=document)
        done = close
    if done < len(data) or not data:
        yield Piece(data[done:].decode(), file=document, part=WHOLE, start=done)


def _kept_range(segments: Segments, place: int) -> tuple[int, int]:
    """Where a byte of the text as it was read is in the edited text, and where what was kept with it ends; (0, 0): gone."""
    i = int(np.searchsorted(segments.source_ends, place, side="right"))
    if i == len(segments.ends) or not segments.is_kept[i] or segments.source_starts[i] > place:
        return 0, 0
    return int(segments.starts[i]) + place - int(segments.source_starts[i]), int(segments.ends[i])
