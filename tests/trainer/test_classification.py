"""Fine-tuning to classify: each token set is a class, each document is read whole, right answers are counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tilth.errors import RecipeError, StaleError
from tilth.inference.generate import generate_batch
from tilth.inference.sampling import Sampling
from tilth.inference.stopping import Stopping
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.weights import load_model, save_model
from tilth.tokenize.bpe import Tokenizer
from tilth.tokenize.document_order import DocumentOrder
from tilth.tokenize.mixture import Source, TokenMixture
from tilth.tokenize.nucleotides import nucleotide_tokenizer
from tilth.tokenize.order import Piece, SequencePlan
from tilth.tokenize.shards import TokenSet, write_tokens
from tilth.tokenize.strands import other_strand
from tilth.trainer import evaluate
from tilth.trainer.classification import Classify, Conditional
from tilth.trainer.config import TrainConfig
from tilth.trainer.given import Given
from tilth.trainer.loop import train
from tilth.trainer.metrics import read_metrics

COMPLEMENT = (0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11)


def write_class(folder: Path, motif: str, n_documents: int, seed: int) -> Path:
    """Random DNA of 20 to 39 letters with `motif` somewhere in each."""
    rng = np.random.default_rng(seed)
    tokenizer = Tokenizer(nucleotide_tokenizer())
    rows = []
    for row in range(n_documents):
        letters = "".join(rng.choice(list("ACGT"), int(rng.integers(20, 40))))
        at = int(rng.integers(0, len(letters) - len(motif)))
        text = letters[:at] + motif + letters[at + len(motif) :]
        rows.append((row.to_bytes(16, "big"), "dna/0", row, tokenizer.encode(text)))
    folder.mkdir()
    write_tokens(folder, rows, tokenizer)
    return folder


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Source]]:
    """The sources of training and validation; the classes differ in a motif that is its own reverse complement."""
    return write_classes(tmp_path_factory.mktemp("classes"), n_train=200)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Source]]:
    """The same with more documents than a small model can learn by heart in a test's time."""
    return write_classes(tmp_path_factory.mktemp("many"), n_train=1500)


def write_classes(root: Path, n_train: int) -> dict[str, list[Source]]:
    return {
        split: [
            Source(name, write_class(root / f"{name}-{split}", motif, n, seed))
            for name, motif in (("cut", "GGATATCC"), ("whole", "CATGCATG"))
        ]
        for split, n, seed in (("train", n_train, 0), ("validation", 40, 1))
    }


@pytest.fixture
def model_config() -> ModelConfig:
    return ModelConfig(vocab_size=12, d_model=32, layers="M", d_ff=0, d_state=8, ssm_head_dim=16, bidirectional=True, n_classes=2)


SETTINGS: dict[str, Any] = {
    "steps": 60,
    "seq_len": 40,
    "global_batch": 16,
    "objective": "classify",
    "lr": 2e-2,
    "warmup_steps": 5,
    "eval_batches": 5,
    "checkpoint_every": 0,
    "device": "cpu",
}


def test_it_learns_what_the_classes_differ_in(
    classes: dict[str, list[Source]], model_config: ModelConfig, tmp_path: Path
) -> None:
    result = train(model_config, TrainConfig(**SETTINGS), classes["train"], classes["validation"], tmp_path / "run")
    first = read_metrics(tmp_path / "run")[0]
    assert first["n_tokens"] == 16  # a target a document
    assert 0.3 < first["start_validation_accuracy"] < 0.7
    assert result.validation_accuracy is not None
    assert result.validation_accuracy > 0.95
    model = load_model(tmp_path / "run")
    right = 0
    for number, source in enumerate(classes["validation"]):
        held = TokenSet.open(source.folder)
        for document in range(40):
            ids = torch.from_numpy(held.document(document)[:-1].astype(np.int64))[None]
            right += int(model.classify(ids, torch.tensor([ids.shape[1]])).argmax()) == number
    assert right / 80 == pytest.approx(result.validation_accuracy)


