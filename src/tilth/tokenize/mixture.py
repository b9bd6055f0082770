"""The token sets of a run and their weights: one set, or a mixture that was made by one tokenizer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tilth.errors import RecipeError, SubsetError
from tilth.tokenize.mixed_order import BLOCK, MixedOrder, sequences_of_block
from tilth.tokenize.order import SequencePlan
from tilth.tokenize.shards import TokenSet


@dataclass(frozen=True)
class Source:
    """A token set in the folder `folder` that has `weight` (above 0, of the sum of all) of the tokens that a run reads."""

    name: str
    folder: Path
    weight: float = 1.0


@dataclass(frozen=True)
class TokenMixture:
    """Open token sets in the order of their names, so that the order of a run does not follow how they were written down."""

    sources: tuple[Source, ...]
    sets: tuple[TokenSet, ...]

    @classmethod
    def open(cls, sources: Path | Sequence[Source]) -> TokenMixture:
        """Map the folders; a path is a mixture of one.

        Raises RecipeError (no source, two of one name, different tokenizers), SubsetError (one without tokens), and
        ContractError for a damaged folder.
        """
        given = [Source("train", Path(sources))] if isinstance(sources, str | Path) else list(sources)
        ordered = tuple(sorted(given, key=lambda source: source.name))
        if not ordered or len({source.name for source in ordered}) < len(ordered):
            names = [source.name for source in ordered]
            raise RecipeError(f"the sources of a mixture are {names}", fix="Give at least one, each with a name of its own.")
        sets = tuple(TokenSet.open(source.folder) for source in ordered)
        for source, tokens in zip(ordered, sets, strict=True):
            if tokens.n_tokens == tokens.n_documents:  # nothing but separators
                raise SubsetError(f"`{source.name}` has no tokens to train on", str(source.folder), "Choose one that holds text.")
            ends = {(one.separator_id, one.begin_id) for one in (tokens, sets[0])}
            if tokens.tokenizer_digest != sets[0].tokenizer_digest or len(ends) > 1:
                raise RecipeError(
                    f"`{ordered[0].name}` and `{source.name}` were made by different tokenizers: an id would mean two things"
                    if len(ends) == 1
                    else f"texts of `{ordered[0].name}` and `{source.name}` end or begin with different tokens",
                    where=str(source.folder),
                    fix="Pick both from one corpus, or build the second with the tokenizer of the first.",
                )
        return cls(ordered, sets)

    @property
    def folder(self) -> Path:
        """That of the first set: all have the same tokenizer.json."""
        return self.sets[0].folder

    @property
    def vocab_size(self) -> int:
        """Of the tokenizer that all share."""
        return self.sets[0].vocab_size

    @property
    def tokenizer_digest(self) -> str:
        """Of the tokenizer.json that all share."""
        return self.sets[0].tokenizer_digest

    @property
    def names(self) -> list[str]:
        """The sources' names, sorted: `SequencePlan.source` counts along them."""
        return [source.name for source in self.sources]

    def order(self, seq_len: int, global_batch: int, seed: int, whole_documents: bool = False) -> MixedOrder:
        """The order in which a run with these settings reads the sets."""
        lengths = [tokens.lengths for tokens in self.sets]
        return MixedOrder(lengths, [source.weight for source in self.sources], seq_len, global_batch, seed, whole_documents)

    def sequence(self, plan: SequencePlan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What a model reads for `plan`, as `TokenSet.sequence`."""
        return self.sets[plan.source].sequence(plan)

    def identity(self) -> dict[str, Any]:
        """What a resumed run must share, a mapping for each source by its name; `share` is that of the sequences."""
        counts = sequences_of_block([source.weight for source in self.sources])
        return {
            source.name: {
                "digest": tokens.digest[:16],
                "n_documents": tokens.n_documents,
                "n_tokens": tokens.n_tokens,
                "share": count / BLOCK,
            }
            for source, tokens, count in zip(self.sources, self.sets, counts, strict=True)
        }


def check_repeats(order: MixedOrder, names: Sequence[str], n_steps: int, max_repeats: float) -> None:
    """Raise RecipeError when `n_steps` read a source more often than `max_repeats` times; it says how many steps do not."""
    possible = order.n_steps_within(max_repeats)
    if n_steps <= possible:
        return
    epochs = order.epochs(n_steps)
    most = int(np.argmax(epochs))
    longest = f"at most {possible:,} steps" if math.isfinite(possible) else "fewer steps"
    raise RecipeError(
        f"{n_steps:,} steps read `{names[most]}` {epochs[most]:.2f} times, and max_repeats is {max_repeats:g}",
        where=f"{int(order.orders[most].n_tokens):,} tokens of `{names[most]}`",
        fix=f"Train {longest}, give that source a smaller weight or more tokens, or raise max_repeats.",
    )
