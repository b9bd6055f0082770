"""What a run reads: one subset, or several with weights; and, from its name alone, the order in which it read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tilth.artifacts import Artifact, Named, Part, Store
from tilth.errors import NotFoundError, RecipeError, SubsetError
from tilth.pipeline.tokenise import SPLITS, tokenise_subset
from tilth.trainer.config import OF_DOCUMENTS

if TYPE_CHECKING:
    from tilth.tokenize.mixed_order import MixedOrder
    from tilth.tokenize.mixture import Source
    from tilth.tokenize.order import SequencePlan
    from tilth.tokenize.shards import TokenSet


@dataclass(frozen=True)
class RunSource:
    """A subset that a run reads; `named` holds the parts of its tokens and of its texts, and nothing of other sources."""

    subset: str
    weight: float
    corpus: str  # that it was picked from
    named: Named


@dataclass(frozen=True)
class RunData:
    """The sources of a run that is to be made, in the order of their names."""

    sources: tuple[RunSource, ...]

    @property
    def label(self) -> str:
        """`clean`, or `code=0.2,web=0.8` with weights that add up to 1."""
        if len(self.sources) == 1:
            return self.sources[0].subset
        total = sum(source.weight for source in self.sources)
        return ",".join(f"{source.subset}={source.weight / total:.4g}" for source in self.sources)

    @property
    def is_mixed(self) -> bool:
        """Whether there is more than one source."""
        return len(self.sources) > 1

    def artifacts(self, store: Store, split: str) -> dict[str, Artifact]:
        """The tokens of a split by subset; those that have none of it are left out."""
        parts = ((source.subset, source.named.of(f"tokens.{split}")) for source in self.sources)
        return {subset: store.artifact(own[0]) for subset, own in parts if own}

    def token_sources(self, store: Store, split: str) -> list[Source]:
        """What the trainer is given."""
        from tilth.tokenize.mixture import Source

        tokens, weights = self.artifacts(store, split), {source.subset: source.weight for source in self.sources}
        return [Source(subset, artifact.path, weights[subset]) for subset, artifact in tokens.items()]

    def sequences_of_block(self) -> dict[str, int]:
        """What of the weights the order of a run depends on. Raises RecipeError for weights that cannot be met."""
        from tilth.tokenize.mixed_order import sequences_of_block

        counts = sequences_of_block([source.weight for source in self.sources])
        return {source.subset: count for source, count in zip(self.sources, counts, strict=True)}

    @property
    def parts(self) -> list[Part]:
        """The parts of all sources, each once."""
        return list(dict.fromkeys(part for source in self.sources for part in source.named.parts))

    def meta(self) -> dict[str, Any]:
        """What the name of the run says of its sources."""
        corpora = dict.fromkeys(source.corpus for source in self.sources)
        told: dict[str, Any] = {"subset": self.label, "tokens": self.label, "corpus": ",".join(corpora)}
        if not self.is_mixed:
            return told | {"subset_digest": self.sources[0].named.meta["subset_digest"]}
        sources = {
            source.subset: {
                "weight": source.weight,
                "subset_digest": source.named.meta["subset_digest"],
                "corpus": source.corpus,
                "parts": [part.key for part in source.named.parts],
            }
            for source in self.sources
        }
        return told | {"sources": sources}


def run_data(store: Store, subset: str | Mapping[str, float]) -> RunData:
    """Tokenise what a recipe names. Raises NotFoundError, SubsetError (nothing to train on), RecipeError (tokenizers differ)."""
    weights = {subset: 1.0} if isinstance(subset, str) else dict(subset)
    subsets = {name: store.get_named("subset", name) for name in sorted(weights)}
    for named in subsets.values():
        if not named.meta.get("n_train", 1):
            fix = "Pick it again with a smaller `--validation`, or another `--seed`."
            raise SubsetError("all documents of the subset are for validation", f"subset/{named.name}", fix)
    _check_one_tokenizer(list(subsets.values()))
    return RunData(tuple(_source(store, named, weights[name]) for name, named in subsets.items()))


def _source(store: Store, subset: Named, weight: float) -> RunSource:
    tokens = tokenise_subset(store, subset)
    # All that a trace needs belongs to the run: its subset's name may stand for something else tomorrow.
    named = Named("tokens", subset.name, (*tokens.parts, *subset.parts), {"subset_digest": subset.digest})
    return RunSource(subset.name, weight, subset.meta["corpus"], named)


def _check_one_tokenizer(subsets: Sequence[Named]) -> None:
    first, *others = subsets
    for other in others:
        if [part.digest for part in other.of("tokenizer")] != [part.digest for part in first.of("tokenizer")]:
            raise RecipeError(
                f"subsets `{first.name}` and `{other.name}` have different tokenizers: an id would mean two things",
                where=f"subset/{other.name}",
                fix="Pick both from one corpus.",
            )


def sources_of(run: Named) -> list[RunSource]:
    """The sources of a finished run, in the order of their names. Raises NotFoundError for a run that was imported."""
    if "imported" in run.meta:
        what = f"run `{run.name}` was imported: what it was trained on is not here"
        raise NotFoundError(what, run.label, "Ask a run that was trained here.")
    mixed = run.meta.get("sources")
    if not mixed:
        return [RunSource(run.meta["subset"], 1.0, run.meta["corpus"], run)]
    return [RunSource(name, own["weight"], own["corpus"], _restricted(run, own["parts"])) for name, own in sorted(mixed.items())]


def _restricted(run: Named, keys: Iterable[str]) -> Named:
    own = set(keys)
    return replace(run, parts=tuple(part for part in run.parts if part.key in own))


def order_of(run: Named, sources: Sequence[RunSource], sets: Sequence[TokenSet]) -> MixedOrder:
    """The order in which a finished run read `sources`, whose token sets are `sets`."""
    from tilth.tokenize.mixed_order import MixedOrder

    meta, weights = run.meta, [source.weight for source in sources]
    lengths, reads_documents = [tokens.lengths for tokens in sets], reads_whole_documents(run)
    return MixedOrder(lengths, weights, meta["seq_len"], meta["global_batch"], meta["seed"], reads_documents)


def reads_whole_documents(run: Named) -> bool:
    """Whether a sequence of the run is a document, of which it learnt the class or the answer, instead of a window."""
    return run.meta.get("objective") in OF_DOCUMENTS


def plan_of(run: Named, order: MixedOrder, step: int, sequence: int) -> SequencePlan:
    """What a finished run read as a sequence, and from which strand."""
    from tilth.tokenize.strands import mark_turned

    meta, plans = run.meta, [order.sequence(step, sequence)]
    return mark_turned(plans, meta.get("reverse_complement", 0.0), meta["seed"], step, sequence)[0]


def token_inputs(store: Store, data: RunData, *, with_names: bool) -> dict[str, str]:
    """The digests of what a run reads, for its key; `with_names` where what it makes depends on the names of subsets."""
    found = {}
    for split in SPLITS:
        for subset, artifact in data.artifacts(store, split).items():
            found[f"tokens.{split} {subset}" if with_names else f"tokens.{split}"] = artifact.digest
    return found
