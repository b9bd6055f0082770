"""What a model is asked: the masks are those of the papers, a pure function, and the same for any number of processes."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from torch.nn.functional import cross_entropy

from tilth.errors import RecipeError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.tokenize.bpe import Tokenizer
from tilth.tokenize.mixture import TokenMixture
from tilth.tokenize.order import RunOrder, SequencePlan
from tilth.tokenize.shards import TokenSet, write_tokens
from tilth.trainer.answers import Answers
from tilth.trainer.classification import Classify, Conditional
from tilth.trainer.config import OBJECTIVES, OF_DOCUMENTS, TrainConfig
from tilth.trainer.distill.alignment import Alignment
from tilth.trainer.distill.distillation import Distillation
from tilth.trainer.distill.orientation import Orientation
from tilth.trainer.loop import TrainResult
from tilth.trainer.metrics import read_metrics
from tilth.trainer.next_token import NextToken
from tilth.trainer.objectives import Masked, Objective, make_objective
from tilth.trainer.preferences import Preferences

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch.utils.tensorboard",
    "ignore::DeprecationWarning:tensorboard",
    "ignore:torch.distributed is disabled",
)
SPECIAL = np.array([0, 5, 9])
OBJECTIVE = Masked(seed=3, mask_id=5, special_ids=SPECIAL, vocab_size=40)
PLAN = SequencePlan((), ())


def test_the_list_of_objectives_on_whole_documents_says_what_they_say_themselves() -> None:
    """The pipeline reads the list: it tells the order of a run from its name alone."""
    kinds: dict[str, type[Objective]] = {
        "next_token": NextToken, "masked": Masked, "classify": Classify, "conditional": Conditional, "answers": Answers,
        "preferences": Preferences, "orientation": Orientation, "alignment": Alignment, "distillation": Distillation,
    }  # fmt: skip
    assert set(kinds) == set(OBJECTIVES)
    assert {name for name, kind in kinds.items() if kind.reads_whole_documents} == set(OF_DOCUMENTS)


def row(n_tokens: int = 512) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ids = np.random.default_rng(0).integers(0, 40, n_tokens)
    return ids, np.full(n_tokens, 7), np.zeros(n_tokens, dtype=np.int32)


@pytest.fixture(scope="session")
def dna_tokens(tokens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documents of `tokens`, with a vocabulary that has a [MASK]."""
    old = TokenSet.open(tokens)
    library = tokenizers.Tokenizer.from_str((tokens / "tokenizer.json").read_text())
    library.add_special_tokens(["[MASK]"])
    folder = tmp_path_factory.mktemp("sets") / "with a mask"
    folder.mkdir()
    documents = ((i.to_bytes(16, "big"), "web/0", i, old.document(i)[:-1]) for i in range(old.n_documents))
    write_tokens(folder, documents, Tokenizer(library.to_str().encode()))
    return folder


@pytest.fixture(scope="session")
def both_ways(model_config: ModelConfig) -> ModelConfig:
    return ModelConfig.from_dict({**model_config.to_dict(), "vocab_size": 291, "bidirectional": True})


def test_the_shares_are_the_published_ones() -> None:
    ids, _, segments = row()
    may_be_asked = ~np.isin(ids, SPECIAL)
    n_asked = n_masked = n_kept = 0
    drawn = []
    for sequence in range(400):
        shown, targets, same = OBJECTIVE.arrange(row(), PLAN, 0, sequence)
        asked = targets != -100
        assert same is not ids
        np.testing.assert_array_equal(same, segments)
        np.testing.assert_array_equal(targets[asked], ids[asked])
        np.testing.assert_array_equal(shown[~asked], ids[~asked])
        assert not (asked & ~may_be_asked).any()
        n_asked += asked.sum()
        n_masked += (shown[asked] == 5).sum()
        n_kept += (shown[asked] == ids[asked]).sum()
        drawn.append(shown[asked & (shown != 5) & (shown != ids)])
    n_positions = 400 * may_be_asked.sum()
    # four standard deviations of a binomial; a random token is [MASK], or the old one, once in 40
    for found, n, share in ((n_asked, n_positions, 0.15), (n_masked, n_asked, 0.8025), (n_kept, n_asked, 0.1025)):
        assert abs(found - n * share) < 4 * np.sqrt(n * share * (1 - share))
    counts = np.bincount(np.concatenate(drawn), minlength=40)
    assert counts[5] == 0
    assert counts[0] > 0  # a special token, as in Caduceus
    others = np.delete(counts, 5)
    assert ((others - others.mean()) ** 2 / others.mean()).sum() < 38 + 4 * np.sqrt(2 * 38)  # chi-square


