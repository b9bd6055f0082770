"""From a token back to its document and to bytes of it: SWHID, file or URL, licence; by training step, or by place in a shard."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilth.artifacts import Named
from tilth.errors import NotFoundError, StoreError, did_you_mean
from tilth.pipeline.project import Project
from tilth.pipeline.run_sources import RunSource, order_of, plan_of, sources_of
from tilth.pipeline.sources_of_texts import SourcesOfTexts
from tilth.pipeline.tokenise import SPLITS

if TYPE_CHECKING:
    from tilth.catalog.provenance import Provenance
    from tilth.tokenize.order import SequencePlan

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
    locus: str | None = None  # of a nucleotide: `chr1:1234 (-)`, its sequence, place there (from 0) and strand


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
    locus: str | None = None
    is_turned: bool = False  # read from the other strand: token and context are the reverse complement of what lies there


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

        # n_bytes and meta tell the place of a nucleotide.
        self._provenance = Provenance(self._store, self._texts, ("n_bytes", "meta") if self.tokenizer.complement else ())
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
        n_before = self._n_bytes(span.token_start, offset)
        n_bytes = self._n_bytes(offset, offset + 1)
        start = end = source_start = source_end = None
        if span.start is not None and span.source_start is not None:
            start, end = span.start + n_before, span.start + n_before + n_bytes
            source_start, source_end = span.source_start + n_before, span.source_start + n_before + n_bytes
            if span.kind == "edited":
                source_start, source_end = span.source_start, span.source_end
        document = self._document(span.shard, span.row) if span.shard is not None and span.row is not None else {}
        token, context = self.shown(offset, n_context)
        ranges = (start, end, source_start, source_end)
        locus = locus_of(dict(document.pop("meta", None) or {}), source_start, document.get("n_bytes"))
        return TracedToken(self.name, offset, token, context, span.kind, span.part, *ranges, document, locus)

    def shown(self, offset: int, n_context: int, is_turned: bool = False) -> tuple[str, str]:
        """The token at `offset`, and the same among those around it; where `is_turned`, as the other strand has them."""
        from tilth.tokenize.strands import other_strand

        ids = self.tokens.tokens
        parts = [ids[max(0, offset - n_context) : offset], ids[offset : offset + 1], ids[offset + 1 : offset + 1 + n_context]]
        if is_turned:
            parts = [other_strand(part, self.tokens.complement) for part in reversed(parts)]
        before, token, after = (self.tokenizer.decode(part) for part in parts)
        return token, f"{before}⟦{token}⟧{after}"

    def _document(self, shard: str, row: int) -> dict[str, Any]:
        from tilth.catalog.trace import documents_at

        if self._provenance is not None:
            return self._provenance.at(shard, row)
        extra = ("meta",) if self.tokenizer.complement else ()
        return dict(documents_at(self._store, self._texts, [(shard, row)], extra).to_pylist()[0])

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


def locus_of(meta: Mapping[str, str], source_start: int | None, n_bytes: int | None) -> str | None:
    """Where the byte `source_start` of a document lies on its sequence, by the `meta` that sources of DNA write.

    None for other documents, and for those that were joined from several places of a sequence.
    """
    if source_start is None or not {"sequence", "start", "end", "strand"} <= meta.keys():
        return None
    start, end = int(meta["start"]), int(meta["end"])
    if n_bytes is None or end - start != n_bytes:
        return None
    at = end - 1 - source_start if meta["strand"] == "-" else start + source_start
    return f"{meta['sequence']}:{at} ({meta['strand']})"


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
    sources = sources_of(named)
    check_place(named, step=step, sequence=sequence, position=position)
    shards = [TokenShard.of_run(project, source) for source in sources]
    order = order_of(named, sources, [shard.tokens for shard in shards])
    plan = plan_of(named, order, step, sequence)
    number, found = order.locate(step, sequence, _place_read(named, plan, position))
    shard = shards[number]
    at = shard.at(int(shard.tokens.offsets[found.document]) + found.offset, n_context)
    token, context = shard.shown(at.offset, n_context, plan.is_turned)
    names = ("kind", "part", "start", "end", "source_start", "source_end", "document", "locus")
    own = {name: getattr(at, name) for name in names}
    place = (run, sources[number].subset, step, sequence, position)
    return Traced(*place, token, context, found.epoch, found.offset, **own, is_turned=plan.is_turned)


def _place_read(run: Named, plan: SequencePlan, position: int) -> int:
    """The place, in what the plan takes from its documents, of the token that a model read at `position`.

    A run that tells documents apart reads them without the separator, one that is told apart begins with the class, and one
    that learns answers with the separator. Of a pair of answers a place is one in its document.
    Raises NotFoundError for the class and that separator, and behind a document's end.
    """
    objective, last = run.meta.get("objective"), sum(piece.length for piece in plan) - 1
    if objective in ("conditional", "answers") and position == 0:
        first = "its class" if objective == "conditional" else "a separator"
        raise NotFoundError(f"what the sequence begins with is {first}", "position", "Positions of text begin at 1.")
    if not plan.is_turned:
        return position - (objective in ("conditional", "answers"))
    place = last - position - (objective == "classify")
    if place < 0:
        raise NotFoundError(f"the document has no token {position}", "position", f"Positions go from 0 to {last - 1}.")
    return place


def check_place(run: Named, **place: int) -> None:
    """Raise NotFoundError where a run has no such step, sequence or position."""
    ends = {"step": run.meta["steps"], "sequence": run.meta["global_batch"], "position": run.meta["seq_len"]}
    for what, value in place.items():
        if not 0 <= value < ends[what]:
            fix = f"Its {what}s go from 0 to {ends[what] - 1}."
            raise NotFoundError(f"run `{run.name}` has no {what} {value}", f"run/{run.name}", fix)
