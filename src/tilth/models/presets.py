"""Named configurations: the models of the papers, hybrids and ladders of the same sizes, and small ones for a CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tilth.errors import RecipeError, did_you_mean

# state-spaces/mamba2-* as released (Dao & Gu 2024): width and layers; the GPT-NeoX tokenizer
_MAMBA2: dict[str, Any] = {"vocab_size": 50_277, "d_ff": 0, "d_state": 128}
_SIZES = {"130m": (768, 24), "370m": (1024, 48), "780m": (1536, 48), "1.3b": (2048, 48), "2.7b": (2560, 64)}
# As Jamba (Lieber et al. 2024): no positions, an MLP in every layer; one layer in eight attends, and never the first
_HYBRID = {"vocab_size": 50_277, "d_state": 128, "rope_theta": None}
_HYBRID_SIZES = {"150m": (512, 4, 8), "400m": (1024, 3, 16), "860m": (1536, 3, 24), "1.5b": (2048, 3, 32), "3b": (2560, 4, 40)}
# Llama 3.1 and 3.2 as released (Grattafiori et al. 2024): width, layers, heads, MLP, whether one table is both
_LLAMA = {"vocab_size": 128_256, "n_kv_heads": 8, "rope_theta": 500_000.0}
_LLAMA_SIZES = {"1b": (2048, 16, 32, 8192, True), "3b": (3072, 28, 24, 8192, True), "8b": (4096, 32, 32, 14_336, False)}
_LLAMA_STRETCH = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
# Zhang et al. 2025 (Ladder-residual), its pretraining configurations: StarCoder's tokenizer
_LADDER = {"vocab_size": 49_152, "layers": "A*40", "residual": "ladder"}
# Schiff et al. 2024: 12 ids, of which A C G T are 7 to 10 and pair from outside in
_PAIRS = (*range(7), 10, 9, 8, 7, 11)
_CADUCEUS = {"vocab_size": 12, "d_ff": 0, "d_state": 16, "bidirectional": True, "complement": _PAIRS}
_CADUCEUS_SIZES = {"1k": {"d_model": 118, "layers": "S*4"}, "131k": {"d_model": 256, "layers": "S*16"}}
# Ma et al. 2025: width and layers; heads and MLPs are not published, and these give the published sizes
_HYBRIDNA = {"vocab_size": 12, "d_state": 128, "rope_theta": None}
_HYBRIDNA_SIZES = {"300m": (1024, 3, 16, 4), "3b": (4096, 2, 32, 8), "7b": (4096, 4, 32, 8)}
_TINY = {"vocab_size": 4096, "d_model": 256, "n_heads": 4, "d_state": 64, "ssm_head_dim": 64}

PRESETS: dict[str, dict[str, Any]] = {
    **{f"mamba2-{name}": _MAMBA2 | {"d_model": d, "layers": f"M*{n}"} for name, (d, n) in _SIZES.items()},
    # the released one has a convolution in its attention, too
    "mamba2attn-2.7b": _MAMBA2 | {
        "d_model": 2560, "layers": "M*9+A+MMMMMMMMA*4+M*10+A+M*7", "n_heads": 30, "head_dim": 128, "rope_share": 0.5,
    },
    **{
        f"hybrid-{name}": _HYBRID | {"d_model": d, "layers": f"MMMMAMMM*{n}", "n_heads": heads, "n_kv_heads": heads // 4}
        for name, (d, n, heads) in _HYBRID_SIZES.items()
    },
    **{
        f"llama-{name}": _LLAMA | {
            "d_model": d, "layers": f"A*{n}", "n_heads": heads, "d_ff": d_ff, "tie_embeddings": is_tied,
            "rope_scaling": _LLAMA_STRETCH | {"factor": 32.0 if is_tied else 8.0},
        }
        for name, (d, n, heads, d_ff, is_tied) in _LLAMA_SIZES.items()
    },
    "ladder-1b": _LADDER | {"d_model": 1536, "n_heads": 24, "d_ff": 4096},
    "ladder-3b": _LADDER | {"d_model": 2304, "n_heads": 36, "d_ff": 9216},
    **{f"caduceus-ps-{name}": _CADUCEUS | size | {"rcps": True} for name, size in _CADUCEUS_SIZES.items()},
    **{f"caduceus-ph-{name}": _CADUCEUS | size for name, size in _CADUCEUS_SIZES.items()},
    **{
        f"hybridna-{name}": _HYBRIDNA | {
            "d_model": d, "layers": f"MMMMAMMM*{n}", "n_heads": heads, "n_kv_heads": few, "d_ff": 9 * d // 4,
        }
        for name, (d, n, heads, few) in _HYBRIDNA_SIZES.items()
    },
    "tiny-mamba2": _TINY | {"layers": "M*4", "d_ff": 0},
    "tiny-hybrid": _TINY | {"layers": "MMMA", "rope_theta": None},
    "tiny-llama": _TINY | {"layers": "A*4"},
    "tiny-ladder": _TINY | {"layers": "A*4", "residual": "ladder"},
    "tiny-caduceus-ps": _CADUCEUS | {"d_model": 64, "layers": "S*2", "rcps": True},
    "tiny-caduceus-ph": _CADUCEUS | {"d_model": 64, "layers": "S*2"},
    "tiny-hybridna": _TINY | {"vocab_size": 12, "d_model": 64, "layers": "MMMA", "rope_theta": None, "ssm_head_dim": 16},
}  # fmt: skip


def with_preset(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, laid over those of the preset that they name under `preset`. Raises RecipeError for one unknown."""
    own = dict(settings)
    name = own.pop("preset", None)
    if name is None:
        return own
    if name not in PRESETS:
        raise RecipeError(f"there is no preset `{name}`", "model['preset']", did_you_mean(str(name), PRESETS))
    return PRESETS[name] | own
