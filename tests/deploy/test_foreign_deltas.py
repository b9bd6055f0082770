"""Adapters of PEFT and the diff.pt of BitDelta, over a Llama that was imported from HF's form."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import Tensor

from tilth.cli.foreign_verbs import import_delta
from tilth.deploy.adapter import import_adapter
from tilth.deploy.choice import Choice
from tilth.deploy.codecs import find_codec
from tilth.deploy.delta import compress, decode
from tilth.deploy.delta_file import load_delta, save_delta
from tilth.deploy.published import read_published, write_published
from tilth.deploy.signs import pack_signs
from tilth.deploy.tenant import tenant_weights
from tilth.errors import DeltaError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.weights import save_model, weights_digest

LAYERS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")
WIDTH, FF, KV = 64, 96, 32


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A Llama of two layers with 4 heads over 2 of keys, as Tilth holds it."""
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=64, d_model=WIDTH, layers="A*2", n_heads=4, n_kv_heads=2, d_ff=FF, tie_embeddings=False)
    model = Decoder(config)
    folder = tmp_path_factory.mktemp("llama")
    save_model(folder, model)
    return SimpleNamespace(folder=folder, state=dict(model.state_dict()))


def shape_of(layer: str) -> tuple[int, int]:
    """(outputs, inputs) of a layer of HF's Llama."""
    sizes = {"q": (WIDTH, WIDTH), "k": (KV, WIDTH), "v": (KV, WIDTH), "o": (WIDTH, WIDTH)}
    sizes |= {"gate": (FF, WIDTH), "up": (FF, WIDTH), "down": (WIDTH, FF)}
    return sizes[layer.rpartition(".")[2].removesuffix("_proj")]


def theirs(state: dict[str, Tensor], number: int) -> dict[str, Tensor]:
    """A layer's matrices by HF's names: written out here, apart from what the import does."""
    mixer, mlp = f"blocks.{number}.mixer", f"blocks.{number}.mlp"
    qkv, gate_up = state[f"{mixer}.qkv_proj.weight"], state[f"{mlp}.gate_up_proj.weight"]
    parts = {"self_attn.q_proj": qkv[:WIDTH], "self_attn.k_proj": qkv[WIDTH : WIDTH + KV], "self_attn.v_proj": qkv[WIDTH + KV :]}
    parts |= {"self_attn.o_proj": state[f"{mixer}.out_proj.weight"], "mlp.gate_proj": gate_up[:FF], "mlp.up_proj": gate_up[FF:]}
    return parts | {"mlp.down_proj": state[f"{mlp}.out_proj.weight"]}


def adapter(rank: int = 3) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for number in range(2):
        for layer in LAYERS:
            name = f"base_model.model.model.layers.{number}.{layer}"
            n, k = shape_of(layer)
            tensors[f"{name}.lora_A.weight"] = torch.randn(rank, k, generator=generator)
            tensors[f"{name}.lora_B.weight"] = torch.randn(n, rank, generator=generator)
    return tensors


def write_adapter(folder: Path, tensors: dict[str, Tensor], **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 3, "lora_alpha": 6, "bias": "none"} | settings)
    )
    return folder


@pytest.mark.parametrize(("settings", "scale"), [({}, 2.0), ({"use_rslora": True}, 6 / 3**0.5)])
def test_an_adapter_adds_scale_b_a_to_each_layer(
    llama: SimpleNamespace, tmp_path: Path, settings: dict[str, Any], scale: float
) -> None:
    tensors = adapter()
    delta = import_adapter(write_adapter(tmp_path / "adapter", tensors, **settings), llama.folder)
    save_delta(tmp_path / "delta.safetensors", delta, delta.base_digest)
    decoded = decode(load_delta(tmp_path / "delta.safetensors"), llama.state)
    for number in range(2):
        before, after = theirs(llama.state, number), theirs(decoded, number)
        for layer, base in before.items():
            name = f"base_model.model.model.layers.{number}.{layer}"
            change = torch.zeros_like(base)
            if layer in LAYERS:
                change = scale * tensors[f"{name}.lora_B.weight"] @ tensors[f"{name}.lora_A.weight"]
            torch.testing.assert_close(after[layer], base + change, rtol=1e-5, atol=1e-5)
    weights = tenant_weights(delta, llama.state)
    (term,) = weights.products["blocks.0.mixer.qkv_proj.weight"]
    assert term.up_NR.shape == (WIDTH + 2 * KV, 6)  # type: ignore[union-attr]
    # an adapter is a hundredth of what one bit a weight is at real widths; here it is at least the smaller of the two
    assert (
        sum(own.n_bytes for own in delta.encoded.values()) == 4 * sum(t.numel() for t in tensors.values()) + 8 * len(tensors) // 2
    )


