"""Verifiers: probabilities as one document at a time gives them, whatever is read together; what is no verifier is refused."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tilth.errors import RecipeError
from tilth.evaluate.verifier import Verifier
from tilth.models.decoder import Decoder
from tilth.tokenize.bpe import SEPARATOR, Tokenizer, train_bpe
from tilth.tokenize.order import SequencePlan
from tilth.trainer.classification import Classify


@pytest.fixture(autouse=True)
def _repeatable(one_thread: None, fixed_seed: None) -> None:
    pass


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_bpe(["Question: 1 + 2\nAnswer: #### 3\n" * 3], 270), SEPARATOR)


@pytest.fixture
def model(make_model: Callable[..., Decoder], tokenizer: Tokenizer) -> Decoder:
    model = make_model("MA", vocab_size=tokenizer.vocab_size, n_classes=2).eval()
    with torch.no_grad():
        model.classes.weight.normal_()  # type: ignore[union-attr]
    return model


def texts(n: int) -> list[str]:
    chance = random.Random(3)
    return ["".join(chance.choice("0123456789+= \n#") for _ in range(chance.randrange(1, 60))) for _ in range(n)]


def alone(model: Decoder, tokenizer: Tokenizer, document: str, seq_len: int | None = None) -> float:
    """The class's probability from a pass of this document alone, without padding."""
    ids_1T = torch.from_numpy(tokenizer.encode(document)[:seq_len].astype(np.int64)).unsqueeze(0)
    with torch.no_grad():
        logits_C = model.classify(ids_1T, torch.tensor([ids_1T.shape[1]]))[0]
    return float(torch.exp(logits_C[1]) / torch.exp(logits_C).sum())


def test_scores_are_those_of_each_document_alone(model: Decoder, tokenizer: Tokenizer) -> None:
    documents = texts(12)
    wanted = [alone(model, tokenizer, one) for one in documents]
    assert np.ptp(wanted) > 0.05
    for tokens_at_once in (1, 100, 1 << 15):
        verifier = Verifier(model, tokenizer, 1, tokens_at_once=tokens_at_once)
        assert verifier.score_documents(documents) == pytest.approx(wanted, abs=1e-5)
        assert max(len(places) for places in verifier._passes([16] * 12)) == max(1, min(12, tokens_at_once // 16))
    other = Verifier(model, tokenizer, 0).score_documents(documents)
    assert other + np.array(wanted) == pytest.approx(np.ones(12), abs=1e-5)


def test_it_reads_what_it_was_trained_on(model: Decoder, tokenizer: Tokenizer) -> None:
    """The question with its answer, without a separator, cut off as the objective cuts it."""
    verifier = Verifier(model, tokenizer, 1, seq_len=16)
    document = verifier.document("1 + 2", " 1 + 2 = 3\n#### 3")
    assert document == "Question: 1 + 2\nAnswer: 1 + 2 = 3\n#### 3"
    (score,) = verifier.score("1 + 2", [" 1 + 2 = 3\n#### 3"])
    assert score == pytest.approx(alone(model, tokenizer, document, 16), abs=1e-5)
    assert score != pytest.approx(alone(model, tokenizer, document), abs=1e-4)
    row = (tokenizer.encode(document).astype(np.int64),) * 3  # what lies before the separator
    padded_T, _, is_padding_T = Classify(64, ("correct", "wrong"), (0, 1)).arrange(row, SequencePlan((), ()), 0, 0)
    assert padded_T[is_padding_T == 0].tolist() == tokenizer.encode(document).tolist()


def test_an_empty_text_has_a_score(model: Decoder, tokenizer: Tokenizer) -> None:
    assert 0 < Verifier(model, tokenizer, 1).score_documents([""])[0] < 1
    assert Verifier(model, tokenizer, 1).score("1", []) == []


def test_what_is_no_verifier_is_refused(make_model: Callable[..., Decoder], model: Decoder, tokenizer: Tokenizer) -> None:
    with pytest.raises(RecipeError, match="no classes"):
        Verifier(make_model("MA"), tokenizer)
    with pytest.raises(RecipeError, match="2 classes"):
        Verifier(model, tokenizer, 2)
