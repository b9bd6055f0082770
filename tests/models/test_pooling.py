"""What a document is, from its tokens: padding plays no part, an echo has seen the whole, strands count alike."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from tilth.errors import RecipeError
from tilth.models.decoder import Decoder
from tilth.models.pooling import pooled
from tilth.models.strands import reverse_complement

COMPLEMENT = (0, 1, 2, 3, 4, 5, 6, 10, 9, 8, 7, 11)


@pytest.mark.parametrize("pooling", ["mean", "last", "echo"])
@pytest.mark.parametrize("changes", [{}, {"bidirectional": True}])
def test_padding_plays_no_part(make_model: Callable[..., Decoder], pooling: str, changes: dict[str, bool]) -> None:
    model = make_model("MA", n_classes=3, pooling=pooling, **changes).double()
    ids, lengths = torch.randint(0, 43, (3, 17)), torch.tensor([17, 5, 1])
    together = model.classify(ids, lengths)
    alone = [model.classify(ids[i : i + 1, :n], lengths[i : i + 1]) for i, n in enumerate(lengths.tolist())]
    assert together.shape == (3, 3)
    assert (together - torch.cat(alone)).abs().max() < 1e-12


def test_each_pooling_takes_the_tokens_that_it_says(make_model: Callable[..., Decoder]) -> None:
    ids, lengths = torch.randint(0, 43, (1, 9)), torch.tensor([6])
    taken = {"mean": slice(0, 6), "last": slice(5, 6), "echo": slice(6, 12)}
    for pooling, tokens in taken.items():
        model = make_model("MA", n_classes=2, pooling=pooling)
        text = torch.cat([ids[:, :6], ids[:, :6]], 1) if pooling == "echo" else ids[:, :6]
        expected = model.hidden(text)[:, tokens].mean(1)
        assert (pooled(model.hidden, ids, lengths, model.config) - expected).abs().max() < 1e-5


def test_with_shared_strands_turned_dna_is_of_the_same_class(make_model: Callable[..., Decoder]) -> None:
    dna = {"vocab_size": 12, "complement": COMPLEMENT, "bidirectional": True, "n_classes": 2}
    model = make_model("SM", rcps=True, **dna).double()
    ids = torch.randint(7, 11, (2, 20))
    lengths = torch.tensor([20, 20])
    turned = model.classify(reverse_complement(ids, model.config), lengths)
    assert (turned - model.classify(ids, lengths)).abs().max() < 1e-12
    control = make_model("SM", **dna).double()
    turned = control.classify(reverse_complement(ids, control.config), lengths)
    assert (turned - control.classify(ids, lengths)).abs().max() > 1e-3


def test_a_model_without_classes_says_so(make_model: Callable[..., Decoder]) -> None:
    with pytest.raises(RecipeError, match="no classes"):
        make_model("M").classify(torch.zeros(1, 3, dtype=torch.int64), torch.tensor([3]))
