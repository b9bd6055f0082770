"""Checkpoints that cannot be read: each is refused in words that name the file or the setting, and nothing is left behind."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tilth.errors import ContractError, NotFoundError, SourceError, TilthError
from tilth.models.decoder import Decoder
from tilth.models.weights import save_model
from tilth.pipeline import foreign_models
from tilth.pipeline.foreign_models import export_model, import_model

pytestmark = pytest.mark.usefixtures("one_thread", "fixed_seed")


@pytest.fixture
def checkpoint(tmp_path: Path, make_model: Callable[..., Decoder]) -> Path:
    """A good Bamba in HF's format."""
    save_model(tmp_path / "ours", make_model("MA"))
    export_model(tmp_path / "ours", tmp_path / "hf")
    return tmp_path / "hf"


def refused(checkpoint: Path, kind: type[TilthError], words: str) -> None:
    out = checkpoint.parent / "out"
    with pytest.raises(kind, match=words):
        import_model(checkpoint, out)
    assert not out.exists()
    assert not [path for path in checkpoint.parent.iterdir() if path.name.endswith(".partial")]


def set_config(checkpoint: Path, **changes: Any) -> None:
    path = checkpoint / "config.json"
    path.write_text(json.dumps({k: v for k, v in (json.loads(path.read_text()) | changes).items() if v != "gone"}))


def set_tensors(checkpoint: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    change(tensors)
    save_file(tensors, checkpoint / "model.safetensors")


def test_the_checkpoint_itself_is_good(checkpoint: Path) -> None:
    import_model(checkpoint, checkpoint.parent / "out")


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"model_type": "lama"}, SourceError, "model_type = 'lama'"),
        ({"model_type": "gpt2"}, SourceError, "no format here reads"),
        ({"model_type": None}, SourceError, "model_type = None"),
        ({"hidden_size": "gone"}, SourceError, "no `hidden_size`"),
        ({"hidden_size": 31}, SourceError, "makes no model"),
        ({"num_attention_heads": "four"}, SourceError, "makes no model"),
        ({"attention_bias": True}, SourceError, "attention_bias = True"),
        ({"mamba_proj_bias": True}, SourceError, "mamba_proj_bias = True"),
        ({"hidden_act": "gelu"}, SourceError, "hidden_act = 'gelu'"),
        ({"time_step_limit": [0.001, 0.1]}, SourceError, "time_step_limit"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, SourceError, "quantised"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 2}}, SourceError, "scaled by `yarn`"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 2}}, SourceError, "no `high_freq_factor`"),
        ({"intermediate_size": 64}, ContractError, "the config asks for"),
        ({"num_hidden_layers": 3}, ContractError, r"lacks .* and \d+ more"),
        ({"num_hidden_layers": 1}, ContractError, "no place for a tensor"),
        ({"tie_word_embeddings": False}, ContractError, "lacks lm_head.weight"),
    ],
)
def test_a_config_that_no_model_fits(changes: dict[str, Any], kind: type[TilthError], words: str, checkpoint: Path) -> None:
    set_config(checkpoint, **changes)
    refused(checkpoint, kind, words)


NAME = "model.layers.0.mamba.in_proj.weight"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.pop(NAME), f"lacks {NAME}"),
        (lambda t: t.update({NAME: t[NAME][1:]}), "the config asks for"),
        (lambda t: t.update({NAME: t[NAME].to(torch.int8)}), "torch.int8: the checkpoint is quantised"),
        (lambda t: t.update({NAME: t[NAME].to(torch.float8_e4m3fn)}), "float8_e4m3fn: the checkpoint is quantised"),
        (lambda t: t[NAME].view(-1)[7:8].fill_(float("nan")), "no finite numbers"),
        (lambda t: t["model.embed_tokens.weight"].view(-1)[:1].fill_(float("inf")), "no finite numbers"),
        (lambda t: t.update({"model.layers.1.self_attn.q_proj.bias": torch.zeros(32)}), "a bias"),
        (lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1}), "no place"),
    ],
)
def test_weights_that_are_not_those_of_the_config(
    change: Callable[[dict[str, Tensor]], Any], words: str, checkpoint: Path
) -> None:
    set_tensors(checkpoint, change)
    refused(checkpoint, ContractError, words)


def test_rows_that_only_add_up_are_refused(checkpoint: Path) -> None:
    """One row more in q and one less in k join to the right shape, of a wrong matrix."""

    def move_a_row(tensors: dict[str, Tensor]) -> None:
        q, k = (f"model.layers.1.self_attn.{name}_proj.weight" for name in "qk")
        tensors[q], tensors[k] = torch.cat([tensors[q], tensors[k][:1]]), tensors[k][1:].clone()

    set_tensors(checkpoint, move_a_row)
    refused(checkpoint, ContractError, "q_proj")


def test_a_tied_head_saved_twice_is_read(checkpoint: Path) -> None:
    set_tensors(checkpoint, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"].clone()}))
    import_model(checkpoint, checkpoint.parent / "out")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_file_cut_short(share: float, checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(checkpoint, ContractError, "truncated or damaged")


@pytest.mark.parametrize("share", [0.0, 0.3, 0.99])
def test_a_pickle_cut_short(share: float, checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    (checkpoint / "model.safetensors").unlink()
    path = checkpoint / "pytorch_model.bin"
    torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(checkpoint, ContractError, "damaged")


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("trap_was_sprung"),))


def test_a_pickle_cannot_run_code(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent)
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(pickle.dumps({"model.embed_tokens.weight": Trap()}))
    refused(checkpoint, ContractError, "damaged")
    assert not Path("trap_was_sprung").exists()


def test_a_pickle_of_something_else(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    torch.save({"step": 3}, checkpoint / "pytorch_model.bin")
    refused(checkpoint, ContractError, "something else than named tensors")


@pytest.mark.parametrize(
    ("index", "kind", "words"),
    [
        ('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}', NotFoundError, "shard .* is missing"),
        ('{"weight_map": {"a": "../ours/model.safetensors"}}', NotFoundError, "is missing"),
        ("{", ContractError, "index of the shards is damaged"),
        ("[]", ContractError, "index of the shards is damaged"),
    ],
)
def test_shards_that_are_not_there(index: str, kind: type[TilthError], words: str, checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "model.safetensors.index.json").write_text(index)
    refused(checkpoint, kind, words)


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_a_config_that_is_none(text: str, checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text(text, encoding="latin-1")
    refused(checkpoint, ContractError, "config")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file(name: str, checkpoint: Path) -> None:
    (checkpoint / name).unlink()
    refused(checkpoint, NotFoundError, "no config.json|no weights")


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such folder"):
        import_model(tmp_path / "nowhere", tmp_path / "out")


def test_nothing_is_overwritten(checkpoint: Path) -> None:
    out = checkpoint.parent / "out"
    out.mkdir()
    import_model(checkpoint, out)  # an empty folder may be there
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    for write in (import_model, export_model):
        with pytest.raises(SourceError, match="something already"):
            write(checkpoint if write is import_model else checkpoint.parent / "ours", out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_failure_in_the_middle_leaves_nothing(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(foreign_models, "save_model", fail)
    refused(checkpoint, TilthError, "disk is full")
