"""Speed against what the hardware can do, and what a run will cost, told before it begins."""

from __future__ import annotations

from typing import Any

import torch

from tilth.models.config import ModelConfig
from tilth.models.sizes import BACKWARD_AND_FORWARD, count_mixer_parameters, count_training_flops
from tilth.trainer.config import OF_LAYERS, OF_TEACHER, TrainConfig
from tilth.trainer.distill.student import replaced_layers

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


def speed(flops_of_token: float, n_tokens: float, seconds: float, device: torch.device, n_processes: int) -> dict[str, float]:
    """Seconds of a step that read n_tokens, tokens a second, and the share of all devices' peak (MFU) where it is known."""
    tokens_per_second = n_tokens / seconds
    found = {"seconds": seconds, "tokens_per_second": tokens_per_second}
    if peak := peak_flops(device):
        found["mfu"] = tokens_per_second * flops_of_token / (peak * n_processes)
    return found


def flops_per_token(model: ModelConfig, config: TrainConfig, asked: ModelConfig | None) -> float:
    """FLOPs of a token that a run reads, by the convention of sizes.count_training_flops.

    `asked` is the teacher or the reference that reads it, too, forwards alone; None where there is none or its words are stored.
    Orientation and alignment run the layers of the student that they compare, and no head. Training counts whole, also where
    some of the parameters stay as they are.
    """
    if asked is None:
        return count_training_flops(model, config.seq_len)
    if config.objective in OF_LAYERS:
        of_layers = count_training_flops(asked, config.seq_len, range(len(asked.pattern)))
        return of_layers / BACKWARD_AND_FORWARD + count_training_flops(model, config.seq_len, replaced_layers(asked, model))
    return count_training_flops(model, config.seq_len) + count_training_flops(asked, config.seq_len) / BACKWARD_AND_FORWARD


def run_costs(
    model: ModelConfig, config: TrainConfig, second: ModelConfig | None = None, *, is_stored: bool = False
) -> dict[str, Any]:
    """What the run takes, in numbers: parameters, FLOPs (see flops_per_token), tokens, and bytes of state.

    `second` is the teacher or the reference; `is_stored` says that a teacher's words are, so that the run does not ask it.
    state_bytes: of one process fp32 parameters, of those that are trained gradients and the optimiser's moments, and the
    second model's parameters, before any activation. Tokens are those of full rows; a pair of preferences is two.
    """
    asked = None if is_stored else second
    n_parameters = model.n_parameters()
    n_embedding = model.padded_vocab_size * model.d_model * (1 if model.tie_embeddings else 2)
    n_trained, n_trained_embedding = n_parameters, n_embedding
    if second is not None and config.objective in OF_TEACHER and config.trains_mixers_only:
        n_trained, n_trained_embedding = count_mixer_parameters(model, replaced_layers(second, model)), 0
    # AdamW keeps two moments of a parameter, Muon one, of which the embedding has no part
    n_moments = 2 * n_trained if config.optimizer == "adamw" else n_trained + n_trained_embedding
    tokens_per_step = config.global_batch * config.seq_len * (2 if config.objective == "preferences" else 1)
    flops_of_token = flops_per_token(model, config, asked)
    n_asked = asked.n_parameters() if asked else 0
    return {
        "n_parameters": n_parameters,
        "n_parameters_without_embedding": n_parameters - n_embedding,
        "n_trained_parameters": n_trained,
        "n_asked_parameters": n_asked,
        "flops_per_token": flops_of_token,
        "tokens_per_step": tokens_per_step,
        "n_tokens": tokens_per_step * config.steps,
        "flops": flops_of_token * tokens_per_step * config.steps,
        "state_bytes": 4 * (n_parameters + n_trained + n_moments + n_asked),
    }
