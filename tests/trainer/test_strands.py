"""A share of the sequences of a run is read from the other strand: what the model sees, and the same after an interruption."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tilth.errors import ContractError, RecipeError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.tokenize.bpe import Tokenizer
from tilth.tokenize.nucleotides import nucleotide_tokenizer
from tilth.tokenize.order import RunOrder
from tilth.tokenize.shards import TokenSet, write_tokens
from tilth.tokenize.strands import is_turned
from tilth.trainer.config import TrainConfig
from tilth.trainer.loop import train
from tilth.trainer.metrics import read_metrics

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch.utils.tensorboard", "ignore::DeprecationWarning:tensorboard"
)
MODEL = ModelConfig(vocab_size=12, d_model=32, layers="MA", n_heads=2, d_ff=64, d_state=8, ssm_head_dim=16, chunk_size=16)
CONFIG = TrainConfig(
    steps=4, seq_len=24, global_batch=6, micro_batch=3, lr=3e-3, reverse_complement=0.5, checkpoint_every=2, device="cpu"
)
PAIRS = {7: 10, 10: 7, 8: 9, 9: 8}


@pytest.fixture(scope="module")
def dna(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents that a strand matters to: many A, few T."""
    folder, rng, tokenizer = tmp_path_factory.mktemp("dna"), random.Random(1), Tokenizer(nucleotide_tokenizer())
    texts = ["".join(rng.choices("ACGTN", weights=(8, 4, 2, 1, 1), k=rng.randrange(3, 60))) for _ in range(60)]
    write_tokens(folder, [(bytes([i]) * 16, "dna/0", i, tokenizer.encode(text)) for i, text in enumerate(texts)], tokenizer)
    return folder


def test_the_first_loss_is_that_of_the_turned_batch(dna: Path, tmp_path: Path) -> None:
    train(MODEL, CONFIG, dna, None, tmp_path / "run")
    tokens, order = TokenSet.open(dna), RunOrder(TokenSet.open(dna).lengths, CONFIG.seq_len, CONFIG.global_batch, CONFIG.seed)
    rows = []
    turned = [is_turned(0.5, CONFIG.seed, 0, sequence) for sequence in range(CONFIG.global_batch)]
    assert {*turned} == {True, False}
    for sequence, is_other in enumerate(turned):
        read = [order.locate(0, sequence, position) for position in range(CONFIG.seq_len + 1)]
        ids = [int(tokens.tokens[int(tokens.offsets[at.document]) + at.offset]) for at in read]
        if is_other:
            ids = [PAIRS.get(one, one) for one in reversed(ids)]
        segments = np.cumsum([one == tokens.separator_id for one in ids[:-1]])  # with which a document begins, on both strands
        rows.append((np.array(ids[:-1]), np.array(ids[1:]), segments.astype(np.int32)))
    torch.manual_seed(CONFIG.seed)
    batch = [torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)]
    loss, n_targets = Decoder(MODEL).loss(*batch)
    first = read_metrics(tmp_path / "run")[0]["loss"]
    assert first == pytest.approx(float(loss.detach()) / int(n_targets), rel=1e-6)


def test_an_interrupted_run_reads_the_same_strands(dna: Path, tmp_path: Path) -> None:
    whole = train(MODEL, CONFIG, dna, None, tmp_path / "whole")

    def stop(line: dict[str, Any]) -> None:
        if line["step"] == 2:
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        train(MODEL, CONFIG, dna, None, tmp_path / "cut", on_step=stop)
    resumed = train(MODEL, CONFIG, dna, None, tmp_path / "cut")
    assert resumed.resumed_from == 2
    assert resumed.weights_digest == whole.weights_digest
    straight = train(
        MODEL, TrainConfig.from_dict({**CONFIG.to_dict(), "reverse_complement": 0.0}), dna, None, tmp_path / "straight"
    )
    assert straight.weights_digest != whole.weights_digest


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan"), "half", True])
def test_a_share_that_cannot_be(share: Any) -> None:
    with pytest.raises(RecipeError, match="reverse_complement"):
        TrainConfig.from_dict({**CONFIG.to_dict(), "reverse_complement": share})


def test_words_have_no_other_strand(tokens: Path, model_config: ModelConfig, tmp_path: Path) -> None:
    config = TrainConfig.from_dict({**CONFIG.to_dict(), "reverse_complement": 1.0})
    with pytest.raises(ContractError, match="no nucleotides"):
        train(model_config, config, tokens, None, tmp_path / "run")