BROKEN: dict[str, tuple[dict[str, Any], Callable[[dict[str, Tensor]], Any], str]] = {
    "dora": ({"use_dora": True}, lambda t: None, "use_dora = True"),
    "another kind": ({"peft_type": "IA3"}, lambda t: None, "peft_type = 'IA3'"),
    "ranks by layer": ({"alpha_pattern": {"q_proj": 3}}, lambda t: None, "alpha_pattern"),
    "no alpha": ({"lora_alpha": None}, lambda t: None, "does not say its lora_alpha"),
    "half a layer": ({}, lambda t: t.pop(f"base_model.model.model.layers.0.{LAYERS[0]}.lora_A.weight"), "does not fit its layer"),
    "a layer too many": (
        {},
        lambda t: t.update({"base_model.model.model.layers.7.x.lora_A.weight": torch.ones(1)}),
        "no linear layer",
    ),
    "another width": (
        {},
        lambda t: t.update({f"base_model.model.model.layers.0.{LAYERS[0]}.lora_B.weight": torch.ones(5, 3)}),
        "does not fit its layer",
    ),
    "nan": ({}, lambda t: t[f"base_model.model.model.layers.0.{LAYERS[0]}.lora_B.weight"].fill_(float("nan")), "not finite"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_other_adapters_are_refused(llama: SimpleNamespace, tmp_path: Path, broken: str) -> None:
    settings, change, said = BROKEN[broken]
    tensors = adapter()
    change(tensors)
    with pytest.raises(DeltaError, match=said):
        import_adapter(write_adapter(tmp_path / "adapter", tensors, **settings), llama.folder)
    with pytest.raises(DeltaError, match="cannot be read"):
        import_adapter(tmp_path / "nothing", llama.folder)


def published(llama: SimpleNamespace) -> dict[str, Tensor]:
    """A diff.pt's dict by the published recipe alone: the mask of each layer packed along its inputs, and its mean |delta|."""
    generator = torch.Generator().manual_seed(2)
    tensors = {}
    for number in range(2):
        for layer in theirs(llama.state, number):
            difference = 0.1 * torch.randn(shape_of(layer), generator=generator)
            name = f"model.layers.{number}.{layer}"
            bits = (difference >= 0).T.reshape(-1, 32, difference.shape[0]).long()
            words = (bits << torch.arange(32)[:, None]).sum(1)
            tensors[f"{name}.mask"] = torch.where(words >= 2**31, words - 2**32, words).int()
            tensors[f"{name}.coeff"] = difference.abs().mean()
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{number}.{norm}.weight"] = torch.ones(WIDTH)
    for name, ours in {"model.norm": "norm", "model.embed_tokens": "embedding", "lm_head": "head"}.items():
        tensors[f"{name}.weight"] = llama.state[f"{ours}.weight"].clone()
    tensors["lm_head.weight"] += 1
    return tensors


def test_a_published_file_is_read_as_its_own_loader_reads_it(llama: SimpleNamespace, tmp_path: Path) -> None:
    tensors = published(llama)
    torch.save(tensors, tmp_path / "diff.pt")
    delta = read_published(tmp_path / "diff.pt", llama.folder)
    decoded = decode(delta, llama.state)
    for number in range(2):
        for layer, base in theirs(llama.state, number).items():
            name = f"model.layers.{number}.{layer}"
            bits = (tensors[f"{name}.mask"].long()[:, None, :] >> torch.arange(32)[:, None]) & 1
            wanted = base + tensors[f"{name}.coeff"] * (2 * bits.reshape(-1, bits.shape[2]).T - 1)
            torch.testing.assert_close(theirs(decoded, number)[layer], wanted, rtol=0, atol=1e-7)
    assert torch.equal(decoded["head.weight"], tensors["lm_head.weight"])
    assert "embedding.weight" not in delta.encoded


def test_a_written_file_reads_back_and_has_the_published_bits(llama: SimpleNamespace, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(3)
    tuned = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in llama.state.items()}
    delta = compress(llama.state, tuned, Choice("bitdelta", tables="whole"))
    write_published(tmp_path / "diff.pt", delta, llama.folder)
    again = decode(read_published(tmp_path / "diff.pt", llama.folder), llama.state)
    for name, tensor in decode(delta, llama.state).items():
        torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-7)
    tensors = torch.load(tmp_path / "diff.pt", weights_only=True)
    for layer, difference in theirs({name: tuned[name] - llama.state[name] for name in tuned}, 1).items():
        assert torch.equal(tensors[f"model.layers.1.{layer}.mask"], pack_signs(difference))
        assert tensors[f"model.layers.1.{layer}.coeff"].shape == ()
    with pytest.raises(DeltaError, match="not BitDelta's"):
        write_published(tmp_path / "x.pt", compress(llama.state, tuned), llama.folder)
    assert find_codec("bitdelta").version == 1


class Harmful:
    """What a pickle may do to one who loads it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harmed",)


def test_a_file_that_would_run_code_or_is_damaged_is_refused(
    llama: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "diff.pt"
    torch.save({"a": Harmful()}, path)
    with pytest.raises(DeltaError, match="holds more than tensors"):
        read_published(path, llama.folder)
    assert not (tmp_path / "harmed").exists()
    torch.save([torch.ones(1)], path)
    with pytest.raises(DeltaError, match="no flat dict"):
        read_published(path, llama.folder)
    tensors = published(llama)
    torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DeltaError):
        read_published(path, llama.folder)
    changes: list[tuple[str, Tensor]] = [
        ("model.layers.0.mlp.down_proj.mask", torch.zeros(1, 4, dtype=torch.int32)),
        ("model.layers.0.mlp.down_proj.mask", torch.zeros(3)),
        ("model.layers.0.self_attn.q_proj.coeff", torch.tensor(float("nan"))),
        ("lm_head.weight", torch.ones(64, 3)),
        ("model.layers.9.mlp.down_proj.mask", torch.zeros(3, 64, dtype=torch.int32)),
    ]
    for name, value in changes:
        torch.save(tensors | {name: value}, path)
        with pytest.raises(DeltaError):
            read_published(path, llama.folder)


def test_the_digest_of_an_adapter_is_its_own(llama: SimpleNamespace, tmp_path: Path) -> None:
    one = import_adapter(write_adapter(tmp_path / "a", adapter()), llama.folder)
    two = import_adapter(write_adapter(tmp_path / "b", adapter(), lora_alpha=12), llama.folder)
    assert one.base_digest == two.base_digest == weights_digest(llama.state)
    assert one.tuned_digest != two.tuned_digest


def test_the_verb_writes_what_a_server_serves(llama: SimpleNamespace, tmp_path: Path) -> None:
    write_adapter(tmp_path / "adapter", adapter())
    torch.save(published(llama), tmp_path / "diff.pt")
    for source, codec in (("adapter", "lora"), ("diff.pt", "bitdelta")):
        words = [str(tmp_path / source), str(tmp_path / "out.safetensors"), "--base", str(llama.folder)]
        said = CliRunner().invoke(import_delta, words)
        assert said.exit_code == 0, said.output
        assert codec in said.output
        weights = tenant_weights(load_delta(tmp_path / "out.safetensors"), llama.state)
        assert "blocks.1.mixer.qkv_proj.weight" in weights.products