def test_a_document_is_read_whole_without_its_separator(classes: dict[str, list[Source]]) -> None:
    held = TokenSet.open(classes["train"][0].folder)
    plan = SequencePlan((Piece(3, 0, int(held.lengths[3])),), (0,), source=1)
    ids, targets, padding = Classify(60, ("a", "b"), (0, 1)).arrange(held.sequence(plan), plan, 0, 0)
    n = int(held.lengths[3]) - 1
    assert ids[:n].tolist() == held.document(3)[:-1].tolist()
    assert (padding.sum(), ids[n:].sum()) == (60 - n, 0)
    assert targets[0] == 1
    assert (targets[1:] == -100).all()
    turned = dataclasses.replace(plan, is_turned=True)
    ids, _, padding = Classify(60, ("a", "b"), (0, 1)).arrange(held.sequence(turned), turned, 0, 0)
    assert ids[: 60 - padding.sum()].tolist() == other_strand(held.document(3)[:-1], np.array(COMPLEMENT)).tolist()


def test_documents_of_a_class_are_generated(many: dict[str, list[Source]], tmp_path: Path) -> None:
    config = ModelConfig(vocab_size=14, d_model=48, layers="MA", n_heads=2, d_state=16, ssm_head_dim=16)
    settings = TrainConfig(**{**SETTINGS, "objective": "conditional", "steps": 400, "lr": 5e-3})
    result = train(config, settings, many["train"], many["validation"], tmp_path / "run")
    assert result.validation_loss is not None
    assert result.validation_loss < np.log(4)  # the motif can be told
    model, tokenizer = load_model(tmp_path / "run"), Tokenizer(nucleotide_tokenizer())
    only_dna = Sampling(temperature=1.0, allowed_ids=(1, 7, 8, 9, 10))
    n_found = np.zeros((2, 2), int)
    for number in range(2):
        texts = generate_batch(model, [[12 + number]] * 60, 40, only_dna, Stopping(stop_ids=(1,)))
        decoded = [tokenizer.decode(text) for text in texts]
        n_found[number] = [sum(motif in text for text in decoded) for motif in ("GGATATCC", "CATGCATG")]
    assert (n_found.diagonal() > 4 * n_found[[0, 1], [1, 0]] + 5).all(), n_found


def test_a_class_comes_before_its_document(classes: dict[str, list[Source]]) -> None:
    held = TokenSet.open(classes["train"][0].folder)
    document = held.document(3).astype(np.int64)
    plan = SequencePlan((Piece(3, 0, len(document)),), (0,), source=1)
    ids, targets, padding = Conditional(60, ("a", "b"), (0, 1), 12).arrange(held.sequence(plan), plan, 0, 0)
    n = len(document)
    assert ids[:n].tolist() == [13, *document[:-1].tolist()]
    assert targets[:n].tolist() == document.tolist()  # the separator is the last that is asked for
    assert (targets[n:] == -100).all()
    assert padding.sum() == 60 - n
    turned = dataclasses.replace(plan, is_turned=True)
    ids, targets, _ = Conditional(60, ("a", "b"), (0, 1), 12).arrange(held.sequence(turned), turned, 0, 0)
    assert targets[:n].tolist() == [*other_strand(document[:-1], np.array(COMPLEMENT)).tolist(), 1]
    ids, targets, padding = Conditional(8, ("a", "b"), (0, 1), 12).arrange(held.sequence(plan), plan, 0, 0)
    assert (ids.tolist(), targets.tolist()) == ([13, *document[:7].tolist()], document[:8].tolist())


def test_ids_for_classes_fit_into_a_pretrained_table(classes: dict[str, list[Source]], tmp_path: Path) -> None:
    bare = ModelConfig(vocab_size=12, d_model=32, layers="M", d_ff=0, d_state=8, ssm_head_dim=16)
    save_model(tmp_path / "bare", Decoder(bare))
    settings = TrainConfig(**{**SETTINGS, "objective": "conditional", "steps": 1, "warmup_steps": 0, "lr": 1e-9})
    wider = dataclasses.replace(bare, vocab_size=14)
    train(wider, settings, classes["train"], None, tmp_path / "run", Given(tmp_path / "bare"))
    before, after = (load_model(tmp_path / name).embedding.weight for name in ("bare", "run"))
    assert torch.allclose(before[:12], after[:12], atol=1e-6)
    assert after[12:14].abs().max() > 0.01
    too_wide = dataclasses.replace(bare, vocab_size=17)
    with pytest.raises(StaleError, match="the table has other rows"):
        train(too_wide, settings, classes["train"], None, tmp_path / "other", Given(tmp_path / "bare"))


