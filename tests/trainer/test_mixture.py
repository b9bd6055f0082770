"""A run on several token sets: what it reads, what it refuses, and what it says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tilth.errors import ContractError, RecipeError, StaleError, SubsetError, TrainError
from tilth.models.config import ModelConfig
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.mixture import Source, TokenMixture
from tilth.tokenize.shards import TokenSet, write_tokens
from tilth.trainer.config import TrainConfig
from tilth.trainer.data import micro_batches
from tilth.trainer.loop import TrainResult, train
from tilth.trainer.metrics import read_metrics

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch.utils.tensorboard", "ignore::DeprecationWarning:tensorboard"
)
Run = Callable[..., TrainResult]


@pytest.fixture
def run(model_config: ModelConfig, config: TrainConfig, tmp_path: Path) -> Run:
    def call(sources: Any, work_dir: str = "run", vocab_size: int = 290, validation: Any = None, **changed: Any) -> TrainResult:
        asked = TrainConfig.from_dict({**config.to_dict(), "steps": 4, "warmup_steps": 0, **changed})
        model = ModelConfig.from_dict({**model_config.to_dict(), "vocab_size": vocab_size})
        return train(model, asked, sources, validation, tmp_path / work_dir)

    return call


@pytest.fixture
def sources(tokens: Path, validation: Path, tmp_path: Path) -> list[Source]:
    """Two sets of one tokenizer, in folders that a test may damage."""
    for name, folder in (("web", tokens), ("code", validation)):
        shutil.copytree(folder, tmp_path / name)
    return [Source("web", tmp_path / "web", 3), Source("code", tmp_path / "code", 1)]


def test_a_batch_holds_sequences_of_both(sources: list[Source], config: TrainConfig) -> None:
    import torch

    mixture = TokenMixture.open(sources)
    assert mixture.names == ["code", "web"]
    order = mixture.order(config.seq_len, 40, seed=0)
    plans = order.sequences(0)
    assert {plan.source for plan in plans} == {0, 1}
    (batch,) = micro_batches(mixture, list(enumerate(plans)), None, torch.device("cpu"), lambda row, plan, number: row)
    by_name = {source.name: TokenSet.open(source.folder) for source in sources}
    for number, plan in enumerate(plans):
        wanted = by_name[mixture.names[plan.source]].sequence(plan)
        for found, one in zip(batch, wanted, strict=True):
            np.testing.assert_array_equal(found[number].numpy(), one)


def test_the_order_of_the_sources_plays_no_part(run: Run, sources: list[Source]) -> None:
    first = run(sources, "first", validation=sources)
    second = run(sources[::-1], "second", validation=sources[::-1])
    assert first.weights_digest == second.weights_digest
    assert first.validation_loss == second.validation_loss
    assert run([sources[0]], "alone").weights_digest != first.weights_digest
    assert run([sources[0]], "one").weights_digest == run(sources[0].folder, "path").weights_digest


def test_a_changed_source_is_refused_with_the_difference(run: Run, sources: list[Source], tokens: Path) -> None:
    run(sources)
    assert run([Source("web", sources[0].folder, 0.75), Source("code", sources[1].folder, 0.25)]).resumed_from == 4
    with pytest.raises(StaleError, match=r"inputs: tokens\.code\.share: 0\.25 -> 0\.333; tokens\.web\.share: 0\.75 -> 0\.667\n"):
        run([Source("web", sources[0].folder, 2), sources[1]])
    with pytest.raises(StaleError, match=r"tokens\.code: \{.*\} -> None"):
        run([sources[0]])
    with pytest.raises(StaleError) as caught:
        run([sources[0], Source("code", tokens, 1)])
    said = str(caught.value)
    assert re.search(r"tokens\.code\.n_documents: 2\d -> 300; tokens\.code\.n_tokens: \d+ -> \d+", said)
    assert "tokens.web" not in said


def test_a_source_that_runs_out_is_refused_before_the_first_step(run: Run, sources: list[Source], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"read `code` \d+\.\d+ times, and max_repeats is 1[\s\S]*Train at most \d+ steps"):
        run(sources, steps=200, max_repeats=1)
    assert read_metrics(tmp_path / "run") == []
    assert run(sources, steps=2, max_repeats=1).steps == 2
    for wrong in (0, -1, float("nan"), "often"):
        with pytest.raises(RecipeError, match="max_repeats"):
            run(sources, max_repeats=wrong)


def test_a_sequence_longer_than_all_tokens_goes_through_epochs_unless_it_may_not(run: Run, tmp_path: Path, tokens: Path) -> None:
    tokenizer = TokenSet.open(tokens).tokenizer()
    (tmp_path / "few").mkdir()
    write_tokens(tmp_path / "few", [(bytes(16), "web/0", 0, tokenizer.encode("soil seed rain"))], tokenizer)
    assert run(tmp_path / "few", "wrapped").steps == 4
    with pytest.raises(RecipeError, match=r"Train at most 0 steps"):
        run(tmp_path / "few", "refused", max_repeats=1)


def cut_short(folder: Path) -> None:
    (folder / "tokens.bin").write_bytes((folder / "tokens.bin").read_bytes()[:-3])


def other_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_bytes(train_bpe(["another text altogether"], 290))


def empty(folder: Path) -> None:
    tokenizer = TokenSet.open(folder).tokenizer()
    write_tokens(folder, [], tokenizer)


def retokenised(folder: Path) -> None:
    tokenizer = Tokenizer(train_bpe(["x y z " * 9], 290))
    write_tokens(folder, [(bytes(16), "web/0", 0, tokenizer.encode("x y z"))], tokenizer)


def other_beginning(folder: Path) -> None:
    described = json.loads((folder / "tokens.json").read_text())
    (folder / "tokens.json").write_text(json.dumps(described | {"begin_id": 7}))


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        (cut_short, ContractError, r"3 bytes too short: \d+ bytes where tokens.json promises"),
        (other_tokenizer, ContractError, "is not the tokenizer that made these tokens"),
        (empty, SubsetError, "`code` has no tokens to train on"),
        (retokenised, RecipeError, "`code` and `web` were made by different tokenizers"),
        (other_beginning, RecipeError, "texts of `code` and `web` end or begin with different tokens"),
        (shutil.rmtree, ContractError, "is missing"),
    ],
)
def test_what_is_wrong_with_a_source_is_said(
    run: Run, sources: list[Source], damage: Callable[[Path], None], error: type[Exception], said: str
) -> None:
    damage(sources[1].folder)
    with pytest.raises(error, match=said) as caught:
        run(sources)
    assert "code" in str(caught.value) or "web" in str(caught.value)
    assert "fix: " in str(caught.value) or error is ContractError


def test_a_vocabulary_that_the_model_does_not_have_is_refused(run: Run, sources: list[Source]) -> None:
    with pytest.raises(TrainError, match="the tokens use a vocabulary of 290, the model knows 120") as caught:
        run(sources, vocab_size=120)
    assert "Set the model's vocab_size to 290 or more" in str(caught.value)


def test_sources_need_names_of_their_own(sources: list[Source]) -> None:
    for wrong in ([], [sources[0], sources[0]]):
        with pytest.raises(RecipeError, match="the sources of a mixture are"):
            TokenMixture.open(wrong)
    assert json.loads(json.dumps(TokenMixture.open(sources).identity()))["web"]["share"] == 0.75
