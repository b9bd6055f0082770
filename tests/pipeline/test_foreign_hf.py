"""HF transformers as the peer: its models are read, and it reads ours; logits and greedy tokens agree, round trips are exact."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import tilth
from tilth.errors import SourceError
from tilth.inference.generate import generate
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.weights import save_model
from tilth.pipeline import foreign_models
from tilth.pipeline.foreign_models import export_model, import_model

transformers = pytest.importorskip("transformers")
# the peer's own warnings (deprecations, missing fast kernels) say nothing of us
pytestmark = [pytest.mark.usefixtures("one_thread", "fixed_seed"), pytest.mark.filterwarnings("ignore")]

VOCAB = 37
STRETCH = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 500_000.0, **STRETCH}
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_attention_heads": 4,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": None,
}
HYBRID = COMMON | {"num_key_value_heads": 2, "mamba_n_heads": 8, "mamba_d_state": 8, "mamba_n_groups": 2, "mamba_chunk_size": 4}
GRANITE = HYBRID | {
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "shared_intermediate_size": 24,
    "layer_types": ["mamba", "attention"],
}
MULTIPLIERS = {"attention_multiplier": 0.1, "embedding_multiplier": 12.0, "logits_scaling": 3.0, "residual_multiplier": 0.22}

MAMBA = {"d_state", "expand", "ssm_head_dim", "n_groups", "d_conv", "chunk_size"}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", COMMON | {"num_hidden_layers": 2, "intermediate_size": 40, "rope_parameters": ROPE}),
    "llama-gqa-llama3-tied": (
        "LlamaConfig",
        COMMON
        | {"num_key_value_heads": 1, "head_dim": 6, "num_hidden_layers": 2, "intermediate_size": 40, "rope_parameters": LLAMA3}
        | {"tie_word_embeddings": True},
    ),
    "llama-linear": (
        "LlamaConfig",
        COMMON
        | {"num_hidden_layers": 1, "intermediate_size": 40, "rope_parameters": ROPE | {"rope_type": "linear", "factor": 2.5}},
    ),
    "mamba2": (
        "Mamba2Config",
        {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "head_dim": 8, "num_heads": 8, "state_size": 8}
        | {"n_groups": 2, "chunk_size": 4, "tie_word_embeddings": True, "pad_token_id": 0},
    ),
    "mamba2-no-conv-bias": (
        "Mamba2Config",
        {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 1, "head_dim": 16, "num_heads": 4, "state_size": 8}
        | {"n_groups": 1, "conv_kernel": 2, "use_conv_bias": False, "pad_token_id": 0},
    ),
    "mamba": (
        "MambaConfig",
        {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4, "time_step_rank": 3},
    ),
    "bamba": ("BambaConfig", HYBRID | {"num_hidden_layers": 3, "attn_layer_indices": [1], "intermediate_size": 40}),
    "bamba-whole-rotary": (
        "BambaConfig",
        HYBRID
        | {"num_hidden_layers": 2, "attn_layer_indices": [0], "intermediate_size": 40}
        | {"rope_parameters": LLAMA3 | {"partial_rotary_factor": 1.0}},
    ),
    "granite": ("GraniteMoeHybridConfig", GRANITE | {"num_hidden_layers": 2, "attention_multiplier": 8**-0.5}),
    "granite-multipliers-tied": (
        "GraniteMoeHybridConfig",
        GRANITE | MULTIPLIERS | {"num_hidden_layers": 2, "tie_word_embeddings": True},
    ),
    "granite-rotary": (
        "GraniteMoeHybridConfig",
        GRANITE | MULTIPLIERS | {"num_hidden_layers": 2, "position_embedding_type": "rope", "rope_parameters": ROPE},
    ),
}


def stir(model: nn.Module) -> None:
    """Weights that are large enough for an error to show; HF's own are hardly more than the embedding."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.3)
            elif "norm" in name or name.endswith(".D"):
                weight.uniform_(0.5, 1.5)
            elif name.endswith(("dt_bias", "dt_proj.bias")):
                weight.uniform_(-2, 1)


def hf_model(name: str) -> Any:
    kind, settings = MODELS[name]
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**settings))
    stir(model)
    return model.eval()