def test_validation_on_some_of_the_classes_keeps_their_numbers(
    classes: dict[str, list[Source]], model_config: ModelConfig, tmp_path: Path
) -> None:
    (second,) = [source for source in classes["validation"] if source.name == "whole"]
    result = train(model_config, TrainConfig(**SETTINGS), classes["train"], [second], tmp_path / "run")
    assert result.validation_accuracy is not None
    assert result.validation_accuracy > 0.9
    stranger = [Source("stranger", second.folder)]
    with pytest.raises(RecipeError, match="`stranger` is none of the classes"):
        train(
            model_config, TrainConfig(**{**SETTINGS, "steps": 1, "warmup_steps": 0}), classes["train"], stranger, tmp_path / "no"
        )


def test_every_document_is_validated_once_where_there_are_no_more_than_wanted(
    classes: dict[str, list[Source]], model_config: ModelConfig
) -> None:
    held = TokenMixture.open(classes["validation"])
    objective = Classify.of(40, held)
    for n_batches, n_expected in ((5, 80), (9, 80), (4, 64)):
        config = TrainConfig(**{**SETTINGS, "eval_batches": n_batches})
        plans = evaluate._plans(objective, held, config)
        places = {(plan.source, plan.pieces[0].document) for plan in plans}
        assert len(places) == len(plans) == n_expected
        assert sum(source for source, _ in places) == n_expected // 2


def test_a_document_of_nothing_is_never_read() -> None:
    order = DocumentOrder(np.array([1, 5, 1, 9, 1]), 8, 1, 0)
    assert order.n_tokens == 2
    assert {order.sequence(step, 0).pieces[0].document for step in range(8)} == {1, 3}
    assert [use.step for use in order.uses(3, 8)] == [s for s in range(8) if order.sequence(s, 0).pieces[0].document == 3]
    assert list(order.uses(2, 8)) == []


def test_a_saved_half_precision_model_is_trained_in_full(
    classes: dict[str, list[Source]], model_config: ModelConfig, tmp_path: Path
) -> None:
    save_model(tmp_path / "half", Decoder(model_config).bfloat16())
    settings = TrainConfig(**{**SETTINGS, "steps": 1, "warmup_steps": 0})
    train(model_config, settings, classes["train"], None, tmp_path / "run", Given(tmp_path / "half"))
    assert {tensor.dtype for tensor in load_model(tmp_path / "run").state_dict().values()} == {torch.float32}


def test_classes_that_do_not_fit_are_refused(classes: dict[str, list[Source]], model_config: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"2 classes, the run 1 subset"):
        train(model_config, TrainConfig(**SETTINGS), classes["train"][:1], None, tmp_path / "one")


def test_a_pretrained_model_gets_classes_and_keeps_its_weights(
    classes: dict[str, list[Source]], model_config: ModelConfig, tmp_path: Path
) -> None:
    bare = dataclasses.replace(model_config, n_classes=0)
    torch.manual_seed(5)
    save_model(tmp_path / "bare", Decoder(bare))
    settings = {**SETTINGS, "steps": 1, "warmup_steps": 0, "lr": 1e-9, "weight_decay": 0.0}
    run: Callable[..., Any] = train
    run(model_config, TrainConfig(**settings), classes["train"], None, tmp_path / "run", Given(tmp_path / "bare"))
    before, after = load_model(tmp_path / "bare").state_dict(), load_model(tmp_path / "run").state_dict()
    assert set(after) - set(before) == {"classes.weight", "classes.bias"}
    assert all((after[name] - tensor).abs().max() < 1e-6 for name, tensor in before.items())
    other = dataclasses.replace(model_config, expand=4)
    with pytest.raises(StaleError, match=r"model.expand: 2 -> 4"):
        run(other, TrainConfig(**settings), classes["train"], None, tmp_path / "other", Given(tmp_path / "bare"))
