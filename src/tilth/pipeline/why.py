"""Why a step of a run did what it did: the documents that it read, with their rows of the catalog and what was lost on each."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tilth.artifacts import Named
from tilth.errors import UserError, did_you_mean
from tilth.pipeline.launch import DOCUMENT_LOSSES_FILE
from tilth.pipeline.project import Project
from tilth.pipeline.run_sources import RunSource, order_of, plan_of, reads_whole_documents, sources_of
from tilth.pipeline.trace import check_place

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from tilth.catalog.provenance import Provenance
    from tilth.tokenize.shards import TokenSet
    from tilth.tokenize.token_spans import SpanIndex

ORDERS = ("sequence", "tokens", "loss")
Place = tuple[str, int]  # shard and row of a document in its corpus


@dataclass(frozen=True)
class Read:
    """What one sequence of a step read of one document; of a file of a repository, what it read of the repository there."""

    step: int
    sequence: int
    subset: str
    epoch: int
    start: int  # in tokens, within the document of the token set; `end` is the first that was not read
    end: int
    n_tokens: int  # that were inputs
    share: float  # of the step's tokens
    loss: float | None  # mean nats per target over the piece, where the run wrote document losses
    document: dict[str, Any]  # its row of the catalog; empty for tokens of no one document
    is_turned: bool = False  # read from the other strand, from `end` to `start`


class Why:
    """The steps of one run, open for looking at many: `with Why(project, "base") as why: why.step(120)`.

    `signals` are columns of the corpus, as long as it holds the texts of the run, that each document's row has besides its
    provenance. Without `with`, each step asks
    the catalog for its own documents alone: that opens sooner, and is slower from the second step on.
    Raises NotFoundError where there is no such run, or its data were purged; QueryError for an unknown signal.
    """

    def __init__(self, project: Project, run: str, signals: Collection[str] = ()) -> None:
        self.run, self.signals, self._store = project.store.get_named("run", run), tuple(signals), project.store
        self._of_documents = reads_whole_documents(self.run)
        self._sources = [_OpenSource(project, source, self.signals) for source in sources_of(self.run)]
        self._order = order_of(self.run, [own.source for own in self._sources], [own.tokens for own in self._sources])

    def __enter__(self) -> Why:
        for source in self._sources:
            source.open()
        self._order.sequence(0, 0)  # the tables of the order: the first step shall wait for them as little as the others
        return self

    def __exit__(self, *error: object) -> None:
        for source in self._sources:
            source.close()

    def step(self, step: int, sequence: int | None = None, by: str = "sequence") -> list[Read]:
        """What `step` (counted from 0, as losses are), or one sequence of it, read; in order of reading, or most first.

        Raises NotFoundError where the run has no such step or sequence, UserError for an unknown order, and for that by
        loss where the run wrote none.
        """
        check_place(self.run, step=step, sequence=sequence or 0)
        if by not in ORDERS:
            raise UserError(f"documents cannot be sorted by `{by}`", "--by", did_you_mean(by, ORDERS))
        if by == "loss" and self._losses is None:
            fix = 'Train it with `"document_losses": True` in its settings.'
            raise UserError(f"run `{self.run.name}` wrote no losses of documents", f"run/{self.run.name}", fix)
        numbers = range(self._order.global_batch) if sequence is None else [sequence]
        found = self._with_documents([one for number in numbers for one in self._reads(step, number)])
        if by == "tokens":
            found.sort(key=lambda read: -read.n_tokens)
        elif by == "loss":
            found.sort(key=lambda read: (read.loss is None, -(read.loss or 0.0)))
        return found

    def _reads(self, step: int, sequence: int) -> Iterator[tuple[int, Place | None, Read]]:
        """What a sequence read, with the number of its source and the place of the document in its corpus."""
        plan, losses = plan_of(self.run, self._order, step, sequence), self._losses_of(step)
        source, n_of_step = self._sources[plan.source], self._n_tokens(step)
        for number, (piece, epoch) in enumerate(zip(plan.read_order, plan.epochs_read, strict=True)):
            first, end = piece.start, piece.start + piece.length
            if number == len(plan) - 1:  # what is read last is a target only: the first token, where the sequence is turned
                first, end = (first + 1, end) if plan.is_turned and not self._of_documents else (first, end - 1)
            # a document that begins behind the last input gave its first token as a target, and was not read
            is_target_only = first == end == piece.start
            for place, start, stop, n_tokens in source.documents(piece.document, first, end + is_target_only):
                if is_target_only:
                    stop, n_tokens = start, 0
                loss, share = losses.get((sequence, number)), n_tokens / n_of_step
                read = Read(step, sequence, source.source.subset, epoch, start, stop, n_tokens, share, loss, {}, plan.is_turned)
                yield plan.source, place, read

    def _n_tokens(self, step: int) -> int:
        """The inputs of a step: as many in every step, unless a sequence is a document."""
        if not self._of_documents:
            return self._order.seq_len * self._order.global_batch
        return sum(piece.length - 1 for plan in self._order.sequences(step) for piece in plan)

    def _with_documents(self, found: list[tuple[int, Place | None, Read]]) -> list[Read]:
        rows: dict[tuple[int, Place], dict[str, Any]] = {}
        for number, source in enumerate(self._sources):
            places = list(dict.fromkeys(place for of, place, _ in found if of == number and place is not None))
            rows |= {(number, place): row for place, row in zip(places, source.rows(places), strict=True)}
        return [replace(read, document=rows[number, place]) if place else read for number, place, read in found]

    def _losses_of(self, step: int) -> dict[tuple[int, int], float]:
        """(sequence, piece) -> mean loss, of the group of rows that holds the step."""
        if self._losses is None:
            return {}
        return self._losses.of(step)

    @cached_property
    def _losses(self) -> _Losses | None:
        path = self._store.artifact(self.run.one("train")).path / DOCUMENT_LOSSES_FILE
        return _Losses(path) if path.is_file() else None


class _Losses:
    """The document losses of a run, read a step at a time."""

    def __init__(self, path: Any) -> None:
        import pyarrow.parquet as pq

        self._file = pq.ParquetFile(path, pre_buffer=False)
        groups = (self._file.metadata.row_group(group) for group in range(self._file.num_row_groups))
        self._spans = [(group.column(0).statistics.min, group.column(0).statistics.max) for group in groups if group.num_rows]
        self._step, self._found = -1, dict[tuple[int, int], float]()

    def of(self, step: int) -> dict[tuple[int, int], float]:
        import pyarrow.compute as pc

        if step != self._step:
            groups = [group for group, (first, last) in enumerate(self._spans) if first <= step <= last]
            table = self._file.read_row_groups(groups, ["step", "sequence", "piece", "n_targets", "loss_sum"], use_threads=False)
            columns = table.filter(pc.equal(table.column("step"), step)).to_pydict()
            keys = zip(columns["sequence"], columns["piece"], strict=True)
            losses = (total / n for total, n in zip(columns["loss_sum"], columns["n_targets"], strict=True))
            self._step, self._found = step, dict(zip(keys, losses, strict=True))
        return self._found


class _OpenSource:
    """One source of a run: its tokens, where its documents lie in the corpus, and their rows."""

    def __init__(self, project: Project, source: RunSource, signals: tuple[str, ...]) -> None:
        from tilth.tokenize.shards import TokenSet
        from tilth.tokenize.token_spans import FILE, SpanIndex

        folder = project.store.artifact(source.named.one("tokens.train")).path
        self.source, self.signals, self._store = source, signals, project.store
        self._texts = _with_signals(project, source) if signals else source.named
        self.tokens: TokenSet = TokenSet.open(folder)
        self._spans: SpanIndex | None = SpanIndex(folder) if (folder / FILE).is_file() else None
        self._provenance: Provenance | None = None

    def open(self) -> None:
        from tilth.catalog.provenance import Provenance

        self._provenance = Provenance(self._store, self._texts, self.signals)
        _ = self._places

    def close(self) -> None:
        if self._provenance is not None:
            self._provenance.close()
        self._provenance = None

    def documents(self, document: int, start: int, end: int) -> Iterator[tuple[Place | None, int, int, int]]:
        """The documents of the corpus among the tokens from `start` to `end`: place, first token, end, tokens."""
        if start == end:
            return
        if self._spans is None:
            shards, rows = self._places
            yield (shards[document].as_py(), int(rows[document])), start, end, end - start
            return
        held: dict[Place | None, tuple[int, int, int]] = {}
        begin = int(self.tokens.offsets[document])
        at = begin + start
        while at < begin + end:
            span = self._spans.at(at)
            stop = min(span.token_end, begin + end)
            place = (span.shard, span.row) if span.shard is not None and span.row is not None else None
            first, _, n_tokens = held.get(place, (at - begin, 0, 0))
            held[place] = first, stop - begin, n_tokens + stop - at
            at = stop
        for place, ends in held.items():
            yield place, *ends

    def rows(self, places: list[Place]) -> list[dict[str, Any]]:
        from tilth.catalog.trace import documents_at

        if self._provenance is not None:
            return self._provenance.of(places)
        return documents_at(self._store, self._texts, places, self.signals).to_pylist() if places else []

    @cached_property
    def _places(self) -> tuple[pa.ChunkedArray[Any], np.ndarray]:
        """Shard and row of each document of the token set."""
        import pyarrow.parquet as pq

        index = pq.read_table(self.tokens.folder / "index.parquet", columns=["shard", "row"], read_dictionary=["shard"])
        return index.column("shard"), index.column("row").to_numpy()


def _with_signals(project: Project, source: RunSource) -> Named:
    """The parts of a source and all signals of its corpus: a subset holds on to those alone that its predicate named."""
    from tilth.catalog.corpus_views import text_parts

    corpus, own = project.store.find_named("corpus", source.corpus), source.named
    if corpus is None or not set(text_parts(own)) <= set(text_parts(corpus)):
        return own  # another build: its rows are other documents
    shards = {part.shard for part in text_parts(own)}
    more = (part for part in corpus.parts if part.step.startswith("signals.") and part.shard in shards)
    return replace(own, parts=(*own.parts, *(part for part in more if part.step not in own.steps())))