def hf_load(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()


def difference(ours: Decoder, theirs: Any) -> float:
    """The largest difference of two models' logits, as a share of their size (or of 1)."""
    ids = torch.randint(0, ours.config.vocab_size, (2, 21))
    with torch.no_grad():
        a, b = ours(ids), theirs(ids).logits
    return float((a - b).abs().max() / b.abs().max().clamp(min=1))


def greedy(theirs: Any, ids: Tensor, n: int) -> list[int]:
    end = theirs.generation_config.eos_token_id
    theirs.generation_config.eos_token_id = None
    out = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=n, do_sample=False, pad_token_id=0)
    theirs.generation_config.eos_token_id = end
    return list(out[0, ids.shape[1] :].tolist())


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    theirs = hf_model(name)
    theirs.save_pretrained(tmp_path / "hf")
    import_model(tmp_path / "hf", tmp_path / "ours")
    ours = tilth.load_model(tmp_path / "ours")
    assert difference(ours, theirs) < 1e-5
    export_model(tmp_path / "ours", tmp_path / "back")
    again = hf_load(tmp_path / "back")
    assert difference(ours, again) < 1e-5
    ids = torch.randint(0, VOCAB, (1, 9))
    assert generate(ours, ids[0].tolist(), 8) == greedy(again, ids, 8)
    import_model(tmp_path / "back", tmp_path / "twice")
    twice = tilth.load_model(tmp_path / "twice")
    assert all(torch.equal(tensor, twice.state_dict()[key]) for key, tensor in ours.state_dict().items())
    if "multipliers" not in name and "rotary" not in name and "bias" not in name:
        # nothing was folded or filled in: the class is the one it came from, and every tensor is bit for bit the same
        assert type(again) is type(theirs)
        assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in theirs.state_dict().items())
    kept = {key: getattr(theirs.config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings")}
    if "multipliers" not in name:
        assert {key: getattr(again.config, key) for key in kept} == kept


EXPORTS: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("AA", {}),
    "Llama scaled": ("A", {"rope_scaling": STRETCH, "tie_embeddings": False}),
    "Bamba half rotated": ("MA", {"rope_share": 0.5}),
    "Bamba": ("MAM", {}),
    "Bamba attention alone": ("AA", {"rope_share": 0.5, "head_dim": 12}),
    "Bamba without MLP": ("MA", {"d_ff": 0}),
    "Granite": ("MMA", {"rope_theta": None, "n_groups": 2}),
    "Granite attention alone": ("AA", {"rope_theta": None, "head_dim": 6}),
    "Granite without attention": ("MM", {"n_heads": 0, "n_kv_heads": None}),
    "Granite without MLP": ("MA", {"rope_theta": None, "d_ff": 0}),
    "MambaForCausalLM": ("SS", {"d_ff": 0, "n_heads": 0, "n_kv_heads": None}),
    "Mamba2": ("MM", {"d_ff": 0, "n_heads": 0, "n_kv_heads": None, "n_groups": 2}),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_ours_as_theirs(name: str, tmp_path: Path, make_model: Callable[..., Decoder]) -> None:
    layers, changes = EXPORTS[name]
    ours = make_model(layers, **changes)
    stir(ours)
    for table in (ours.embedding, ours.head):
        if table is not None:
            table.weight.data[ours.config.vocab_size :] = 0  # rows that pad the vocabulary do not travel
    save_model(tmp_path / "ours", ours)
    made = export_model(tmp_path / "ours", tmp_path / "hf", context=77)
    assert made.format.split()[1].startswith(name.split()[0].removesuffix("ForCausalLM"))
    theirs = hf_load(tmp_path / "hf")
    assert type(theirs).__name__.startswith(name.split()[0])
    assert theirs.config.max_position_embeddings == 77 if hasattr(theirs.config, "max_position_embeddings") else True
    assert difference(ours, theirs) < 1e-5
    ids = torch.randint(0, ours.config.vocab_size, (1, 5))
    assert generate(ours, ids[0].tolist(), 8) == greedy(theirs, ids, 8)
    if "ranite" in name:
        assert theirs.config.attention_multiplier == pytest.approx(1 / math.sqrt(theirs.config.head_dim))
    import_model(tmp_path / "hf", tmp_path / "back")
    back = tilth.load_model(tmp_path / "back")
    assert all(torch.equal(tensor, back.state_dict()[key]) for key, tensor in ours.state_dict().items())


@st.composite
def configs(draw: st.DrawFn) -> ModelConfig:
    """Any standard decoder of Mamba-2 and attention."""
    heads = draw(st.sampled_from([1, 2, 4]))
    rope = draw(
        st.sampled_from(
            [{"rope_theta": None}, {}, {"rope_scaling": STRETCH}, {"rope_scaling": {"factor": 3.0}}, {"rope_share": 0.5}]
        )
    )
    return ModelConfig(
        vocab_size=draw(st.integers(9, 40)),
        d_model=draw(st.sampled_from([16, 24])),
        layers=draw(st.text("MA", min_size=1, max_size=4)),
        n_heads=heads,
        n_kv_heads=draw(st.sampled_from([n for n in (1, 2, 4) if heads % n == 0])),
        head_dim=draw(st.sampled_from([4, 8, 12])),
        d_ff=draw(st.sampled_from([0, 20])),
        d_state=draw(st.sampled_from([4, 8])),
        expand=draw(st.sampled_from([1, 2])),
        ssm_head_dim=4,
        n_groups=draw(st.sampled_from([1, 2])),
        d_conv=draw(st.sampled_from([2, 4])),
        chunk_size=draw(st.sampled_from([3, 64])),
        norm_eps=draw(st.sampled_from([1e-5, 1e-6])),
        tie_embeddings=draw(st.booleans()),
        **rope,
    )


@given(config=configs())
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_any_decoder_goes_out_and_comes_back(config: ModelConfig, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    ours = Decoder(config)
    stir(ours)
    for table in (ours.embedding, ours.head):
        if table is not None:
            table.weight.data[config.vocab_size :] = 0
    save_model(folder / "ours", ours)
    export_model(folder / "ours", folder / "hf")
    assert difference(ours, hf_load(folder / "hf")) < 1e-5
    import_model(folder / "hf", folder / "back")
    back = tilth.load_model(folder / "back")
    assert all(torch.equal(tensor, back.state_dict()[key]) for key, tensor in ours.state_dict().items())
    used = set(config.pattern)
    unused = {"A": {"n_heads", "n_kv_heads", "head_dim", "rope_theta", "rope_share", "rope_scaling"}, "M": MAMBA}
    left_out = set().union(*(names for letter, names in unused.items() if letter not in used)) | {"layers"}
    kept = {name: value for name, value in config.to_dict().items() if name not in left_out}
    assert kept.items() <= back.config.to_dict().items()
    assert back.config.pattern == config.pattern


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"residual": "ladder"}, "residual is 'ladder'"),
        ({"layers": "A", "residual": "desync-2x", "desync_ranks": 2}, "desync-2x"),
        ({"layers": "MS", "rope_theta": None}, "mamba1 layers"),
        ({"layers": "D"}, "discrete mamba2 layers"),
        ({"layers": "M", "bidirectional": True}, "reads both ways"),
        ({"n_classes": 2}, "head of classes"),
    ],
)
def test_what_no_class_expresses_is_refused(
    changes: dict[str, Any], words: str, tmp_path: Path, make_model: Callable[..., Decoder]
) -> None:
    settings = {"layers": "MA"} | changes
    save_model(tmp_path / "ours", make_model(settings.pop("layers"), **settings))
    with pytest.raises(SourceError, match=words) as caught:
        export_model(tmp_path / "ours", tmp_path / "hf")
    assert "it would need" in str(caught.value)
    assert not (tmp_path / "hf").exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", ["sharded", "pytorch_model.bin", "legacy.bin"])
