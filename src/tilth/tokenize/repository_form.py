"""A repository in its training form: the ids of its training documents, and the span of each run of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from tilth.errors import ContractError
from tilth.tokenize.bpe import Tokenizer
from tilth.tokenize.code_form import FILE_SEP, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, REPO_NAME, SPECIAL_TOKENS, CodeForm
from tilth.tokenize.file_order import file_order
from tilth.tokenize.source_ranges import SYNTHETIC, Segments, source_ranges
from tilth.tokenize.token_spans import TokenSpan

WHOLE, _PREFIX, _MIDDLE, _SUFFIX = "whole", "prefix", "middle", "suffix"


class RepositoryFile(NamedTuple):
    """A document of a repository; `text` as it is trained on, `segments` where edits changed it."""

    doc_id: bytes
    shard: str
    row: int
    path: str
    text: str
    segments: Segments | None = None


class TrainingDocument(NamedTuple):
    """Ids (n,) without the separator that will end them, and the spans that tile them and the separator."""

    first: RepositoryFile
    ids: np.ndarray
    spans: list[TokenSpan]


class Piece(NamedTuple):
    """Something to write: a special token, words of the form (a name, a path), or a part of a file's text."""

    text: str  # a special token's name
    is_special: bool = False
    file: RepositoryFile | None = None
    part: str | None = None
    start: int = 0  # UTF-8 bytes of the file's text


def training_documents(
    origin: str, files: Sequence[RepositoryFile], form: CodeForm, tokenizer: Tokenizer, copy: int = 0
) -> Iterator[TrainingDocument]:
    """The training documents of the repository `origin`, usually one; `copy` counts its repetitions in an epoch.

    What comes out depends on form, tokenizer, origin, copy and files, whatever their order, and on nothing else.
    Raises ContractError for a tokenizer without the form's special tokens.
    """
    missing = [token for token in SPECIAL_TOKENS if token not in tokenizer.special_ids]
    if missing:
        raise ContractError(f"the tokenizer lacks {missing[0]}", fix="Train it for a corpus with a training form.")
    files = sorted(files, key=lambda file: (file.path, file.shard, file.row))
    order = file_order([file.path for file in files], [file.text for file in files], form, origin, copy)
    for group in _groups([files[place] for place in order], form.max_bytes):
        ids, spans = encode_pieces(list(_pieces(origin, group, form, copy)), tokenizer)
        spans.append(TokenSpan(len(ids), len(ids) + 1, SYNTHETIC))
        yield TrainingDocument(group[0], ids, spans)


def document_spans(document: RepositoryFile, ids: np.ndarray, tokenizer: Tokenizer) -> list[TokenSpan]:
    """The spans of a document that stands alone, its separator included; `ids` (n,) are those of its text."""
    end = TokenSpan(len(ids), len(ids) + 1, SYNTHETIC, None, document.doc_id, document.shard, document.row)
    return [*_spans(Piece(document.text, file=document, part=WHOLE), ids, tokenizer), end]


def repository_name(origin: str) -> str:
    """What a repository is called: `owner/name` of a URL, without its host; else the origin."""
    return re.sub(r"^\w[\w+.-]*://[^/]*/|^[^/:]+:(?=[^/])", "", origin).strip("/").removesuffix(".git")


def fill_in_pieces(text: str, file_id: Sequence[str | bytes | int], form: CodeForm) -> tuple[int, int]:
    """Where a text is cut into prefix, middle and suffix: two characters' places, any two alike likely; parts may be empty."""
    places = [int(form.chance("cut", *file_id, which) * (len(text) + 1)) for which in (0, 1)]
    return min(places), max(places)


def _groups(files: Sequence[RepositoryFile], max_bytes: int) -> Iterator[list[RepositoryFile]]:
    group: list[RepositoryFile] = []
    n_bytes = 0
    for file in files:
        size = len(file.text.encode())
        if group and n_bytes + size > max_bytes:
            yield group
            group, n_bytes = [], 0
        group.append(file)
        n_bytes += size
    if group:
        yield group


