"""Times a whole Mamba-2 mixer on the CPU against that of HF transformers with the same weights, in turns in one process.

    python benchmarks/mamba2_mixer.py [--threads 1] [--repeats 7] [--tokens 2048] [--quick]

d_model 512, 16 heads of 64 channels, state 128, fp32: projections, convolution, scan, gated norm. The outputs and the
gradients of the input must agree before anything is timed. Needs transformers (benchmarks/peers_models.txt). Times are
CPU time of the process where there is one thread, else wall time; `ratio` is peer / ours.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import transformers
from results import append, row, spread
from torch import Tensor, nn
from transformers.models.mamba2.configuration_mamba2 import Mamba2Config
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

from tilth.models.config import ModelConfig
from tilth.models.layout import lay_out
from tilth.models.mixers.mamba2 import Mamba2

D_MODEL, HEADS, HEAD_DIM, D_STATE, D_CONV = 512, 16, 64, 128, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--quick", action="store_true", help="write nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    ours, peer = mixers()
    x = torch.randn(1, options.tokens, D_MODEL)
    layout = lay_out(ours.config, torch.zeros(1, options.tokens, dtype=torch.int64), None, 0)
    calls = {"ours": lambda x: ours(x, layout), "peer": lambda x: peer(x), "projections": projections(ours)}
    check_same(calls, x)
    clock = time.process_time if options.threads == 1 else time.perf_counter
    rows = []
    for what, run in (("fwd", forward), ("fwd+bwd", forward_backward)):
        times = take_turns({name: partial(run, call, x) for name, call in calls.items()}, options.repeats, clock)
        medians = {name: statistics.median(found) for name, found in times.items()}
        notes = (
            f"peer: transformers {transformers.__version__}, torch path; {1e3 * options.tokens / medians['ours']:.0f} tokens/s; "
            f"by the projections alone {medians['peer'] / medians['projections']:.2f}; "
            f"p10-p90 ours {spread(times['ours'])}, peer {spread(times['peer'])}; torch {torch.__version__}"
        )
        size = f"B1 T{options.tokens} D{D_MODEL} H{HEADS} P{HEAD_DIM} N{D_STATE} fp32"
        rows.append(row(f"mamba2 mixer {what}", size, medians["ours"], "ms", medians["peer"], notes, threads=options.threads))
        print("  ".join(rows[-1][name] for name in ("what", "ours", "peer", "ratio", "notes")))
    if not options.quick:
        append(rows)


def mixers() -> tuple[nn.Module, nn.Module]:
    """Return both mixers with the same weights; transformers orders the rows of in_proj as we do: z, x, B, C, dt."""
    config = ModelConfig(vocab_size=8, d_model=D_MODEL, layers="M", d_ff=0, d_state=D_STATE, ssm_head_dim=HEAD_DIM, d_conv=D_CONV)
    ours = Mamba2(config)
    for linear in (ours.in_proj, ours.out_proj):
        nn.init.normal_(linear.weight, std=D_MODEL**-0.5)
    peer_config = Mamba2Config(
        hidden_size=D_MODEL, num_heads=HEADS, head_dim=HEAD_DIM, state_size=D_STATE, n_groups=1, expand=2, conv_kernel=D_CONV
    )
    peer = Mamba2Mixer(peer_config, layer_idx=0)
    weights = {
        "in_proj.weight": ours.in_proj.weight,
        "conv1d.weight": ours.conv_weight[:, None],
        "conv1d.bias": ours.conv_bias,
        "dt_bias": ours.dt_bias,
        "A_log": ours.A_log,
        "D": ours.D,
        "norm.weight": ours.norm.weight,
        "out_proj.weight": ours.out_proj.weight,
    }
    peer.load_state_dict({name: value.detach().clone() for name, value in weights.items()})
    return ours, peer


def projections(mixer: nn.Module) -> Callable[[Tensor], Tensor]:
    """What no mixer can do without: the two products."""
    width = mixer.out_proj.weight.shape[1]
    return lambda x: mixer.out_proj(mixer.in_proj(x)[..., :width])


def check_same(calls: dict[str, Callable[[Tensor], Tensor]], x: Tensor) -> None:
    found = []
    for name in ("ours", "peer"):
        leaf = x.clone().requires_grad_()
        y = calls[name](leaf)
        y.square().mean().backward()
        found.append((y.detach(), leaf.grad))
    for ours, peer in zip(*found, strict=True):
        torch.testing.assert_close(ours, peer, rtol=1e-3, atol=1e-4 * float(peer.abs().max()))


def forward(call: Callable[[Tensor], Tensor], x: Tensor) -> None:
    with torch.no_grad():
        call(x)


def forward_backward(call: Callable[[Tensor], Tensor], x: Tensor) -> None:
    y = call(x.clone().requires_grad_())
    y.backward(torch.ones_like(y))


def take_turns(calls: dict[str, Callable[[], Any]], repeats: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(1e3 * (clock() - start))
    return times


if __name__ == "__main__":
    main()
