"""A model on disk: bit-exact round trip, and clear words for every kind of damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from tilth.errors import ContractError, NotFoundError
from tilth.models.decoder import Decoder
from tilth.models.weights import load_model, save_model, weights_digest


@pytest.fixture
def saved(tmp_path: Path, make_model: Callable[..., Decoder]) -> tuple[Path, Decoder]:
    model = make_model("MA")
    save_model(tmp_path / "model", model, b'{"version": "1.0"}')
    return tmp_path / "model", model


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_round_trip_is_bit_exact(
    dtype: torch.dtype, tie_embeddings: bool, tmp_path: Path, make_model: Callable[..., Decoder]
) -> None:
    model = make_model("MA", tie_embeddings=tie_embeddings).to(dtype)
    digest = save_model(tmp_path, model, b"{}")
    loaded = load_model(tmp_path)
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert loaded.state_dict()[name].dtype == dtype
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert digest == weights_digest(model.state_dict()) == weights_digest(loaded.state_dict())
    assert (tmp_path / "tokenizer.json").read_bytes() == b"{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_a_loaded_model_is_marked_and_trains(saved: tuple[Path, Decoder]) -> None:
    folder, model = saved
    loaded = load_model(folder)
    marks = {n for n, p in model.named_parameters() if getattr(p, "_no_weight_decay", False)}
    assert {n for n, p in loaded.named_parameters() if getattr(p, "_no_weight_decay", False)} == marks
    ids = torch.randint(0, 43, (1, 8))
    loss, _ = loaded.loss(ids, ids)
    loss.backward()
    assert all(p.grad is not None for p in loaded.parameters())


def test_loading_draws_no_random_numbers(saved: tuple[Path, Decoder]) -> None:
    before = torch.get_rng_state()
    load_model(saved[0])
    assert torch.equal(before, torch.get_rng_state())


def test_saving_twice_gives_the_same_bytes(saved: tuple[Path, Decoder]) -> None:
    folder, model = saved
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    save_model(folder, model, b'{"version": "1.0"}')
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(name: str, saved: tuple[Path, Decoder]) -> None:
    (saved[0] / name).unlink()
    with pytest.raises(NotFoundError, match=name):
        load_model(saved[0])


def test_a_missing_folder_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        load_model(tmp_path / "nowhere")


@given(share=st.floats(0, 0.999))
@settings(max_examples=20, deadline=None)
def test_a_truncated_file_is_refused_at_any_length(
    share: float, tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Decoder]
) -> None:
    folder = tmp_path_factory.mktemp("truncated")
    save_model(folder, make_model("M"))
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ContractError, match="truncated or damaged"):
        load_model(folder)


def test_one_flipped_bit_is_found(saved: tuple[Path, Decoder]) -> None:
    path = saved[0] / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(ContractError, match="digest"):
        load_model(saved[0])


def _rewrite(path: Path, change: Callable[[dict[str, Tensor]], None]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop("norm.weight"), "lack norm.weight"),
        (lambda t: t.update(extra=torch.zeros(1)), "no place for the weights extra"),
        (lambda t: t.update({"norm.weight": torch.zeros(31)}), r"\(31,\), the config asks for \(32,\)"),
        (lambda t: t.update({"norm.weight": torch.zeros(32, dtype=torch.int32)}), "dtype torch.int32"),
    ],
)
def test_weights_of_another_model_are_refused(
    change: Callable[[dict[str, Tensor]], None], words: str, saved: tuple[Path, Decoder]
) -> None:
    _rewrite(saved[0] / "model.safetensors", change)
    with pytest.raises(ContractError, match=words):
        load_model(saved[0])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("[]", "mapping"),
        ('{"vocab_size": 43}', "d_model"),
    ],
)
def test_a_bad_config_is_refused(text: str, words: str, saved: tuple[Path, Decoder]) -> None:
    (saved[0] / "config.json").write_text(text)
    with pytest.raises(ContractError, match=words):
        load_model(saved[0])


def test_an_unknown_setting_gets_a_suggestion(saved: tuple[Path, Decoder]) -> None:
    path = saved[0] / "config.json"
    path.write_text(path.read_text().replace('"d_model"', '"d_modell"'))
    with pytest.raises(ContractError, match="Did you mean `d_model`"):
        load_model(saved[0])


def test_digest_sees_names_dtypes_shapes_and_values() -> None:
    base = {"a": torch.arange(6.0), "b": torch.zeros(2)}
    others = [
        {"a": base["a"], "c": base["b"]},
        {"a": base["a"].reshape(2, 3), "b": base["b"]},
        {"a": base["a"], "b": base["b"].to(torch.int32)},
        {"a": base["a"] + 1e-6, "b": base["b"]},
        {"a": base["a"]},
    ]
    digests = [weights_digest(base), *map(weights_digest, others)]
    assert len(set(digests)) == 6
    assert weights_digest(dict(reversed(base.items()))) == digests[0]
    # a transposed view has the same memory but other values in order
    square = torch.arange(4.0).reshape(2, 2)
    assert weights_digest({"a": square.T}) == weights_digest({"a": square.T.contiguous()})
    assert weights_digest({"a": torch.tensor(1.0)}) != weights_digest({"a": torch.tensor([1.0])})


def test_digest_is_the_one_written_down() -> None:
    """Deltas name their base by this value: it may not change with a version of torch or of this code."""
    tensors = {"w": torch.tensor([[1.0, -2.0]]), "b": torch.tensor([0.5], dtype=torch.bfloat16)}
    assert weights_digest(tensors) == "99f9f58fd351c4b3b7f5ec6066ff222ab15f5af44b1061b7fea621946c83f43f"


def test_the_header_names_format_and_digest(saved: tuple[Path, Decoder]) -> None:
    folder, model = saved
    with safe_open(folder / "model.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["tilth"])
    assert header == {"format": "tilth.model/1", "weights_digest": weights_digest(model.state_dict())}


@pytest.mark.parametrize(("header", "words"), [('{"format": "tilth.model/9"}', "model/9"), ("{", "damaged")])
def test_another_header_is_refused(header: str, words: str, saved: tuple[Path, Decoder]) -> None:
    path = saved[0] / "model.safetensors"
    save_file(load_file(path), path, {"tilth": header})
    with pytest.raises(ContractError, match=words):
        load_model(saved[0])