def _pieces(origin: str, files: Sequence[RepositoryFile], form: CodeForm, copy: int) -> Iterator[Piece]:
    is_named = form.chance("names", origin, copy) < form.names
    is_filled_in = form.chance("fim repository", origin, copy) < form.fim_repositories
    if is_named:
        yield from (Piece(REPO_NAME, is_special=True), Piece(repository_name(origin)))
    for file in files:
        yield Piece(FILE_SEP, is_special=True, file=file)
        if is_named:
            yield Piece(file.path + "\n", file=file)
        file_id = (file.doc_id, file.shard, file.row, copy)
        if is_filled_in and form.chance("fim file", *file_id) < form.fim_files:
            yield from _filled_in(file, file_id, form)
        else:
            yield Piece(file.text, file=file, part=WHOLE)


def _filled_in(file: RepositoryFile, file_id: Sequence[str | bytes | int], form: CodeForm) -> Iterator[Piece]:
    first, second = fill_in_pieces(file.text, file_id, form)
    prefix, middle = file.text[:first], file.text[first:second]
    at = len(prefix.encode())
    pieces = {
        _PREFIX: Piece(prefix, file=file, part=_PREFIX),
        _MIDDLE: Piece(middle, file=file, part=_MIDDLE, start=at),
        _SUFFIX: Piece(file.text[second:], file=file, part=_SUFFIX, start=at + len(middle.encode())),
    }
    is_suffix_first = form.chance("spm", *file_id) < form.spm
    psm = (FIM_PREFIX, _PREFIX, FIM_SUFFIX, _SUFFIX, FIM_MIDDLE, _MIDDLE)
    spm = (FIM_PREFIX, FIM_SUFFIX, _SUFFIX, FIM_MIDDLE, _PREFIX, _MIDDLE)
    for name in spm if is_suffix_first else psm:
        yield pieces[name] if name in pieces else Piece(name, is_special=True, file=file)


def encode_pieces(pieces: Sequence[Piece], tokenizer: Tokenizer) -> tuple[np.ndarray, list[TokenSpan]]:
    """The ids (n,) of pieces, each encoded by itself, and the spans that tile them. Raises ContractError: not byte-level."""
    texts = iter(tokenizer.encode_batch([piece.text for piece in pieces if not piece.is_special]))
    parts: list[np.ndarray] = []
    spans: list[TokenSpan] = []
    at = 0
    for piece in pieces:
        ids = np.array([tokenizer.special_ids[piece.text]], tokenizer.dtype) if piece.is_special else next(texts)
        if not piece.is_special and int(tokenizer.byte_lengths[ids].sum()) != len(piece.text.encode()):
            what = "the tokenizer's tokens are not the bytes of its text"
            raise ContractError(what, where=piece.text[:40], fix="Use a byte-level one.")
        parts.append(ids)
        for span in _spans(piece, ids, tokenizer):
            if (
                spans
                and span.kind == spans[-1].kind == SYNTHETIC
                and span.doc_id == spans[-1].doc_id
                and span.row == spans[-1].row
            ):
                spans[-1] = spans[-1]._replace(token_end=at + span.token_end)
            else:
                spans.append(span.moved(at))
        at += len(ids)
    return np.concatenate(parts), spans


def _spans(piece: Piece, ids: np.ndarray, tokenizer: Tokenizer) -> Iterator[TokenSpan]:
    """The spans of one piece; tokens count from its beginning."""
    file = piece.file
    place = (file.doc_id, file.shard, file.row) if file else (None, None, None)
    if piece.part is None or file is None:
        if len(ids):
            yield TokenSpan(0, len(ids), SYNTHETIC, None, *place)
        return
    n_bytes = tokenizer.byte_lengths[ids]
    for of in source_ranges(piece.start, n_bytes, file.segments):
        own = TokenSpan(of.first, of.stop, of.kind, piece.part, file.doc_id, file.shard, file.row)
        yield own._replace(start=of.start, end=of.end, source_start=of.source_start, source_end=of.source_end)
