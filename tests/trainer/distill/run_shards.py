"""One of two processes that distill the same student in shards and whole; says how far the gradients differ."""

from __future__ import annotations

import copy
import json
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.trainer.distill.alignment import Alignment
from tilth.trainer.distill.orientation import Orientation
from tilth.trainer.distill.student import make_student, student_config
from tilth.trainer.parallel import add_up_gradients, lay_out
from tilth.trainer.world import World, join_world


def gradients(model: Decoder, objective: Any, ids_BT: Tensor, world: World) -> dict[str, Tensor]:
    """Of the sum of the losses of all rows, of which `ids_BT` are this process's."""
    loss, _ = objective.loss(model, (ids_BT, ids_BT, torch.zeros_like(ids_BT, dtype=torch.int32)))
    loss.backward()
    add_up_gradients(model, world)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in found.items()}


def main() -> None:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=43, d_model=32, layers="AAA", n_heads=2, d_ff=64, chunk_size=16)
    teacher = Decoder(config)
    student = make_student(teacher, student_config(config, "DAM"))
    ids_BT = torch.randint(0, 43, (4, 24))
    report = {}
    with join_world("cpu") as world:
        alone = World(0, 1, torch.device("cpu"))
        for objective in (Orientation(teacher), Alignment(teacher)):
            sharded = lay_out(copy.deepcopy(student), world, is_sharded=True)
            found = gradients(sharded, objective, ids_BT.chunk(2)[world.rank], world)
            wanted = gradients(lay_out(copy.deepcopy(student), alone, is_sharded=False), objective, ids_BT, alone)
            # a shard that an objective does not use may have a gradient of zeros
            off = [float((grad - wanted.get(name, torch.zeros_like(grad))).abs().max()) for name, grad in found.items()]
            largest = max(float(grad.abs().max()) for grad in wanted.values())
            report[type(objective).__name__] = {"off": max(off) / largest, "missing": sorted(wanted.keys() - found.keys())}
        if world.is_first:
            print(json.dumps(report))


if __name__ == "__main__":
    main()
