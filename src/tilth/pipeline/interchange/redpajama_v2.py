"""RedPajama-V2's layout: what its records hold, how documents are named, and where the files lie.

Read from its dataset card and from what the code published with it writes. `documents/<snapshot>/<shard>/<language>_<bucket>
.json.gz` holds the texts in CCNet's form; files of the same name below `quality_signals`, `minhash` and `duplicates` say
more of the same lines, and `listings` names the files. A document's id is its file and its line, from 0.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tilth.corpus.records import Document

DOCUMENT_SIGNALS_BEFORE = (
    "ccnet_length", "ccnet_original_length", "ccnet_nlines", "ccnet_original_nlines", "ccnet_language_score",
    "ccnet_perplexity", "ccnet_bucket",
    "rps_doc_curly_bracket", "rps_doc_ldnoobw_words", "rps_doc_lorem_ipsum", "rps_doc_stop_word_fraction",
    "rps_doc_ut1_blacklist",
    *(f"rps_doc_frac_chars_dupe_{n}grams" for n in (10, 5, 6, 7, 8, 9)),
    *(f"rps_doc_frac_chars_top_{n}gram" for n in (2, 3, 4)),
    "rps_doc_frac_all_caps_words", "rps_doc_frac_lines_end_with_ellipsis", "rps_doc_frac_no_alph_words",
    "rps_doc_frac_unique_words", "rps_doc_mean_word_length", "rps_doc_num_sentences", "rps_doc_symbol_to_word_ratio",
    "rps_doc_unigram_entropy", "rps_doc_word_count",
)  # fmt: skip
BULLETS = "rps_lines_start_with_bulletpoint"
LINE_SIGNALS = (
    "rps_lines_ending_with_terminal_punctution_mark", "rps_lines_javascript_counts", "rps_lines_num_words",
    "rps_lines_numerical_chars_fraction", BULLETS, "rps_lines_uppercase_letter_fraction",
)  # fmt: skip
DOCUMENT_SIGNALS_AFTER = (
    "rps_doc_ml_palm_score", "rps_doc_ml_wikipedia_score", "rps_doc_ml_wikiref_score",
    "rps_doc_books_importance", "rps_doc_books_importance_length_correction",
    "rps_doc_openwebtext_importance", "rps_doc_openwebtext_importance_length_correction",
    "rps_doc_wikipedia_importance", "rps_doc_wikipedia_importance_length_correction",
)  # fmt: skip
SIGNALS = (*DOCUMENT_SIGNALS_BEFORE, *LINE_SIGNALS, *DOCUMENT_SIGNALS_AFTER)  # in the order of the published records
INTEGERS = frozenset({"rps_doc_word_count", "rps_doc_ut1_blacklist", "rps_lines_num_words"})
# Families that compute them; those that need a list or a model take part where the user gives one.
FAMILIES = ("ccnet", "lines", "natural_language", "repetition", "stop_words")
FAMILIES_WITH_LISTS = ("bad_words", "blocked_domains")

Spans = list[tuple[int, int, float | None]]
BUCKETS = ("head", "middle", "tail")
NO_BUCKET, NO_LANGUAGE = "all", "xx"  # `all` is CCNet's own word for documents without a language model
PATH = re.compile(r"(?:^|/)(\d{4}-\d{2})/(\d{4})/([a-z]{2}_(?:head|middle|tail|all))\.json(?:\.gz)?$")
COMPONENTS = {
    "documents": ".json.gz", "quality_signals": ".signals.json.gz", "minhash": ".minhash.parquet",
    "duplicates": ".duplicates.parquet",
}  # fmt: skip
_COUNTS = ("length", "nlines", "original_length", "original_nlines")
_NUMBERS = ("language_score", "perplexity")
_OWN = frozenset({
    "url", "date_download", "digest", "source_domain", "title", "raw_content", "language", "bucket", "cc_segment",
    "line_ids", "rpv2_id", *_COUNTS, *_NUMBERS,
})  # fmt: skip


def component_path(component: str, snapshot: str, shard: str, group: str) -> PurePosixPath:
    """Where a file of a component lies: `component_path("minhash", "2023-06", "0000", "en_head")`."""
    return PurePosixPath(component, snapshot, shard, group + COMPONENTS[component])


def shard_id(snapshot: str, shard: str, group: str) -> str:
    """How records name their file: `2023-06/0000/en_head.json.gz`."""
    return f"{snapshot}/{shard}/{group}.json.gz"


def id_int(document_id: str) -> int:
    """The number of a document: the first eight bytes of the SHA-1 of its id, little-endian as x86 wrote them."""
    return int.from_bytes(hashlib.sha1(document_id.encode(), usedforsecurity=False).digest()[:8], "little")


def listing_name(snapshot: str, group: str) -> str:
    """The listing that names a group's files: `en-2023-06-head_middle.txt`."""
    language, _, bucket = group.partition("_")
    return f"{language}-{snapshot}-{'head_middle' if bucket in ('head', 'middle') else bucket}.txt"


def language_code(language: str | None) -> str:
    """The two letters of a language tag (BCP 47: `en-GB` is en), or `xx` where there are none."""
    code = re.split("[-_]", language or "")[0].lower()
    return code if re.fullmatch("[a-z]{2}", code) else NO_LANGUAGE


def settled(document: Document) -> Document:
    """A document with what its signals need as the layout has it: a language of two letters, CCNet's counts in `meta`."""
    record = document_record(document)
    counts = {name: str(record[name]) for name in _COUNTS}
    return replace(document, language=record["language"] or None, meta={**document.meta, **counts})


