"""From a token back to its document and to bytes of it: SWHID, file or URL, licence; by training step, or by place in a shard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilth.artifacts import Named
from tilth.errors import NotFoundError, StoreError, did_you_mean
from tilth.pipeline.project import Project
from tilth.pipeline.run_sources import RunSource, order_of, sources_of
from tilth.pipeline.sources_of_texts import SourcesOfTexts
from tilth.pipeline.tokenise import SPLITS

if TYPE_CHECKING:
    from tilth.catalog.provenance import Provenance

_BLOCK = 16_384  # tokens


@dataclass(frozen=True)
class TracedToken:
    """One token of a token shard and where it comes from; the places are null for what the training form put there."""

    shard: str  # subset/split
    offset: int  # into the shard, in tokens
    token: str
    context: str  # the tokens around it, `token` in ⟦brackets⟧
    kind: str  # text: byte for byte as it was read; edited: it touches an edit; synthetic: of the training form
    part: str | None  # of a text that is filled in: prefix, middle, suffix; else whole
    start: int | None  # UTF-8 bytes of the text that was trained on
    end: int | None
    source_start: int | None  # UTF-8 bytes of the text as it was read; of an edited token those of the whole edit
    source_end: int | None
    document: dict[str, Any]  # its row of the catalog; empty for tokens of no one document


@dataclass(frozen=True)
class Traced:
    """One token of a run and where it comes from."""

    run: str
    subset: str
    step: int
    sequence: int
    position: int
    token: str
    context: str  # the tokens around it, `token` in ⟦brackets⟧
    epoch: int
    offset: int  # in tokens, within the document; of a training form, within the training document
    document: dict[str, Any]  # the row of the catalog; empty for tokens of no one document
    kind: str
    part: str | None
    start: int | None  # as TracedToken
    end: int | None
    source_start: int | None
    source_end: int | None


class TokenShard:
    """The tokens of one split of a subset, open for tracing.

    For many tokens: `with TokenShard(project, "clean/train") as shard: shard.at(7)`.

    Raises NotFoundError where there is no such shard, StoreError where its subset has become another one.
    """

    def __init__(self, project: Project, name: str) -> None:
        subset, _, split = name.partition("/")
        split = split or SPLITS[0]
        self.name = f"{subset}/{split}"
        named = project.store.get_named("tokens", subset)
        if not named.of(f"tokens.{split}"):
            known = [f"{subset}/{part.step.removeprefix('tokens.')}" for part in named.parts]
            raise NotFoundError(
                f"there is no token shard `{subset}/{split}`", named.label, did_you_mean(f"{subset}/{split}", known)
            )
        self.name = f"{subset}/{split}"
        texts = project.store.get_named("subset", subset)
        if texts.digest != named.meta["subset_digest"]:
            what = f"subset `{subset}` was picked anew after it was turned into tokens"
            raise StoreError(what, self.name, "Train on it again, or trace a token of the run: `tilth trace RUN --step N`.")
        self._open(project, named, texts, split)

    @classmethod
    def of_run(cls, project: Project, source: RunSource) -> TokenShard:
        """What a run was trained on: it holds on to the parts of its tokens and of its subsets."""
        shard = cls.__new__(cls)
        shard.name = f"{source.subset}/train"
        shard._open(project, source.named, source.named, "train")
        return shard

    def _open(self, project: Project, tokens: Named, texts: Named, split: str) -> None:
        from tilth.tokenize.shards import TokenSet
        from tilth.tokenize.token_spans import FILE, SpanIndex

        folder = project.store.artifact(tokens.one(f"tokens.{split}")).path
        self.tokens = TokenSet.open(folder)
        self.tokenizer = self.tokens.tokenizer()
        self._spans = SpanIndex(folder) if (folder / FILE).is_file() else None
        self._sources = SourcesOfTexts(project.store, texts)
        self._store, self._texts = project.store, texts
        self._provenance: Provenance | None = None
        self._n_bytes_of: dict[int, int] = {}

    def __enter__(self) -> TokenShard:
        """Open for many tokens: the provenance of all documents is looked up once."""
        from tilth.catalog.provenance import Provenance

        self._provenance = Provenance(self._store, self._texts)
        return self

    def __exit__(self, *error: object) -> None:
        if self._provenance is not None:
            self._provenance.close()
        self._provenance = None

    def at(self, offset: int, n_context: int = 12) -> TracedToken:
        """The token at `offset`. Raises NotFoundError outside the shard."""
        if not 0 <= offset < self.tokens.n_tokens:
            where = f"Offsets go from 0 to {self.tokens.n_tokens - 1}."
            raise NotFoundError(f"token shard `{self.name}` has no token {offset}", f"{self.name}:{offset}", where)
        span = self._spans.at(offset) if self._spans else self._whole_document(offset)
        ids = self.tokens.tokens
        n_before = self._n_bytes(span.token_start, offset)
        n_bytes = self._n_bytes(offset, offset + 1)
        start = end = source_start = source_end = None
        if span.start is not None and span.source_start is not None:
            start, end = span.start + n_before, span.start + n_before + n_bytes
            source_start, source_end = span.source_start + n_before, span.source_start + n_before + n_bytes
            if span.kind == "edited":
                source_start, source_end = span.source_start, span.source_end
        document = self._document(span.shard, span.row) if span.shard is not None and span.row is not None else {}
        shown = (ids[max(0, offset - n_context) : offset], ids[offset : offset + 1], ids[offset + 1 : offset + 1 + n_context])
        before, token, after = (self.tokenizer.decode(part) for part in shown)
        ranges = (start, end, source_start, source_end)
        return TracedToken(self.name, offset, token, f"{before}⟦{token}⟧{after}", span.kind, span.part, *ranges, document)

    def _document(self, shard: str, row: int) -> dict[str, Any]:
        from tilth.catalog.trace import documents_at

        if self._provenance is not None:
            return self._provenance.at(shard, row)
        return dict(documents_at(self._store, self._texts, [(shard, row)]).to_pylist()[0])

    def _n_bytes(self, first: int, stop: int) -> int:
        """The bytes of tokens from `first` to `stop`. Whole blocks are remembered: a file may have millions of tokens."""
        low, high = -(-first // _BLOCK) * _BLOCK, stop // _BLOCK * _BLOCK
        if low >= high:
            return self._sum(first, stop)
        for at in range(low, high, _BLOCK):
            if at not in self._n_bytes_of:
                self._n_bytes_of[at] = self._sum(at, at + _BLOCK)
        whole = sum(self._n_bytes_of[at] for at in range(low, high, _BLOCK))
        return self._sum(first, low) + whole + self._sum(high, stop)

    def _sum(self, first: int, stop: int) -> int:
        return int(self.tokenizer.byte_lengths[self.tokens.tokens[first:stop]].sum())

    def _whole_document(self, offset: int) -> Any:
        """The span of a token in a set without a training form, where a document is one text and a separator."""
        import numpy as np

        from tilth.tokenize.repository_form import RepositoryFile, document_spans

        place = int(np.searchsorted(self.tokens.offsets, offset, side="right")) - 1
        row = self.tokens.rows([place]).to_pylist()[0]
        ids, first = self.tokens.document(place)[:-1], int(self.tokens.offsets[place])
        segments = self._sources.segments(row["shard"], [row["row"]]).get(row["row"])
        document = RepositoryFile(row["doc_id"].bytes, row["shard"], row["row"], "", "", segments)
        spans = [span.moved(first) for span in document_spans(document, ids, self.tokenizer)]
        return next(span for span in spans if span.token_start <= offset < span.token_end)


def trace_token(project: Project, place: str, n_context: int = 12) -> TracedToken:
    """Trace `SUBSET/SPLIT:OFFSET` (`SUBSET:OFFSET` is of its training split). Raises NotFoundError."""
    name, _, offset = place.rpartition(":")
    if not name or not offset.isdecimal():
        raise NotFoundError(f"`{place}` is no place of a token", fix="Write it as `SUBSET/SPLIT:OFFSET`: `clean/train:0`.")
    return TokenShard(project, name).at(int(offset), n_context)


def trace(project: Project, run: str, step: int, sequence: int = 0, position: int = 0, n_context: int = 12) -> Traced:
    """Trace the token at `position` of `sequence` in `step` (counted from 0, as losses are) of `run/<run>`.

    Nothing was logged for this: the order of a run is a pure function of its settings.
    Raises NotFoundError where the run has no such step, sequence or position.
    """
    named = project.store.get_named("run", run)
    check_place(named, step=step, sequence=sequence, position=position)
    sources = sources_of(named)
    shards = [TokenShard.of_run(project, source) for source in sources]
    number, found = order_of(named, sources, [shard.tokens for shard in shards]).locate(step, sequence, position)
    shard = shards[number]
    at = shard.at(int(shard.tokens.offsets[found.document]) + found.offset, n_context)
    own = {name: getattr(at, name) for name in ("kind", "part", "start", "end", "source_start", "source_end", "document")}
    return Traced(run, sources[number].subset, step, sequence, position, at.token, at.context, found.epoch, found.offset, **own)


def check_place(run: Named, **place: int) -> None:
    """Raise NotFoundError where a run has no such step, sequence or position."""
    ends = {"step": run.meta["steps"], "sequence": run.meta["global_batch"], "position": run.meta["seq_len"]}
    for what, value in place.items():
        if not 0 <= value < ends[what]:
            fix = f"Its {what}s go from 0 to {ends[what] - 1}."
            raise NotFoundError(f"run `{run.name}` has no {what} {value}", f"run/{run.name}", fix)
