"""One of two ranks that share a decoder: compares values and gradients with the whole one. argv: rank, file to meet at."""

from __future__ import annotations

import json
import sys

import torch
import torch.distributed as dist

from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.sharding import gather, is_replicated, parameter_cuts, shard
from tilth.models.tensor_ranks import TensorRanks

SIZES = {"vocab_size": 43, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "d_state": 8, "ssm_head_dim": 8, "n_groups": 2}
RESIDUALS = [
    {"residual": "standard"},
    {"residual": "ladder"},
    {"residual": "ladder", "residual_from": 2},
    {"residual": "desync-2x", "desync_ranks": 2},
    {"residual": "desync-4x", "desync_ranks": 2},
]


def compare(settings: dict[str, object], ranks: TensorRanks) -> dict[str, float]:
    """The largest differences from the whole model, in float64."""
    torch.manual_seed(0)
    whole = Decoder(ModelConfig.from_dict({**SIZES, **settings})).double()
    part = shard(whole, ranks)
    ids = torch.randint(0, 43, (2, 24))
    targets = ids.roll(-1, 1)
    targets[:, 7::5] = -100
    segments = (torch.arange(24) // 9).expand(2, 24)
    with torch.no_grad():
        logits = float((part(ids, segments) - whole(ids, segments)).abs().max())
    expected, n_expected = whole.loss(ids, targets, segments)
    expected.backward()
    loss, count = part.loss(ids, targets, segments)
    loss.backward()
    totals = torch.stack([loss.detach(), count.double()])
    dist.all_reduce(totals)
    for name, parameter in part.named_parameters():
        if is_replicated(part, name):
            dist.all_reduce(parameter.grad)
        parameter.data = parameter.grad
    gradients = gather(part)
    off = {name: float((gradients[name] - p.grad).abs().max()) for name, p in whole.named_parameters()}
    assert parameter_cuts(part) or part.config.desync_ranks > 1
    return {
        "loss": abs(float(totals[0] - expected)),
        "count": abs(float(totals[1] - n_expected)),
        "gradient": max(off.values()),
        "logits": logits,
    }


def main() -> None:
    rank, meeting = int(sys.argv[1]), sys.argv[2]
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
    ranks = TensorRanks(rank, 2)
    cases = [{"layers": layers, **residual} for layers in ("MAM", "AA", "MM") for residual in RESIDUALS]
    cases += [{"layers": "MM", "d_ff": 0, "residual": "ladder"}, {"layers": "MA", "bidirectional": True, "residual": "ladder"}]
    strands = {"complement": [*range(42, -1, -1)], "bidirectional": True, "rcps": True}
    cases += [{"layers": "MAM", **strands, "residual": "ladder"}, {"layers": "MA", **strands, "rcps_swap": True}]
    cases = [case for case in cases if int(case.get("residual_from", 0)) < len(str(case["layers"]))]
    print(json.dumps([[case, compare(case, ranks)] for case in cases]))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
