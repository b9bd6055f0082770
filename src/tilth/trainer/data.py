"""Token shards to tensors: the batch of a step is what the order of the run says, whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tilth.errors import TrainError
from tilth.models.config import ModelConfig
from tilth.tokenize.mixture import Source, TokenMixture
from tilth.tokenize.order import SequencePlan
from tilth.tokenize.shards import IGNORED

# ids_T, targets_T, segments_T of one sequence, and behind them what its objective alone reads
Row = tuple[np.ndarray, ...]
# ids_BT int64, targets_BT int64 (-100: no loss), segments_BT int32, and the objective's own
Batch = tuple[Tensor, ...]


def open_tokens(sources: Path | Sequence[Source], model_config: ModelConfig) -> TokenMixture:
    """The token sets of a run, as `TokenMixture.open`. Raises TrainError when the model cannot read them."""
    tokens = TokenMixture.open(sources)
    if tokens.vocab_size > model_config.vocab_size:
        raise TrainError(
            f"the tokens use a vocabulary of {tokens.vocab_size}, the model knows {model_config.vocab_size}",
            where=str(tokens.folder),
            fix=f"Set the model's vocab_size to {tokens.vocab_size} or more.",
        )
    return tokens


def micro_batches(
    tokens: TokenMixture,
    plans: Sequence[tuple[int, SequencePlan]],
    size: int | None,
    device: torch.device,
    arrange: Callable[[Row, SequencePlan, int], Row],
) -> Iterator[Batch]:
    """The numbered sequences of `plans`, `size` at a time (None = all at once), each as `arrange(row, plan, number)` makes it."""
    size = size or max(1, len(plans))
    for start in range(0, len(plans), size):
        rows = [arrange(tokens.sequence(plan), plan, number) for number, plan in plans[start : start + size]]
        yield tuple(torch.from_numpy(np.stack(column)).to(device) for column in zip(*rows, strict=True))


def count_targets(batches: Iterable[Batch]) -> int:
    """The targets that a loss is taken over."""
    return sum(int((targets_BT != IGNORED).sum()) for _, targets_BT, *_ in batches)


def count_inputs(batches: Iterable[Batch], of_documents: bool) -> int:
    """The tokens that a model reads; of documents each alone in its row without the padding."""
    return sum(int((segments_BT == 0).sum()) if of_documents else ids_BT.numel() for ids_BT, _, segments_BT, *_ in batches)


def require_targets(n_targets: float, where: str) -> int:
    """`n_targets`; raises TrainError when there are none, since a mean over nothing is no loss."""
    if n_targets == 0:
        raise TrainError(
            "no token of the batch is asked for: its documents are empty, or none was masked",
            where=where,
            fix="Leave out empty documents, or use longer sequences.",
        )
    return int(n_targets)
