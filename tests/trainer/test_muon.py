"""Muon against its formula in double precision, the polar factor that it stands for, and torch's own."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.trainer.config import TrainConfig
from tilth.trainer.loop import TrainResult
from tilth.trainer.metrics import read_metrics
from tilth.trainer.optim import MuonBesideAdamW, hidden_matrices, make_optimizer

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning:torch.utils.tensorboard",
    "ignore::DeprecationWarning:tensorboard",
    "ignore:torch.distributed is disabled",
)
LR, DECAY, MOMENTUM = 0.01, 0.1, 0.95
N_STEPS = 3


@pytest.fixture
def muon_config(config: TrainConfig) -> TrainConfig:
    return TrainConfig.from_dict({**config.to_dict(), "optimizer": "muon", "lr": LR, "weight_decay": DECAY})


def gradients(model: Decoder) -> list[dict[str, Tensor]]:
    """For each of N_STEPS, gradients with singular values as far apart as those of real ones."""
    generator = torch.Generator().manual_seed(5)

    def draw(shape: torch.Size) -> Tensor:
        grad = torch.randn(shape, generator=generator)
        if grad.ndim == 2:
            rank_one = torch.randn(shape[0], 1, generator=generator) @ torch.randn(1, shape[1], generator=generator)
            grad = 0.1 * grad + 0.3 * rank_one
        return grad

    return [{name: draw(p.shape) for name, p in model.named_parameters()} for _ in range(N_STEPS)]


def steps(model: Decoder, optimizer: torch.optim.Optimizer) -> None:
    for grads in gradients(model):
        for name, parameter in model.named_parameters():
            parameter.grad = grads[name].clone()
        optimizer.step()


def test_the_hidden_matrices_and_no_others_are_its_own(model_config: ModelConfig, muon_config: TrainConfig) -> None:
    untied = ModelConfig.from_dict({**model_config.to_dict(), "tie_embeddings": False})
    model = Decoder(untied)
    optimizer = make_optimizer(model, muon_config)
    names = {id(p): name for name, p in model.named_parameters()}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(names)
    assert {names[id(p)].split(".", 2)[-1] for p in optimizer.param_groups[0]["params"]} == {
        "mixer.in_proj.weight",
        "mixer.qkv_proj.weight",
        "mixer.out_proj.weight",
        "mlp.gate_up_proj.weight",
        "mlp.out_proj.weight",
    }
    assert "momentum" in optimizer.param_groups[0]
    assert all("betas" in group for group in optimizer.param_groups[1:])


def slow_muon(weight: Tensor, grads: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Weight after all gradients, and the last matrix to be orthogonalised, in double precision by the papers' text."""
    momentum = torch.zeros_like(weight, dtype=torch.float64)
    weight = weight.double()
    for grad in grads:
        momentum = MOMENTUM * momentum + (1 - MOMENTUM) * grad.double()
        ahead = MOMENTUM * momentum + (1 - MOMENTUM) * grad.double()
        x = ahead / ahead.norm()
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        weight = weight * (1 - LR * DECAY) - LR * 0.2 * max(weight.shape) ** 0.5 * x
    return weight, ahead


def test_its_update_is_the_formula_and_near_the_polar_factor(model_config: ModelConfig, muon_config: TrainConfig) -> None:
    torch.manual_seed(0)
    model = Decoder(model_config)
    grads = gradients(model)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    hidden = {id(p) for p in hidden_matrices(model)}
    steps(model, make_optimizer(model, muon_config))
    for name, parameter in model.named_parameters():
        if id(parameter) not in hidden:
            continue
        wanted, ahead = slow_muon(before[name], [grad[name] for grad in grads])
        moved, wanted_move = parameter.double() - before[name], wanted - before[name]
        # torch iterates in bf16: 8 bits, over 15 products
        assert (moved - wanted_move).norm() < 0.03 * wanted_move.norm(), name
        one_less, _ = slow_muon(before[name], [grad[name] for grad in grads[:-1]])
        last = (one_less * (1 - LR * DECAY) - parameter.double()) / (LR * 0.2 * max(parameter.shape) ** 0.5)
        u, _, v = torch.linalg.svd(ahead, full_matrices=False)
        polar = u @ v
        assert (last * polar).sum() / last.norm() / polar.norm() > 0.95, name
        # as its authors say, singular values end between about 0.7 and 1.2
        values = torch.linalg.svdvals(last)
        assert values.min() > 0.5, name
        assert values.max() < 1.3, name


def test_together_they_step_as_torch_steps_each(model_config: ModelConfig, muon_config: TrainConfig) -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(Decoder(model_config))
    steps(models[0], make_optimizer(models[0], muon_config))
    hidden = hidden_matrices(models[1])
    muon = torch.optim.Muon(hidden, lr=LR, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")
    rest = [p for p in models[1].parameters() if all(p is not h for h in hidden)]
    conv = [p for p in rest if p.ndim == 2 and not getattr(p, "_no_weight_decay", False)]
    plain = [p for p in rest if all(p is not c for c in conv)]
    groups = [{"params": conv, "weight_decay": DECAY}, {"params": plain, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.95), fused=True)
    for grads in gradients(models[1]):
        for name, parameter in models[1].named_parameters():
            parameter.grad = grads[name].clone()
        muon.step()
        adamw.step()
    wanted = dict(models[1].named_parameters())
    for name, parameter in models[0].named_parameters():
        assert torch.equal(parameter, wanted[name]), name


def test_its_state_can_be_saved_and_loaded_as_that_of_any_optimizer(model_config: ModelConfig, muon_config: TrainConfig) -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        models.append(Decoder(model_config))
    first, second = (make_optimizer(model, muon_config) for model in models)
    assert isinstance(first, MuonBesideAdamW)
    steps(models[0], first)
    models[1].load_state_dict(models[0].state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))  # torch would share the tensors
    for model, optimizer in zip(models, (first, second), strict=True):
        steps(model, optimizer)
    for name, parameter in models[1].named_parameters():
        assert torch.equal(parameter, dict(models[0].named_parameters())[name]), name


def test_a_run_learns_with_it(run: Callable[..., TrainResult]) -> None:
    lines = read_metrics(run(optimizer="muon").folder)
    assert lines[-1]["loss"] < lines[0]["loss"] - 1
