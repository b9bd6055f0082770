"""Speed against what the hardware can do, and what a run will cost, told before it begins."""

from __future__ import annotations

from typing import Any

import torch

from tilth.models.config import ModelConfig
from tilth.trainer.config import TrainConfig

# Dense bf16 TFLOP/s without sparsity, from the vendors' data sheets; the longest name that fits counts.
_PEAKS = "A10 125, A100 312, L4 121, L40S 362, H100 989, H100 PCIe 756, H100 NVL 835, H200 989, GH200 989, B200 2250"
_TERA_FLOPS = {name: float(peak) for name, peak in (entry.rsplit(" ", 1) for entry in _PEAKS.split(", "))}


def peak_flops(device: torch.device) -> float | None:
    """Dense bf16 FLOP/s of one device; None for a CPU or a GPU that is not in the table: no MFU is better than a wrong one."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """The peak of the GPU that calls itself `name`."""
    words = f" {name.replace('-', ' ')} "
    fitting = [known for known in _TERA_FLOPS if f" {known} " in words]
    return _TERA_FLOPS[max(fitting, key=len)] * 1e12 if fitting else None


def speed(
    model: ModelConfig, seq_len: int, n_tokens: float, seconds: float, device: torch.device, n_processes: int
) -> dict[str, float]:
    """Seconds of a step that read n_tokens, tokens a second, and the share of all devices' peak (MFU) where it is known."""
    tokens_per_second = n_tokens / seconds
    found = {"seconds": seconds, "tokens_per_second": tokens_per_second}
    if peak := peak_flops(device):
        found["mfu"] = tokens_per_second * model.flops_per_token(seq_len) / (peak * n_processes)
    return found


def run_costs(model: ModelConfig, config: TrainConfig) -> dict[str, Any]:
    """What the run takes, in numbers: parameters, FLOPs (see ModelConfig.flops_per_token), tokens, and bytes of state.

    state_bytes: fp32 parameters, gradients and the optimiser's moments of one process, before any activation.
    """
    n_parameters = model.n_parameters()
    n_embedding = model.padded_vocab_size * model.d_model * (1 if model.tie_embeddings else 2)
    tokens_per_step = config.global_batch * config.seq_len
    flops_per_token = model.flops_per_token(config.seq_len)
    # AdamW keeps two moments of a parameter, Muon one, of which the embedding has no part
    n_moments = 2 * n_parameters if config.optimizer == "adamw" else n_parameters + n_embedding
    return {
        "n_parameters": n_parameters,
        "n_parameters_without_embedding": n_parameters - n_embedding,
        "flops_per_token": flops_per_token,
        "tokens_per_step": tokens_per_step,
        "n_tokens": tokens_per_step * config.steps,
        "flops": flops_per_token * tokens_per_step * config.steps,
        "state_bytes": 4 * (2 * n_parameters + n_moments),
    }
