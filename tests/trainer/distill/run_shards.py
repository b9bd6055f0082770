"""One of two processes that train the same student in shards and whole by what needs a second model; says how far gradients differ."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.tokenize.shards import IGNORED
from tilth.trainer.data import Batch
from tilth.trainer.distill.alignment import Alignment
from tilth.trainer.distill.distillation import Distillation
from tilth.trainer.distill.orientation import Orientation
from tilth.trainer.distill.student import make_student, student_config
from tilth.trainer.parallel import add_up_gradients, lay_out
from tilth.trainer.preferences import Preferences
from tilth.trainer.world import World, join_world


def gradients(model: Decoder, objective: Any, batch: Batch, world: World) -> dict[str, Tensor]:
    """Of the sum of the losses of all rows, of which `batch` are this process's."""
    loss, _ = objective.loss(model, batch)
    loss.backward()
    add_up_gradients(model, world)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in found.items()}


def batches(teacher: Decoder) -> Iterator[tuple[Any, Batch]]:
    """Each objective with four rows of its own kind."""
    ids_BT = torch.randint(0, 43, (4, 24))
    whole_BT = torch.zeros_like(ids_BT, dtype=torch.int32)
    for objective in (Orientation(teacher), Alignment(teacher), Distillation(teacher, temperature=2.0, ce_weight=0.3)):
        # the processes have unequal numbers of targets
        targets_BT = ids_BT.clone()
        targets_BT[0, 5:] = IGNORED
        yield objective, (ids_BT, targets_BT, whole_BT)
    pairs: Any = Preferences(12, "", "", 0.5, teacher, None, [])  # type: ignore[arg-type]  # its batches are made already
    lengths_B21, prompts_B1 = torch.tensor([[12, 7], [9, 12], [5, 6], [10, 8]]).unsqueeze(-1), torch.tensor([[3], [4], [2], [3]])
    padding_BT = (torch.arange(12) >= lengths_B21).flatten(1).int()
    yield pairs, (ids_BT, ids_BT, padding_BT, prompts_B1)


def main() -> None:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=43, d_model=32, layers="AAA", n_heads=2, d_ff=64, chunk_size=16)
    teacher = Decoder(config)
    student = make_student(teacher, student_config(config, "DAM"))
    report = {}
    with join_world("cpu") as world:
        alone = World(0, 1, torch.device("cpu"))
        for objective, batch in batches(teacher):
            sharded, whole = copy.deepcopy(student), copy.deepcopy(student)
            own = tuple(column.chunk(2)[world.rank] for column in batch)
            found = gradients(lay_out(sharded, world, is_sharded=True), objective, own, world)
            wanted = gradients(lay_out(whole, alone, is_sharded=False), objective, batch, alone)
            # a shard that an objective does not use may have a gradient of zeros
            off = [float((grad - wanted.get(name, torch.zeros_like(grad))).abs().max()) for name, grad in found.items()]
            largest = max(float(grad.abs().max()) for grad in wanted.values())
            report[type(objective).__name__] = {
                "off": max(off) / largest, "largest": largest, "missing": sorted(wanted.keys() - found.keys())
            }  # fmt: skip
        if world.is_first:
            print(json.dumps(report))


if __name__ == "__main__":
    main()
