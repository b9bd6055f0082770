"""Training steps of named models on one GPU: tokens a second and MFU, beside HF transformers' eager model and mamba-ssm's.

    python benchmarks/train_gpu.py [PRESET ...] [--seq-len 2048] [--batch 8] [--steps 20] [--no-compile] [--quick]

Ours is `tilth.trainer.loop.train` in bfloat16, with all it does; a step is timed by itself, the first five left out. The peers
are timed over forward, backward and a fused AdamW in the same precision, where they can be imported: mamba_ssm's MambaLMHeadModel
(its fused path) and Mamba2ForCausalLM or LlamaForCausalLM of transformers. Without a GPU it runs on the CPU, for a trial:
python benchmarks/train_gpu.py tiny-hybrid --seq-len 128 --batch 2 --steps 8 --quick
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from results import append, row
from torch import Tensor

from tilth.models.config import ModelConfig
from tilth.models.presets import with_preset
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.shards import write_tokens
from tilth.trainer.config import TrainConfig
from tilth.trainer.loop import train
from tilth.trainer.metrics import read_metrics
from tilth.trainer.throughput import peak_flops

WARM_UP = 5
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="*", default=["mamba2-370m", "llama-1b", "hybrid-400m"])
    parser.add_argument("--seq-len", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--quick", action="store_true", help="write nothing")
    options = parser.parse_args()
    rows = []
    for name in options.presets:
        config = ModelConfig.from_dict(with_preset({"preset": name}))
        ours = tokens_per_second(config, options)
        told = {"ours": ours}
        for peer, make in PEERS.items():
            try:
                told[peer] = peer_speed(make(config), config, options)
            except (ImportError, ValueError) as error:
                print(f"{name}: {peer} not measured ({error})", flush=True)
        peak = peak_flops(DEVICE)
        mfu = ours * config.flops_per_token(options.seq_len) / peak if peak else None
        notes = "; ".join(f"{peer} {speed:,.0f} tokens/s" for peer, speed in told.items())
        notes += f"; MFU {mfu:.1%}" if mfu else ""
        print(f"{name}: {notes}", flush=True)
        size = f"{name}, {options.batch} x {options.seq_len}, bf16"
        best = max((speed for peer, speed in told.items() if peer != "ours"), default=None)
        rows.append(row("training step", size, 1 / ours, "s a token", 1 / best if best else None, notes))
    if not options.quick:
        append(rows)


def tokens_per_second(config: ModelConfig, options: argparse.Namespace) -> float:
    """Of our loop, the median step."""
    settings = TrainConfig(
        steps=options.steps + WARM_UP, seq_len=options.seq_len, global_batch=options.batch, precision="bfloat16",
        compile=not options.no_compile, checkpoint_every=0, eval_every=0, lr=1e-4, device=DEVICE.type,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        train(config, settings, random_tokens(root / "tokens", config, options), None, root / "run")
        seconds = statistics.median(line["seconds"] for line in read_metrics(root / "run")[WARM_UP:])
    return float(options.batch * options.seq_len / seconds)


def random_tokens(folder: Path, config: ModelConfig, options: argparse.Namespace) -> Path:
    """Documents of a sequence's length, of the ids that a small tokenizer has: the speed does not depend on them."""
    tokenizer = Tokenizer(train_bpe(["soil and seed and rain"], 280))
    rng = np.random.default_rng(0)
    ids = np.setdiff1d(np.arange(min(config.vocab_size, tokenizer.vocab_size)), [tokenizer.separator_id])
    rows = ((i.to_bytes(16, "big"), "random/0", i, rng.choice(ids, options.seq_len)) for i in range(4 * options.batch))
    folder.mkdir()
    write_tokens(folder, rows, tokenizer)
    return folder


def peer_speed(model: Callable[[Tensor], Tensor], config: ModelConfig, options: argparse.Namespace) -> float:
    """Tokens a second of forward, cross entropy, backward and update."""
    parameters = list(model.parameters())  # type: ignore[attr-defined]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    ids = torch.randint(0, config.vocab_size, (options.batch, options.seq_len + 1), device=DEVICE)
    times = []
    for _ in range(options.steps + WARM_UP):
        wait()
        began = time.perf_counter()
        with torch.autocast(DEVICE.type, torch.bfloat16):
            logits = model(ids[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        wait()
        times.append(time.perf_counter() - began)
    return float(options.batch * options.seq_len / statistics.median(times[WARM_UP:]))


def wait() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


class _Logits(torch.nn.Module):
    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model.to(DEVICE)

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(ids).logits
        return logits


def hf_eager(config: ModelConfig) -> Any:
    """The same sizes as a class of transformers, with weights of its own."""
    import transformers

    if set(config.pattern) == {"A"}:
        return _Logits(transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=config.vocab_size, hidden_size=config.d_model, num_hidden_layers=len(config.pattern),
            num_attention_heads=config.n_heads, num_key_value_heads=config.kv_heads, intermediate_size=config.mlp_width,
            tie_word_embeddings=config.tie_embeddings, max_position_embeddings=8192,
        )))  # fmt: skip
    if set(config.pattern) == {"M"} and not config.mlp_width:
        return _Logits(transformers.Mamba2ForCausalLM(transformers.Mamba2Config(
            vocab_size=config.vocab_size, hidden_size=config.d_model, num_hidden_layers=len(config.pattern),
            state_size=config.d_state, head_dim=config.ssm_head_dim, num_heads=config.n_ssm_heads, n_groups=config.n_groups,
            tie_word_embeddings=config.tie_embeddings,
        )))  # fmt: skip
    raise ValueError("no class of the same layers")


def mamba_ssm(config: ModelConfig) -> Any:
    """state-spaces' own model, which takes its fused path where its CUDA extensions are installed."""
    from mamba_ssm.models.config_mamba import MambaConfig
    from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel

    if set(config.pattern) != {"M"} or config.mlp_width:
        raise ValueError("not a pure Mamba-2")
    settings = MambaConfig(d_model=config.d_model, n_layer=len(config.pattern), vocab_size=config.vocab_size)
    settings.ssm_cfg = {"layer": "Mamba2", "d_state": config.d_state, "headdim": config.ssm_head_dim}
    return _Logits(MambaLMHeadModel(settings, device=DEVICE))


PEERS: dict[str, Callable[[ModelConfig], Any]] = {"HF eager": hf_eager, "mamba_ssm": mamba_ssm}


if __name__ == "__main__":
    main()
