"""What a run learns: from the tokens of a sequence to what the model reads, what it is asked, and its loss."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np
from torch import Tensor

from tilth.errors import RecipeError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.tokenize.mixture import TokenMixture
from tilth.tokenize.order import SequencePlan, hash_of, mix64
from tilth.tokenize.shards import IGNORED
from tilth.trainer.answers import Answers
from tilth.trainer.classification import Classify, Conditional
from tilth.trainer.config import OF_ANSWERS, OF_TEACHER, TrainConfig
from tilth.trainer.data import Batch, Row
from tilth.trainer.distill.alignment import Alignment
from tilth.trainer.distill.distillation import Distillation
from tilth.trainer.distill.orientation import Orientation
from tilth.trainer.distill.stored_logits import StoredLogits
from tilth.trainer.next_token import NextToken, OfTokens
from tilth.trainer.preferences import Preferences

MASK = "[MASK]"
ASKED, MASKED, RANDOM = 0.15, 0.8, 0.1  # shares of positions, and of those asked for (Devlin et al. 2019)


class Objective(Protocol):
    """All functions are pure: what is asked of a sequence depends on its place in the run, never on who reads it."""

    reads_whole_documents: ClassVar[bool]
    scores: ClassVar[tuple[str, ...]]  # what `score` tells

    def arrange(self, row: Row, plan: SequencePlan, step: int, sequence: int) -> Row:
        """The row (ids_T, targets_T, segments_T) of one sequence of a step as the model reads it; target -100: no loss."""
        ...

    def loss(self, model: Decoder, batch: Batch, each_BT: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Loss as (sum in fp32, number of targets), so that micro-batches and processes add up exactly.

        `each_BT`, where given, is filled with the loss of each target, 0 elsewhere.
        """
        ...

    def for_validation(self, tokens: TokenMixture) -> Objective:
        """The objective on `tokens`, the same whatever the seed of the run."""
        ...

    def score(self, model: Decoder, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """What an evaluation tells the mean of, "loss" first, as sums over the targets, and their number."""
        ...


def make_objective(
    config: TrainConfig, model_config: ModelConfig, tokens: TokenMixture, teacher: Decoder | StoredLogits | None = None
) -> Objective:
    """The objective of a run. Raises RecipeError where the model, the vocabulary or the teacher does not fit it."""
    if config.objective == "classify":
        _check_classes(model_config, tokens)
        return Classify.of(config.seq_len, tokens)
    if config.objective == "conditional":
        _check_labels(model_config, tokens)
        return replace(Conditional.of(config.seq_len, tokens), n_tokens=tokens.vocab_size)
    is_masked = config.objective == "masked"
    if is_masked != model_config.bidirectional:
        reads = "both ways" if model_config.bidirectional else "only what is to the left"
        raise RecipeError(
            f"the objective is {config.objective}, but the model reads {reads}",
            where="TrainConfig.objective",
            fix="Use objective='masked' with bidirectional=True, and objective='next_token' with bidirectional=False.",
        )
    if config.objective in OF_ANSWERS:
        return _of_answers(config, tokens, teacher)
    if config.objective in OF_TEACHER:
        return _of_teacher(config, teacher)
    if config.objective == "next_token":
        return NextToken()
    mask_id, special_ids = _special_ids(tokens)
    return Masked(config.seed, mask_id, special_ids, tokens.vocab_size)


def _of_answers(config: TrainConfig, tokens: TokenMixture, reference: Decoder | StoredLogits | None) -> Objective:
    if config.reverse_complement:
        raise RecipeError("an answer has no other strand", "TrainConfig.reverse_complement", "Leave it out.")
    if config.objective == "answers":
        return Answers.of(config.seq_len, config.answers_after, tokens)
    if not isinstance(reference, Decoder):
        fix = "Begin the run with the model that answers already: `Train(initial=...)`."
        raise RecipeError("objective='preferences' needs a reference model", "TrainConfig.objective", fix)
    if config.tensor_parallel > 1:
        fix = "Use tensor_parallel=1; `shard` makes room, too."
        raise RecipeError("the reference of objective='preferences' is not cut into slices", "TrainConfig.tensor_parallel", fix)
    marks = config.answers_after, config.rejected_after
    return Preferences.of(config.seq_len, marks, config.beta, reference, tokens)


def _of_teacher(config: TrainConfig, teacher: Decoder | StoredLogits | None) -> Objective:
    if teacher is None:
        fix = "Give the teacher: a recipe that returns Distill(...), with `tilth distill`."
        raise RecipeError(f"objective='{config.objective}' needs a teacher", "TrainConfig.objective", fix)
    if config.objective == "distillation":
        return Distillation.of(config, teacher)
    if isinstance(teacher, StoredLogits):
        fix = "Give the teacher itself."
        raise RecipeError(f"objective='{config.objective}' reads a teacher's layers, not stored logits", "TrainConfig", fix)
    return Orientation(teacher) if config.objective == "orientation" else Alignment(teacher)


@dataclass(frozen=True)
class Masked(OfTokens):
    """Predict 15 % of the tokens: 80 % of those are read as [MASK], 10 % as a random token, 10 % as they are.

    The random token is drawn from the whole vocabulary, specials included, as Caduceus did (Schiff et al. 2024).
    Separators and special tokens are never asked for. No generator, so no state: each draw is a hash of
    (seed, step, sequence, position).
    """

    seed: int
    mask_id: int
    special_ids: np.ndarray
    vocab_size: int

    def for_validation(self, tokens: TokenMixture) -> Masked:
        """The same tokens are asked for in every run."""
        return replace(self, seed=0)

    def arrange(self, row: Row, plan: SequencePlan, step: int, sequence: int) -> Row:
        """Masked ids; the targets are the tokens that were asked for."""
        ids_T, _, segments_T = row
        draws_T = _hash(self.seed, step, sequence, len(ids_T))
        asked_T = (_share(draws_T) < ASKED) & ~np.isin(ids_T, self.special_ids)
        kind_T = _share(mix64(draws_T + np.uint64(1)))
        random_T = (mix64(draws_T + np.uint64(2)) % np.uint64(self.vocab_size)).astype(np.int64)
        shown_T = np.where(kind_T < MASKED, self.mask_id, np.where(kind_T < MASKED + RANDOM, random_T, ids_T))
        return np.where(asked_T, shown_T, ids_T), np.where(asked_T, ids_T, IGNORED), segments_T


def _check_classes(model_config: ModelConfig, tokens: TokenMixture) -> None:
    if model_config.n_classes != len(tokens.names) or len(tokens.names) < 2:
        raise RecipeError(
            f"the model has {model_config.n_classes} classes, the run {len(tokens.names)} subsets ({', '.join(tokens.names)})",
            where="TrainConfig.objective",
            fix="Give one subset for each class, two at least, and n_classes=their number.",
        )


def _check_labels(model_config: ModelConfig, tokens: TokenMixture) -> None:
    n_wanted = tokens.vocab_size + len(tokens.names)
    if model_config.bidirectional or len(tokens.names) < 2 or model_config.vocab_size < n_wanted:
        raise RecipeError(
            f"objective='conditional' reads {len(tokens.names)} subsets as classes, the model has {model_config.vocab_size} ids",
            where="TrainConfig.objective",
            fix=f"Give two subsets or more, a model that reads one way, and vocab_size={n_wanted}: an id for each class.",
        )


def _hash(seed: int, step: int, sequence: int, n_positions: int) -> np.ndarray:
    """One number (n_positions,) uint64 for each position."""
    key = hash_of(seed, step, sequence)
    return mix64(key + np.arange(n_positions, dtype=np.uint64))


def _share(numbers: np.ndarray) -> np.ndarray:
    """uint64 to float64, uniform in 0 <= x < 1: the upper 53 bits."""
    return (numbers >> np.uint64(11)) * 2.0**-53


def _special_ids(tokens: TokenMixture) -> tuple[int, np.ndarray]:
    """The id of [MASK], and the ids that are never asked for."""
    described = json.loads((tokens.folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in described.get("added_tokens", ()) if token.get("special")}
    if MASK not in added:
        raise RecipeError(
            f"the vocabulary has no special token {MASK}, which objective='masked' needs",
            where=str(tokens.folder / "tokenizer.json"),
            fix="Tokenise the subset with a tokenizer that has one, such as that of nucleotides.",
        )
    return added[MASK], np.array(sorted({tokens.sets[0].separator_id, *added.values()}))
