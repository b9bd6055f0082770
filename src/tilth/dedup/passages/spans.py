"""Substring deduplication: every span of at least n tokens that occurs more than once, as Lee et al. (arXiv:2107.06499) cut
them with a suffix array, here from sorted runs in bounded memory.

A token is a word or a single mark as it is written (`texts.units`, `TOKENS`); only white space is not compared. The spans of
at least n tokens that occur twice are the unions of the windows of n tokens that do, so windows are counted, in four stages:

1. `anchor_run`: the anchors of one shard's windows, about one token in n / 4. Equal windows have equal anchors.
2. `repeated_anchors`: those that occur twice in all runs.
3. `window_run`, `repeated_windows`: the same for whole windows, but only for those whose anchor is repeated.
4. `span_edits`: what to cut from the documents of one shard.

Windows are equal where two hashes of 64 bits are. "First" means first by (shard, row, token), so the result depends neither
on how documents are cut into shards, as long as their order is the same, nor on the number of workers. Time is linear in
the tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tilth.contracts import EDITS, check
from tilth.dedup.passages import span_kernels as kernels
from tilth.dedup.passages.first_copies import Repeated, with_first_copies
from tilth.dedup.sorted_runs import Batches, batches_of, merged_runs
from tilth.dedup.texts.units import TOKENS, Hashes, Ints, Longs, units_of
from tilth.errors import ContractError, RecipeError

Mode = Literal["keep_first", "remove_all_copies"]
Documents: TypeAlias = pa.Table | Callable[[], Iterable[pa.RecordBatch]]  # that can be read twice

MAX_BYTES = 256 << 20
MAX_TOKENS = 65_535  # of a window
ANCHOR_RUN = pa.schema(
    [pa.field("hash", pa.uint64(), nullable=False), pa.field("n_copies", pa.int64(), nullable=False)],
    metadata={"tilth.contract": "anchor_run/1"},
)
WINDOW_RUN = pa.schema(
    [
        pa.field("hash", pa.uint64(), nullable=False),
        pa.field("check", pa.uint64(), nullable=False),  # a second hash of the same tokens
        pa.field("shard", pa.string(), nullable=False),  # of the first copy, and so row and token
        pa.field("row", pa.int32(), nullable=False),
        pa.field("token", pa.int32(), nullable=False),
        pa.field("n_copies", pa.int64(), nullable=False),
    ],
    metadata={"tilth.contract": "window_run/1"},
)
_REASON = "repeated_span"
_ANCHOR_BYTES, _WINDOW_BYTES = 64, 200  # of a row while runs are merged
_FOUND_BYTES = 64  # of a window of the shard at hand, while it is sorted
_BATCH_ROWS = 100_000
_ALL_HASHES = 1 << 64


class _Shard(NamedTuple):
    """The tokens of one shard's documents, one after the other; those of a document begin at its bound."""

    name: str
    rows: Ints
    bounds: Longs
    tokens: Hashes

    def segments(self, n: int) -> tuple[Hashes, Longs, Ints]:
        """Windows by their anchors: hash, first window, number of windows."""
        found: tuple[Hashes, Longs, Ints] = kernels.segments(self.tokens, self.bounds, n, max(1, n // 2))
        return found


def anchor_run(documents: Batches, min_tokens: int) -> pa.Table:
    """Stage 1: the different anchors of one shard, ascending (ANCHOR_RUN).

    `documents` has the columns shard, row (ascending) and text. Memory: 8 bytes a token and 20 an anchor, which every
    window may have to itself where one token is repeated. Raises ContractError for documents of several shards or out of
    order, RecipeError where `min_tokens` cannot be.
    """
    keys, firsts = _different(_tokens(documents).segments(_checked(min_tokens))[0])
    counts = np.diff(firsts)
    return pa.Table.from_arrays([pa.array(keys), pa.array(counts.astype(np.int64))], schema=ANCHOR_RUN)


def repeated_anchors(runs: Sequence[Batches], max_bytes: int = MAX_BYTES, at_least: int = 2) -> Iterator[pa.RecordBatch]:
    """Stage 2: the anchors that occur `at_least` twice in all runs, ascending (ANCHOR_RUN). With 1, runs become one run."""
    for rows in merged_runs(runs, _ANCHOR_BYTES, max_bytes):
        hashes = rows.column("hash").to_numpy()
        order = np.argsort(hashes)
        different, firsts = _different(hashes)
        firsts = firsts[:-1]
        counts = np.add.reduceat(rows.column("n_copies").to_numpy()[order], firsts)
        many = counts >= at_least
        if many.any():
            yield pa.RecordBatch.from_arrays([pa.array(different[many]), pa.array(counts[many])], schema=ANCHOR_RUN)


def window_run(
    documents: Batches, anchors: Batches, min_tokens: int, max_bytes: int = MAX_BYTES
) -> Iterator[pa.RecordBatch]:  # fmt: skip
    """Stage 3: the different windows of one shard whose anchor is repeated, ascending by (hash, check) (WINDOW_RUN).

    Memory: as `anchor_run`, and `max_bytes` for the windows, which are taken range by range of their hashes; more only
    where one and the same window fills more.
    """
    shard = _tokens(documents)
    for _, keys, checks, places in _windows(shard, _checked(min_tokens), anchors, max_bytes):
        if not len(keys):
            continue
        is_new = np.concatenate(([True], (keys[1:] != keys[:-1]) | (checks[1:] != checks[:-1])))
        firsts = np.flatnonzero(is_new)
        n_copies = np.diff(np.append(firsts, len(keys)))
        first_places = places[firsts]
        owners = np.searchsorted(shard.bounds, first_places, side="right") - 1
        columns = [
            pa.array(keys[firsts]),
            pa.array(checks[firsts]),
            pa.array([shard.name], pa.string()).take(pa.array(np.zeros(len(firsts), np.int32))),
            pa.array(shard.rows[owners]),
            pa.array((first_places - shard.bounds[owners]).astype(np.int32)),
            pa.array(n_copies.astype(np.int64)),
        ]
        yield from pa.Table.from_arrays(columns, schema=WINDOW_RUN).to_batches(_BATCH_ROWS)


def repeated_windows(runs: Sequence[Batches], max_bytes: int = MAX_BYTES, at_least: int = 2) -> Iterator[pa.RecordBatch]:
    """Stage 3 to its end: the windows that occur `at_least` twice in all runs, ascending by (hash, check) (WINDOW_RUN)."""
    for rows in merged_runs(runs, _WINDOW_BYTES, max_bytes):
        hashes, checks, row, token, n_copies = (
            rows.column(name).to_numpy() for name in ("hash", "check", "row", "token", "n_copies")
        )
        order = np.lexsort((token, row, _ranks(rows.column("shard")), checks, hashes))
        hashes, checks = hashes[order], checks[order]
        is_new = np.concatenate(([True], (hashes[1:] != hashes[:-1]) | (checks[1:] != checks[:-1])))
        firsts = np.flatnonzero(is_new)
        copies = np.add.reduceat(n_copies[order], firsts)
        many = copies >= at_least
        if many.any():
            first = pa.array(order[firsts[many]])
            places = [rows.column(name).combine_chunks().take(first) for name in ("shard", "row", "token")]
            columns = [pa.array(hashes[firsts[many]]), pa.array(checks[firsts[many]]), *places, pa.array(copies[many])]
            yield from pa.Table.from_arrays(columns, schema=WINDOW_RUN).to_batches()


def span_edits(
    documents: Documents, anchors: Batches, repeated: Batches, min_tokens: int, mode: Mode = "keep_first",
    max_bytes: int = MAX_BYTES,
) -> pa.Table:  # fmt: skip
    """Stage 4: the spans to cut from the documents of one shard (edits/1), ascending and without overlaps.

    `keep_first` leaves the first copy of every window; a later copy that overlaps it, as in a long run of one token, is cut
    from its end on. `remove_all_copies` leaves none. White space after a span goes with it where there is some before it,
    which stays unless it begins the text. Memory: as `window_run`, and 2 bytes a token. Raises as the stages before,
    RecipeError for another mode, and ContractError where a first copy is not where its run saw it.
    """
    shard = _tokens(_read(documents))
    return _as_edits(documents, shard, *_cut_spans(shard, anchors, repeated, _checked(min_tokens), mode, max_bytes))


def span_cuts(
    documents: Documents, anchors: Repeated, repeated: Repeated, min_tokens: int, mode: Mode = "keep_first",
    max_bytes: int = MAX_BYTES,
) -> pa.Table:  # fmt: skip
    """As `span_edits`, with the columns of FIRST_COPIES: of the window that each cut begins with.

    They are null where a cut begins behind a first copy that overlaps it, and so within what is repeated.
    """
    n, shard = _checked(min_tokens), _tokens(_read(documents))
    owners, starts, ends = _cut_spans(shard, anchors(), repeated(), n, mode, max_bytes)
    edits = _as_edits(documents, shard, owners, starts, ends)
    places = shard.bounds[owners] + starts
    known = places + n <= shard.bounds[owners + 1]  # behind an overlapping first copy a window may not fit any more
    hashes = np.zeros(len(places), np.uint64)
    ones = np.ones(int(known.sum()), np.int32)
    hashes[known] = kernels.windows(shard.tokens, places[known], ones, n, np.uint64(0), np.uint64(_ALL_HASHES - 1))[0]
    return with_first_copies(edits, hashes, known, repeated, "token")


def _cut_spans(
    shard: _Shard, anchors: Batches, repeated: Batches, n: int, mode: Mode, max_bytes: int
) -> tuple[Longs, Longs, Longs]:  # fmt: skip
    """Document (its number in the shard), first token and last (exclusive) of each span to cut."""
    if mode not in get_args(Mode):
        raise RecipeError(f"`{mode}` is no mode of substring deduplication", fix=f"use one of {', '.join(get_args(Mode))}")
    lengths = np.zeros(len(shard.tokens), np.uint16)
    waiting = iter(batches_of(repeated))
    rest: pa.RecordBatch | None = None
    for highest, keys, checks, places in _windows(shard, n, anchors, max_bytes):
        while (batch := rest if rest is not None else next(waiting, None)) is not None:
            n_here = int(np.searchsorted(batch.column("hash").to_numpy(), np.uint64(highest), side="right"))
            _mark(shard, batch.slice(0, n_here), mode, n, (keys, checks, places), lengths)
            rest = batch.slice(n_here) if n_here < batch.num_rows else None
            if rest is not None:
                break
    found: tuple[Longs, Longs, Longs] = kernels.spans(lengths, shard.bounds)
    return found


def _mark(
    shard: _Shard, repeated: pa.RecordBatch, mode: Mode, n: int, found: tuple[Hashes, Hashes, Longs],
    lengths: npt.NDArray[np.uint16],
) -> None:  # fmt: skip
    if not repeated.num_rows:
        return
    hashes, checks = repeated.column("hash").to_numpy(), repeated.column("check").to_numpy()
    firsts = np.full(len(hashes), -1, np.int64)
    if mode == "keep_first":
        here = np.flatnonzero(pc.equal(repeated.column("shard"), shard.name).to_numpy(zero_copy_only=False))
        rows = repeated.column("row").to_numpy()[here]
        owners = np.minimum(np.searchsorted(shard.rows, rows), max(len(shard.rows) - 1, 0))
        firsts[here] = shard.bounds[owners] + repeated.column("token").to_numpy()[here]
    if kernels.cut_repeated(*found, hashes, checks, firsts, n, lengths) >= 0:
        raise ContractError("a first copy is not where its run saw it", where=shard.name, fix="make the run again")


def _as_edits(documents: Documents, shard: _Shard, owners: Longs, starts: Longs, ends: Longs) -> pa.Table:
    """Spans of tokens as spans of characters: the texts are cut into tokens once more, for their places."""
    from_chars, to_chars = np.empty(len(owners), np.int64), np.empty(len(owners), np.int64)
    first_document = 0
    for batch in _read(documents):
        low, high = np.searchsorted(owners, [first_document, first_document + batch.num_rows])
        if low < high:
            units = units_of(batch.column("text"), TOKENS)
            bounds, n_chars = units.bounds, pc.utf8_length(batch.column("text")).to_numpy(zero_copy_only=False)
            own = owners[low:high] - first_document
            first, last = bounds[own] + starts[low:high], bounds[own] + ends[low:high]
            is_start, is_end = starts[low:high] == 0, last == bounds[own + 1]
            # What stands before and after the span must not become one word.
            is_apart = is_start | (units.starts[first] > units.ends[np.maximum(first - 1, 0)])
            after = np.where(is_apart, units.starts[np.minimum(last, len(units.starts) - 1)], units.ends[last - 1])
            from_chars[low:high] = np.where(is_start, 0, units.starts[first])
            to_chars[low:high] = np.where(is_end, n_chars[own], after)
        first_document += batch.num_rows
    repeat = pa.array(np.zeros(len(owners), np.int32))
    columns = [
        pa.array([shard.name], pa.string()).take(repeat),
        pa.array(shard.rows[owners]),
        pa.array(from_chars),
        pa.array(to_chars),
        pa.array([""], pa.string()).take(repeat),
        pa.array([_REASON], pa.string()).take(repeat),
    ]
    edits = pa.Table.from_arrays(columns, schema=EDITS.schema)
    check(edits, EDITS)
    return edits


def _windows(
    shard: _Shard, n: int, anchors: Batches, max_bytes: int
) -> Iterator[tuple[int, Hashes, Hashes, Longs]]:  # fmt: skip
    """Range by range of hashes, its highest and the windows in it whose anchor is repeated: hash, check, place, ascending."""
    keys, firsts, counts = shard.segments(n)
    chosen = _among(keys, _known(_different(keys)[0], anchors))
    firsts, counts = firsts[chosen], counts[chosen]
    n_parts = max(1, -(-int(counts.sum()) * _FOUND_BYTES // max_bytes))
    for part in range(n_parts):
        lowest, highest = part * _ALL_HASHES // n_parts, (part + 1) * _ALL_HASHES // n_parts - 1
        hashes, checks, places = kernels.windows(shard.tokens, firsts, counts, n, np.uint64(lowest), np.uint64(highest))
        order = np.argsort(hashes, kind="stable")
        if (np.diff(checks[order])[np.diff(hashes[order]) == 0] != 0).any():
            order = np.lexsort((places, checks, hashes))  # two windows with one hash
        yield highest, hashes[order], checks[order], places[order]


def _known(own: Hashes, anchors: Batches) -> Hashes:
    """Those of a shard's anchors (ascending) that are among the repeated ones, which are streamed."""
    found = [np.zeros(0, np.uint64)]
    for batch in batches_of(anchors):
        hashes = batch.column("hash").to_numpy()
        found.append(hashes[_among(hashes, own)])
    return np.concatenate(found)


def _among(hashes: Hashes, ascending: Hashes) -> npt.NDArray[np.bool_]:
    """Which of `hashes` are in `ascending`."""
    if not len(ascending):
        return np.zeros(len(hashes), bool)
    found: npt.NDArray[np.bool_] = ascending[np.minimum(np.searchsorted(ascending, hashes), len(ascending) - 1)] == hashes
    return found


def _different(hashes: Hashes) -> tuple[Hashes, Longs]:
    """The different hashes, ascending, and where each begins among all when sorted, with their number at the end."""
    ascending = np.sort(hashes)
    firsts = np.flatnonzero(np.concatenate((np.ones(min(1, len(hashes)), bool), ascending[1:] != ascending[:-1])))
    return ascending[firsts], np.append(firsts, len(hashes))


def _tokens(documents: Batches) -> _Shard:
    names: set[str] = set()
    rows, n_tokens, tokens = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)], [np.zeros(0, np.uint64)]
    for batch in batches_of(documents):
        names.update(pc.unique(batch.column("shard")).to_pylist())
        rows.append(batch.column("row").to_numpy(zero_copy_only=False).astype(np.int32))
        units = units_of(batch.column("text"), TOKENS)
        n_tokens.append(units.n_units)
        tokens.append(units.hashes.copy())
    if len(names) > 1:
        raise ContractError(f"tokens are counted shard by shard, and these are {len(names)}", where=", ".join(sorted(names)[:3]))
    shard, all_rows = next(iter(names), ""), np.concatenate(rows)
    if (np.diff(all_rows) <= 0).any():
        raise ContractError("rows of a shard must ascend", where=shard)
    bounds = np.concatenate((np.zeros(1, np.int64), np.cumsum(np.concatenate(n_tokens))))
    return _Shard(shard, all_rows, bounds, np.concatenate(tokens))


def _read(documents: Documents) -> Iterable[pa.RecordBatch]:
    return documents.to_batches() if isinstance(documents, pa.Table) else documents()


def _ranks(names: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """For each name its place among the different ones in order."""
    encoded = pc.dictionary_encode(names).combine_chunks()
    encoded = encoded.chunk(0) if isinstance(encoded, pa.ChunkedArray) else encoded
    different = encoded.dictionary.to_pylist()
    ranks = np.empty(len(different), np.int64)
    ranks[sorted(range(len(different)), key=different.__getitem__)] = np.arange(len(different))
    return ranks[np.asarray(encoded.indices)]


def _checked(min_tokens: int) -> int:
    if not 1 <= min_tokens <= MAX_TOKENS:
        raise RecipeError(f"a span has 1 to {MAX_TOKENS:,} tokens, not {min_tokens}", "`min_tokens`", "Lee et al. take 50.")
    return min_tokens