def test_files_of_every_kind_keep_their_dtype(
    dtype: torch.dtype, shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = hf_model("bamba").to(dtype)
    theirs.save_pretrained(tmp_path / "hf", max_shard_size="10KB")
    assert len(list((tmp_path / "hf").glob("*.safetensors"))) > 2
    if shape != "sharded":
        for path in (tmp_path / "hf").glob("model*"):
            path.unlink()
        torch.save(
            theirs.state_dict(), tmp_path / "hf" / "pytorch_model.bin", _use_new_zipfile_serialization=shape != "legacy.bin"
        )
    made = import_model(tmp_path / "hf", tmp_path / "ours")
    assert made.dtypes == [str(dtype).removeprefix("torch.")]
    monkeypatch.setattr(foreign_models, "MAX_SHARD_BYTES", 10_000)
    export_model(tmp_path / "ours", tmp_path / "back")
    assert len(list((tmp_path / "back").glob("*.safetensors"))) > 2
    again = hf_load(tmp_path / "back")
    assert again.dtype == dtype
    assert all(torch.equal(tensor, again.state_dict()[key]) for key, tensor in theirs.state_dict().items())


def test_a_config_of_transformers_4(tmp_path: Path) -> None:
    """rope_theta and rope_scaling beside each other, `type` for rope_type, kinds of layers under their old names."""
    theirs = hf_model("llama-gqa-llama3-tied")
    theirs.save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    config = json.loads(path.read_text())
    del config["rope_parameters"]
    config |= {"rope_theta": 500_000.0, "rope_scaling": {"type": "llama3", **STRETCH}, "torch_dtype": "float32"}
    path.write_text(json.dumps(config))
    import_model(tmp_path / "hf", tmp_path / "ours")
    assert difference(tilth.load_model(tmp_path / "ours"), theirs) < 1e-5
