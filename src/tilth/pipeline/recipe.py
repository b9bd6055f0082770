"""What a recipe describes. A recipe is a Python function that returns one of these; it never runs work itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tilth.errors import RecipeError

if TYPE_CHECKING:
    from tilth.dedup.parameters import MinHashParameters

# Families that need nothing but the text; `quality` and `tokens` follow from the recipe's models.
DEFAULT_SIGNALS = ("natural_language", "repetition", "language", "code_shape")


@dataclass(frozen=True)
class Bpe:
    """A byte-level BPE tokenizer to train on the corpus: `max_bytes` of its text, taken evenly from all shards."""

    vocab_size: int = 4096
    max_bytes: int = 4_000_000


@dataclass(frozen=True)
class QualityModel:
    """A fastText classifier: documents of source `positive` against those of source `negative`."""

    positive: str
    negative: str
    max_documents: int = 2_000  # of each class
    seed: int = 0


@dataclass(frozen=True)
class Corpus:
    """Sources to read, signals to compute, duplicates to mark. Nothing is dropped: curating is SQL, later."""

    sources: Sequence[Any]
    signals: Sequence[str] = DEFAULT_SIGNALS
    near_duplicates: MinHashParameters | None = None
    tokenizer: Bpe | None = field(default_factory=Bpe)
    quality: QualityModel | None = None

    def __post_init__(self) -> None:
        names = [source.name for source in self.sources]
        if not names:
            raise RecipeError("a corpus needs at least one source", fix="Add one: `sources=[Folder('texts', 'path/to/texts')]`.")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise RecipeError(f"two sources are named `{twice[0]}`", fix="Give each source a name of its own.")
        for role in (self.quality.positive, self.quality.negative) if self.quality else ():
            if role not in names:
                raise RecipeError(f"the quality model wants a source `{role}`", fix=f"Sources here: {', '.join(names)}.")


@dataclass(frozen=True)
class Train:
    """A training run on a subset: a new `model`, or the weights of the run `initial` to begin from.

    `model` holds the settings of `tilth.models.ModelConfig` but `vocab_size`, which the tokenizer gives;
    `settings` holds those of `tilth.trainer.config.TrainConfig`.
    """

    subset: str
    settings: Mapping[str, Any]
    model: Mapping[str, Any] | None = None
    initial: str | None = None

    def __post_init__(self) -> None:
        if (self.model is None) == (self.initial is None):
            raise RecipeError(
                "a run needs either `model` settings or an `initial` run to begin from", fix="Give exactly one of them."
            )
