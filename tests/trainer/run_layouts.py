"""One of two processes that train the same model in shards and whole, in several settings; says how far they differ. argv: settings."""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tilth.models.block import Block
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.trainer.config import TrainConfig
from tilth.trainer.execution import wrap_sublayers
from tilth.trainer.optim import make_optimizer, set_learning_rate
from tilth.trainer.parallel import add_up_gradients, clip_gradients, lay_out, whole_model
from tilth.trainer.world import World, join_world

MODEL = ModelConfig(vocab_size=43, d_model=32, layers="MAMA", n_heads=2, d_ff=64, d_state=8, ssm_head_dim=16, chunk_size=16)
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "recompute": {"recompute": True},
    "muon": {"optimizer": "muon"},
    "compile": {"compile": True},
}


def update(model: Decoder, config: TrainConfig, ids_BT: Tensor, world: World) -> tuple[float, float]:
    """One step on this process's rows; returns the loss of all rows and the gradient norm."""
    optimizer = make_optimizer(model, config)
    set_learning_rate(optimizer, 1e-2)
    loss, _ = model.loss(ids_BT, ids_BT.roll(-1, 1))
    (loss / 100).backward()
    add_up_gradients(model, world)
    norm = clip_gradients(model, 0.1, world)
    optimizer.step()
    return world.add_up([float(loss.detach())])[0], norm


def compare(whole: Decoder, options: dict[str, Any], world: World) -> dict[str, float]:
    """How far one update is, relatively, from that of the same model in one process that reads all rows."""
    config = TrainConfig(steps=1, seq_len=24, global_batch=4, shard=True, **options)
    ids_BT = torch.randint(0, 43, (4, 24), generator=torch.Generator().manual_seed(1))
    sharded = lay_out(copy.deepcopy(whole), world, is_sharded=True)
    wrap_sublayers(sharded, config)
    found = update(sharded, config, ids_BT.chunk(2)[world.rank], world)
    alone = lay_out(copy.deepcopy(whole), ALONE, is_sharded=False)
    wanted = update(alone, config, ids_BT, ALONE)
    gathered = whole_model(sharded, world)
    off = {"loss": abs(found[0] / wanted[0] - 1), "norm": abs(found[1] / wanted[1] - 1)}
    if world.is_first:
        before, after, ours = (torch.cat([p.detach().flatten() for p in m.parameters()]) for m in (whole, alone, gathered))
        off["update"] = float((ours - after).norm() / (after - before).norm())
    return off


def most_layers_whole(whole: Decoder, world: World) -> dict[str, int]:
    """How many mixers and MLPs are whole at a time, at most, while one is computed forwards or backwards."""
    model = lay_out(copy.deepcopy(whole), world, is_sharded=True)
    layers = [layer for block in model.modules() if isinstance(block, Block) for layer in (block.mixer, block.mlp)]
    most = {"forwards": 0, "backwards": 0}

    def note(direction: str) -> None:
        n_whole = sum(not isinstance(next(layer.parameters()), DTensor) for layer in layers)
        most[direction] = max(most[direction], n_whole)

    for layer in layers:
        layer.register_forward_pre_hook(lambda *_: note("forwards"))
        layer.out_proj.register_full_backward_pre_hook(lambda *_: note("backwards"))
    ids_BT = torch.zeros(1, 24, dtype=torch.int64)
    model.loss(ids_BT, ids_BT)[0].backward()
    return most | {"of": len(layers), "left": sum(not isinstance(p, DTensor) for p in model.parameters())}


ALONE = World(0, 1, torch.device("cpu"))


def main() -> None:
    torch.manual_seed(0)
    whole = Decoder(MODEL)
    with join_world("cpu") as world:
        report: dict[str, Any] = {name: compare(whole, SETTINGS[name], world) for name in sys.argv[1:]}
        report["whole"] = most_layers_whole(whole, world)
        if world.is_first:
            print(json.dumps(report))


if __name__ == "__main__":
    main()