def document_record(document: Document) -> dict[str, Any]:
    """A document in CCNet's form, with what else its `meta` holds after it.

    `digest` is what a CCNet record says, else Common Crawl's kind of digest of the text; a text from which no line was
    taken has its own length as the original one; what nobody computed (language score, perplexity) is null.
    """
    meta, text = document.meta, document.text
    seen = document.occurrences[0] if document.occurrences else None
    language = language_code(document.language)
    here = {"length": len(text), "nlines": text.count("\n") + 1}
    counts = {name: _whole(meta.get(name)) for name in _COUNTS}
    length = here["length"] if counts["length"] is None else counts["length"]
    nlines = here["nlines"] if counts["nlines"] is None else counts["nlines"]
    originals = {"original_length": length, "original_nlines": nlines}
    bucket = meta.get("bucket", "")
    return {
        "url": document.url or "",
        "date_download": meta.get("date_download") or (seen.date if seen else None) or "",
        "digest": meta.get("digest") or text_digest(text),
        "length": length,
        "nlines": nlines,
        "source_domain": meta["source_domain"] if "source_domain" in meta else _domain(document.url),
        "title": meta.get("title", ""),
        "raw_content": text,
        **{name: own if counts[name] is None else counts[name] for name, own in originals.items()},
        "language": "" if language == NO_LANGUAGE else language,
        **{name: _number(meta.get(name)) for name in _NUMBERS},
        "bucket": bucket if bucket in BUCKETS else NO_BUCKET,
        "cc_segment": meta.get("cc_segment") or (seen.path if seen else ""),
        **{name: value for name, value in meta.items() if name not in _OWN},
    }  # fmt: skip


def group_of(record: Mapping[str, Any]) -> str:
    """The file of a shard that a document's record belongs into: `en_head`, `xx_all`."""
    return f"{record['language'] or NO_LANGUAGE}_{record['bucket']}"


def text_digest(text: str) -> str:
    """SHA-1 of the UTF-8 text in Common Crawl's notation (RFC 4648 base32)."""
    return "sha1:" + base64.b32encode(hashlib.sha1(text.encode(), usedforsecurity=False).digest()).decode()


def signal_fields(texts: pa.Array, signals: Mapping[str, pa.Table]) -> list[dict[str, Spans]]:
    """`quality_signals` of each text: every signal as (start, end, score) in characters, a span for each line or one for all.

    `signals` are families' tables (signals/1) for these texts, by any name. A signal that none of them has is null, as
    the published code writes what it had no model for.
    """
    n_chars = pc.utf8_length(texts).to_pylist()
    columns = {name: table.column(name) for table in signals.values() for name in table.column_names}
    fields: list[dict[str, Spans]] = [{} for _ in n_chars]
    lines = _line_spans(columns)
    for name in SIGNALS:
        if name in LINE_SIGNALS:
            spans = _scored_lines(name, columns, lines, len(n_chars))
        else:
            kind = int if name in INTEGERS else float
            values = columns[name].to_pylist() if name in columns else [None] * len(n_chars)
            spans = [[(0, n, None if value is None else kind(value))] for n, value in zip(n_chars, values)]
        for own, found in zip(fields, spans):
            own[name] = found
    return fields


def signal_record(document_id: str, record: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """A line of `quality_signals/`: the document's names, where it is from, and its signals."""
    source = document_id.rpartition("/")[0]
    metadata = {
        "cc_segment": record["cc_segment"], "cc_net_source": source, "url": record["url"],
        "source_domain": record["source_domain"], "language": record["language"], "snapshot_id": source.partition("/")[0],
    }  # fmt: skip
    return {"id": document_id, "id_int": id_int(document_id), "metadata": metadata, "quality_signals": fields}


Lines = tuple[list[list[int]], list[list[int]]]  # of each document: where its lines start, where they end


def _line_spans(columns: Mapping[str, pa.ChunkedArray]) -> Lines | None:
    if "line_start" not in columns:
        return None
    return _lists(columns["line_start"], np.int64), _lists(columns["line_end"], np.int64)


def _scored_lines(name: str, columns: Mapping[str, pa.ChunkedArray], lines: Lines | None, n_documents: int) -> list[Spans]:
    if lines is None or name not in columns:
        return [[] for _ in range(n_documents)]
    scores = _lists(columns[name], np.int64 if name in INTEGERS else np.float64)
    scored: list[Spans] = [list(zip(*parts)) for parts in zip(*lines, scores)]
    # A text without lines has one null span here, and none in the other signals, as published.
    return [found or [(0, 0, None)] for found in scored] if name == BULLETS else scored


def _lists(column: pa.ChunkedArray, kind: type[np.generic]) -> list[list[Any]]:
    """A column of lists without nulls as Python's numbers of one kind, several times faster than `to_pylist`."""
    found: list[list[Any]] = []
    for chunk in column.chunks:
        ends = chunk.offsets.to_numpy()
        values = chunk.values.slice(ends[0], ends[-1] - ends[0]).to_numpy(zero_copy_only=False).astype(kind).tolist()
        ends = (ends - ends[0]).tolist()
        found += [values[start:end] for start, end in pairwise(ends)]
    return found


def _domain(url: str | None) -> str:
    try:
        return urlsplit(url or "").netloc
    except ValueError:  # `http://[broken`
        return ""


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _whole(value: str | None) -> int | None:
    number = _number(value)
    return None if number is None else int(number)