def test_a_mask_depends_on_its_place_alone() -> None:
    def mask(objective: Masked, step: int, sequence: int, n_tokens: int = 512) -> np.ndarray:
        return objective.arrange(row(n_tokens), PLAN, step, sequence)[1]

    first = mask(OBJECTIVE, 4, 2)
    np.testing.assert_array_equal(mask(OBJECTIVE, 4, 2), first)
    other_seed = Masked(4, 5, SPECIAL, 40)
    for other in (mask(OBJECTIVE, 5, 2), mask(OBJECTIVE, 4, 3), mask(OBJECTIVE, 2, 4), mask(other_seed, 4, 2)):
        assert (first != other).any()
        # independent: as many common positions as by chance
        assert ((first != -100) & (other != -100)).mean() < 0.05


def test_the_loss_is_the_mean_over_the_masked_tokens_of_the_batch(
    run: Callable[..., TrainResult], dna_tokens: Path, both_ways: ModelConfig, config: TrainConfig
) -> None:
    result = run(
        tokens=dna_tokens,
        model_config=both_ways,
        objective="masked",
        steps=1,
        warmup_steps=0,
        micro_batch=1,
        validation=dna_tokens,
        eval_batches=1,
    )
    held = TokenMixture.open(dna_tokens)
    masked = TrainConfig.from_dict({**config.to_dict(), "objective": "masked"})
    objective = make_objective(masked, both_ways, held)
    assert isinstance(objective, Masked)
    assert objective.special_ids.tolist() == sorted([held.sets[0].separator_id, 290])
    torch.manual_seed(0)
    model = Decoder(both_ways)
    rows = [
        objective.arrange(held.sequence(plan), plan, 0, i)
        for i, plan in enumerate(RunOrder(held.sets[0].lengths, 48, 4, 0).sequences(0))
    ]
    ids, targets, segments = (torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True))
    assert 5 < (ids == 290).sum() < 48
    wanted = cross_entropy(model(ids, segments).flatten(0, 1), targets.flatten(), ignore_index=-100)
    line = read_metrics(result.folder)[0]
    assert line["n_tokens"] == (targets != -100).sum()
    assert line["loss"] == pytest.approx(wanted.item(), rel=1e-6)
    assert line["start_validation_loss"] == pytest.approx(wanted.item(), rel=1e-6)  # the same batch of the same set


def test_two_processes_mask_as_one(
    run_tiny: Callable[..., subprocess.Popen[str]],
    dna_tokens: Path,
    both_ways: ModelConfig,
    setup: dict[str, Any],
    tmp_path: Path,
) -> None:
    options = {
        "tokens": str(dna_tokens),
        "validation": str(dna_tokens),
        "model": both_ways.to_dict(),
        "train": {**setup["train"], "objective": "masked", "steps": 6, "eval_every": 0, "micro_batch": 1},
    }
    curves = []
    for name, launcher in (("one", ()), ("two", ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"))):
        process = run_tiny(tmp_path / name, launcher=launcher, **options)
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        curves.append(read_metrics(tmp_path / name))
    assert [line["n_tokens"] for line in curves[0]] == [line["n_tokens"] for line in curves[1]]
    for name in ("loss", "grad_norm"):
        np.testing.assert_allclose(*([line[name] for line in curve] for curve in curves), rtol=1e-5)
    assert curves[0][-1]["validation_loss"] == pytest.approx(curves[1][-1]["validation_loss"], rel=1e-5)


def test_what_does_not_fit_is_refused(
    run: Callable[..., TrainResult], dna_tokens: Path, tokens: Path, model_config: ModelConfig, both_ways: ModelConfig
) -> None:
    with pytest.raises(RecipeError, match="objective is masked, but the model reads only what is to the left"):
        run(
            objective="masked",
            tokens=dna_tokens,
            model_config=ModelConfig.from_dict({**model_config.to_dict(), "vocab_size": 291}),
        )
    with pytest.raises(RecipeError, match="objective is next_token, but the model reads both ways"):
        run(tokens=dna_tokens, model_config=both_ways)
    with pytest.raises(RecipeError, match=r"no special token \[MASK\]"):
        run(objective="masked", tokens=tokens, model_config=both_ways)
