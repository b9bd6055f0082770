"""RedPajama-V2's signals of listed words: the share of stop words, and how many entries of a list of bad words occur.

Definitions: arXiv:2411.12372 and the code published with it. Both take the list of the document's language.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tilth.quality_signals.fused.code_points import code_points
from tilth.quality_signals.fused.columns import shares, whole_numbers
from tilth.quality_signals.fused.phrases import phrase_table, read_word_lists, stop_word_lists
from tilth.quality_signals.fused.text_batch import MAX_BYTES, TextBatch
from tilth.quality_signals.registry import BatchScores, Resource, batch_signal

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Lists = Mapping[str, tuple[str, ...]]
NO_LANGUAGE, NO_LIST = "no language", "no word list for the language"


def _built_in() -> bytes:
    return stop_word_lists(resources.files("tilth.quality_signals.fused").joinpath("stop_words.txt").read_text("utf-8"))


def _read_single_words(data: bytes) -> Lists:
    # A raw word holds no space, so that entries with one never match.
    lists = read_word_lists(data)
    return {language: tuple(entry for entry in entries if " " not in entry) for language, entries in lists.items()}


@batch_signal(
    "stop_words",
    version=2,
    columns={"rps_doc_stop_word_fraction": pa.float64()},
    needs=("language",),
    resources={"stop_words": Resource(_read_single_words, _built_in)},
    max_bytes=MAX_BYTES,
)
def stop_words(batch: TextBatch, stop_words: Lists) -> BatchScores:
    """Stop words per raw word, both as they are written: a capital letter keeps a word from being a stop word.

    0 for a text without normalised words, as published. Undefined where the language has no list.
    """
    from tilth.quality_signals.fused.kernels.raw import N_WORDS
    from tilth.quality_signals.fused.kernels.words import N_WORDS as N_NORMAL_WORDS
    from tilth.quality_signals.fused.kernels.words import count_raw_words

    tables, undefined = _by_list(batch, stop_words)
    found = np.zeros(len(batch), np.int64)
    for table, documents in tables:
        count_raw_words(batch.data, batch.offsets, code_points().info, documents, table, found)
    n_words = np.where(batch.words.documents[:, N_NORMAL_WORDS] == 0, 0, batch.raw_counts[:, N_WORDS])
    none = undefined[NO_LANGUAGE] | undefined[NO_LIST]
    values = shares(found, n_words, empty=0.0)
    return BatchScores({"rps_doc_stop_word_fraction": pa.array(values.to_numpy(), mask=none)}, undefined)


@batch_signal(
    "bad_words",
    version=2,
    columns={"rps_doc_ldnoobw_words": pa.int64()},
    needs=("language",),
    resources={"bad_words": Resource(read_word_lists)},
    max_bytes=MAX_BYTES,
)
def bad_words(batch: TextBatch, bad_words: Lists) -> BatchScores:
    """How many runs of normalised words are an entry of the list, such as LDNOOBW; undefined where the language has none.

    Entries are taken as written, so that one with capitals, punctuation or composed accents never matches.
    """
    from tilth.quality_signals.fused.kernels.words import count_phrases

    words = batch.words
    tables, undefined = _by_list(batch, bad_words)
    found = np.zeros(len(batch), np.int64)
    for table, documents in tables:
        count_phrases(words.data, words.ids, words.bounds, words.distinct, documents, table, found)
    none = undefined[NO_LANGUAGE] | undefined[NO_LIST]
    return BatchScores({"rps_doc_ldnoobw_words": whole_numbers(found, none)}, undefined)


def _by_list(batch: TextBatch, lists: Lists) -> tuple[list[tuple[tuple[Any, ...], Ints]], dict[str, Mask]]:
    """The kernels' tables of each list with the documents it is for, and which documents have none, by reason."""
    languages = pc.fill_null(batch.fields["language"], "").to_numpy(zero_copy_only=False)
    has_list = np.zeros(len(batch), bool)
    tables = []
    for language, entries in lists.items():
        here = languages == language
        if here.any():
            has_list |= here
            tables.append((phrase_table(entries).arrays(), np.flatnonzero(here)))
    no_language = languages == ""
    return tables, {NO_LANGUAGE: no_language, NO_LIST: ~has_list & ~no_language}
