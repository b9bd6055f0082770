"""Subsets as token shards: each document for itself, or the files of a repository in the training form of their corpus."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from tilth.artifacts import Named, Part, Spec, Store
from tilth.artifacts.spec import library_versions
from tilth.errors import RecipeError
from tilth.pipeline.sources_of_texts import SourcesOfTexts
from tilth.pipeline.training_form import TRAINING_FORM, form_of
from tilth.tokenize.code_form import REPO_NAME

SPLITS = ("train", "validation")
TOKENS_VERSION = 1
_AT_ONCE = 256  # documents that are encoded together

Rows = Iterator[tuple[bytes, str, int, np.ndarray]]  # doc_id, shard, row, ids (n,)


def tokenise_subset(store: Store, subset: Named) -> Named:
    """Token shards of both splits of a subset, with the tokenizer of its corpus; made once, as `tokens/<subset>`."""
    from tilth.catalog.corpus_views import text_parts

    tokenizer_part, pick_part = _tokenizer_of(subset), subset.one("pick")
    parts = []
    for split in SPLITS:
        if not store.artifact(pick_part).stats.get(f"n_{split}", 1):
            continue
        texts = {f"{part.step} {part.shard}": part.digest for part in text_parts(subset)}
        inputs = {"pick": pick_part.digest, "tokenizer": tokenizer_part.digest, **texts}
        if subset.of(TRAINING_FORM.name) or _has_markers(store, subset):
            # A form reads paths as well, markers what was read, and both the texts as they were before their edits.
            own = (*subset.of("read"), *subset.of(TRAINING_FORM.name))
            inputs |= {f"{part.step} {part.shard or 'all'}": part.digest for part in own}
        spec = Spec(f"tokens.{split}", TOKENS_VERSION, {}, inputs, library_versions(("tokenizers",)))
        parts.append(store.make(spec, partial(_write, store, subset, split)).part())
    return store.save_named("tokens", subset.name, parts, {"subset": subset.name, "subset_digest": subset.digest})


def _write(store: Store, subset: Named, split: str, folder: Path) -> dict[str, Any]:
    from tilth.catalog.trace import subset_documents
    from tilth.tokenize.bpe import Tokenizer
    from tilth.tokenize.shards import write_tokens

    tokenizer = Tokenizer.open(store.artifact(_tokenizer_of(subset)).path)
    documents = (document for document in subset_documents(store, subset) if document.split == split)
    if not subset.of(TRAINING_FORM.name) and not _has_markers(store, subset):
        return write_tokens(folder, _each_for_itself(documents, tokenizer), tokenizer)
    return _write_formed(store, subset, documents, tokenizer, folder)


def _write_formed(store: Store, subset: Named, documents: Iterator[Any], tokenizer: Any, folder: Path) -> dict[str, Any]:
    from tilth.tokenize.shards import write_tokens
    from tilth.tokenize.token_spans import SpanWriter

    with SpanWriter(folder) as spans:

        def rows() -> Rows:
            at = 0
            for first, ids, own in _formed(store, subset, documents, tokenizer):
                spans.write(span.moved(at) for span in own)
                at += len(ids) + 1
                yield first.doc_id, first.shard, first.row, ids

        return write_tokens(folder, rows(), tokenizer)


def _formed(store: Store, subset: Named, documents: Iterator[Any], tokenizer: Any) -> Iterator[tuple[Any, np.ndarray, list[Any]]]:
    """Training documents with their spans: of each shard first what belongs to no repository, then its repositories."""
    from tilth.tokenize.repository_form import training_documents

    form = form_of(store, subset) if subset.of(TRAINING_FORM.name) else None
    sources, has_markers = SourcesOfTexts(store, subset), _has_markers(store, subset)
    for shard, group in groupby(documents, key=lambda document: document.shard):
        places = sources.repository_files(shard) if form else {}
        marked = sources.markers(shard) if has_markers else {}
        repositories: dict[str, list[Any]] = {}
        alone: list[Any] = []
        for document in group:
            if document.row in places:
                repositories.setdefault(places[document.row].origin, []).append(document)
                continue
            alone.append(document)
            if len(alone) == _AT_ONCE:
                yield from _alone(alone, marked, sources, tokenizer)
                alone = []
        yield from _alone(alone, marked, sources, tokenizer)
        if form is None:
            continue
        for origin, own in repositories.items():
            segments = sources.segments(shard, [document.row for document in own])
            for copy in range(max(document.n_copies for document in own)):
                files = [_file(one, places, segments) for one in own if one.n_copies > copy]
                yield from training_documents(origin, files, form, tokenizer, copy)


def _file(document: Any, places: Mapping[int, Any], segments: Mapping[int, Any]) -> Any:
    from tilth.tokenize.repository_form import RepositoryFile

    of, row = document, document.row
    return RepositoryFile(of.doc_id, of.shard, row, places[row].path, of.text, segments.get(row))


def _alone(
    documents: Sequence[Any], marked: Mapping[int, str], sources: SourcesOfTexts, tokenizer: Any
) -> Iterator[tuple[Any, np.ndarray, list[Any]]]:
    """Documents that are in no repository: their tokens are what they are without a form, but for the markers in them."""
    from tilth.tokenize.marked_document import encode_marked
    from tilth.tokenize.repository_form import document_spans
    from tilth.tokenize.thread_markers import read_places

    if not documents:
        return
    segments = sources.segments(documents[0].shard, [document.row for document in documents])
    encoded = iter(tokenizer.encode_batch([document.text for document in documents if document.row not in marked]))
    for document in documents:
        file = _file_alone(document, segments)
        if document.row in marked:
            ids, spans = encode_marked(file, read_places(marked[document.row]), tokenizer)
        else:
            ids = next(encoded)
            spans = document_spans(file, ids, tokenizer)
        for _ in range(document.n_copies):
            yield document, ids, spans


def _file_alone(document: Any, segments: Mapping[int, Any]) -> Any:
    from tilth.tokenize.repository_form import RepositoryFile

    return RepositoryFile(document.doc_id, document.shard, document.row, "", document.text, segments.get(document.row))


def _each_for_itself(documents: Iterator[Any], tokenizer: Any) -> Rows:
    waiting: list[Any] = []

    def flush() -> Rows:
        for document, ids in zip(waiting, tokenizer.encode_batch([document.text for document in waiting]), strict=True):
            for _ in range(document.n_copies):
                yield document.doc_id, document.shard, document.row, ids
        waiting.clear()

    for document in documents:
        waiting.append(document)
        if len(waiting) >= _AT_ONCE:
            yield from flush()
    yield from flush()


def _has_markers(store: Store, subset: Named) -> bool:
    """Whether the tokenizer has the markers of a source."""
    from tilth.tokenize.thread_markers import MARKERS

    special: Sequence[str] = store.artifact(_tokenizer_of(subset)).spec.params.get("special_tokens", ())
    return not MARKERS.isdisjoint(set(special) - {REPO_NAME})


def _tokenizer_of(subset: Named) -> Part:
    if not subset.of("tokenizer"):
        fix = "Give its recipe one, `tokenizer=Bpe(...)`, then build and pick again."
        raise RecipeError(f"corpus `{subset.meta['corpus']}` has no tokenizer", f"subset/{subset.name}", fix)
    return subset.one("tokenizer")
