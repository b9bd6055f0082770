"""The hybrid that several benchmarks time, and the same model in HF transformers with the same weights (peers_models.txt)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder

# d256, 4 layers: 3.9 million parameters besides the embedding's million. No positions, as in HybriDNA.
HYBRID = ModelConfig(
    vocab_size=4096,
    d_model=256,
    layers="MMMA",
    n_heads=4,
    n_kv_heads=4,
    d_ff=704,
    d_state=64,
    ssm_head_dim=64,
    chunk_size=64,
    rope_theta=None,
)


def hf_twin(model: Decoder) -> Any:
    """GraniteMoeHybridForCausalLM without experts: the class of transformers that has our block, MLP after each mixer."""
    from transformers import GraniteMoeHybridConfig, GraniteMoeHybridForCausalLM

    c = model.config
    config = GraniteMoeHybridConfig(
        vocab_size=c.padded_vocab_size,
        hidden_size=c.d_model,
        num_hidden_layers=len(c.pattern),
        layer_types=["full_attention" if letter == "A" else "linear_attention" for letter in c.pattern],
        num_attention_heads=c.n_heads,
        num_key_value_heads=c.kv_heads,
        attention_multiplier=c.attention_head_dim**-0.5,
        shared_intermediate_size=c.mlp_width,
        num_local_experts=0,
        num_experts_per_tok=0,
        position_embedding_type=None,
        mamba_n_heads=c.n_ssm_heads,
        mamba_d_head=c.ssm_head_dim,
        mamba_d_state=c.d_state,
        mamba_n_groups=c.n_groups,
        mamba_d_conv=c.d_conv,
        mamba_expand=c.expand,
        mamba_chunk_size=c.chunk_size,
        rms_norm_eps=c.norm_eps,
        tie_word_embeddings=c.tie_embeddings,
        bos_token_id=None,
        eos_token_id=None,
    )
    peer = GraniteMoeHybridForCausalLM(config)
    missing = peer.load_state_dict(_weights(model), strict=False).missing_keys
    if set(missing) - {"lm_head.weight"}:
        raise RuntimeError(f"the peer's weights {missing} were not set")
    peer.tie_weights()
    return peer


def _weights(model: Decoder) -> dict[str, Tensor]:
    """Our weights by the names of transformers; the rows of in_proj and of the gated MLP have the same order."""
    c = model.config
    found = {"model.embed_tokens.weight": model.embedding.weight, "model.norm.weight": model.norm.weight}
    for i, (letter, block) in enumerate(zip(c.pattern, model.blocks, strict=True)):
        layer, mixer = f"model.layers.{i}", block.mixer
        found[f"{layer}.input_layernorm.weight"] = block.mixer_norm.weight
        found[f"{layer}.post_attention_layernorm.weight"] = block.mlp_norm.weight
        found[f"{layer}.shared_mlp.input_linear.weight"] = block.mlp.gate_up_proj.weight
        found[f"{layer}.shared_mlp.output_linear.weight"] = block.mlp.out_proj.weight
        if letter == "A":
            rows = [n * c.attention_head_dim for n in (c.n_heads, c.kv_heads, c.kv_heads)]
            for name, part in zip("qkv", mixer.qkv_proj.weight.split(rows), strict=True):
                found[f"{layer}.self_attn.{name}_proj.weight"] = part
            found[f"{layer}.self_attn.o_proj.weight"] = mixer.out_proj.weight
        else:
            found[f"{layer}.mamba.conv1d.weight"] = mixer.conv_weight[:, None]
            found[f"{layer}.mamba.conv1d.bias"] = mixer.conv_bias
            for name in ("in_proj.weight", "out_proj.weight", "norm.weight", "dt_bias", "A_log", "D"):
                found[f"{layer}.mamba.{name}"] = mixer.get_parameter(name)
    return {name: value.detach().clone() for name, value in found.items()}


def check_same(model: Decoder, peer: Any, n_tokens: int = 96) -> float:
    """Return the largest difference of the logits on random tokens; raises AssertionError above 1e-4."""
    ids = torch.randint(0, model.config.vocab_size, (2, n_tokens))
    with torch.no_grad():
        difference = float((model(ids) - peer(ids).logits[..., : model.config.vocab_size]).abs().max())
    if difference > 1e-4:
        raise AssertionError(f"the two models are not the same: their logits differ by {difference}")
    return difference
