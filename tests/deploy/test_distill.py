"""Scale distillation on a real small fine-tune: it lowers the logit error, touches scales alone, and never gets worse."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from tilth.deploy.codec import Encoded, compress, decode
from tilth.deploy.distill import distill, mean_logit_error, scale_by
from tilth.deploy.token_batches import TokenBatch, read_batches
from tilth.errors import DeltaError
from tilth.models.decoder import Decoder
from tilth.models.weights import load_model, weights_digest

N_STEPS = 24


@pytest.fixture(scope="module")
def distilled(world: SimpleNamespace) -> SimpleNamespace:
    base, tuned = load_model(world.base), load_model(world.tuned)
    batches = read_batches(world.prose, n_batches=N_STEPS, batch_size=4, seq_len=64, seed=5)
    held_out = read_batches(world.prose, n_batches=4, batch_size=4, seq_len=64, seed=5, first=N_STEPS)
    losses: list[tuple[int, float]] = []
    result = distill(base, tuned, world.delta, batches, n_steps=N_STEPS, on_step=lambda step, loss: losses.append((step, loss)))
    return SimpleNamespace(base=base, tuned=tuned, batches=batches, held_out=held_out, losses=losses, result=result)


def test_the_logit_error_falls_on_seen_and_on_held_out_tokens(world: SimpleNamespace, distilled: SimpleNamespace) -> None:
    result = distilled.result
    assert result.best_step > 0
    assert result.loss_best < 0.9 * result.loss_start
    models = distilled.base, distilled.tuned
    before, after = (mean_logit_error(*models, delta, distilled.held_out) for delta in (world.delta, result.delta))
    assert after < 0.9 * before
    assert [step for step, _ in distilled.losses] == list(range(1, N_STEPS + 1))


def test_the_losses_are_those_of_the_decoded_models(world: SimpleNamespace, distilled: SimpleNamespace) -> None:
    for delta, loss in ((world.delta, distilled.result.loss_start), (distilled.result.delta, distilled.result.loss_best)):
        model = load_model(world.base)
        model.load_state_dict(decode(delta, world.base_state))
        errors = []
        with torch.no_grad():
            for batch in distilled.batches[:8]:
                difference = model(batch.ids_BT, batch.segments_BT) - distilled.tuned(batch.ids_BT, batch.segments_BT)
                errors.append(difference[batch.targets_BT != -100].double().square().flatten())
        assert loss == pytest.approx(torch.cat(errors).mean().item(), rel=1e-4)


def test_only_the_scales_change(world: SimpleNamespace, distilled: SimpleNamespace) -> None:
    before, after = world.delta, distilled.result.delta
    assert weights_digest(after.whole) == weights_digest(before.whole)
    assert weights_digest(after.rounded) == weights_digest(before.rounded)
    assert after.encoded.keys() == before.encoded.keys()
    for name, matrix in before.encoded.items():
        assert torch.equal(after.encoded[name].parts["signs"], matrix.parts["signs"])
        assert after.encoded[name].parts["scale"] != matrix.parts["scale"]
        assert not after.encoded[name].parts["scale"].requires_grad
    for model, state in ((distilled.base, world.base_state), (distilled.tuned, world.tuned_state)):
        assert weights_digest(model.state_dict()) == weights_digest(state)
        assert all(parameter.grad is None for parameter in model.parameters())


def test_a_destructive_learning_rate_keeps_the_start(world: SimpleNamespace, distilled: SimpleNamespace) -> None:
    result = distill(distilled.base, distilled.tuned, world.delta, distilled.batches, n_steps=2, learning_rate=50.0)
    assert result.best_step == 0
    assert result.loss_best == result.loss_start
    assert result.delta is world.delta


def test_a_wrong_scale_is_found_again(world: SimpleNamespace, distilled: SimpleNamespace) -> None:
    # without distillation the doubled scales would stay doubled
    doubled = scale_by(world.delta, torch.full((len(world.delta.encoded),), 2.0))
    result = distill(distilled.base, distilled.tuned, doubled, distilled.batches, n_steps=N_STEPS, learning_rate=0.1)
    assert result.loss_best < 0.2 * result.loss_start


def test_ignored_positions_take_no_part(world: SimpleNamespace, distilled: SimpleNamespace) -> None:
    batch = distilled.batches[0]
    targets_BT = batch.targets_BT.clone()
    targets_BT[:, 32:] = -100
    cut = TokenBatch(batch.ids_BT[:, :32], targets_BT[:, :32], batch.segments_BT[:, :32])
    masked = replace(batch, targets_BT=targets_BT)
    # the model is causal: masking the second half must be the same as not having it
    losses = [mean_logit_error(distilled.base, distilled.tuned, world.delta, [b]) for b in (masked, cut, batch)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert abs(losses[2] - losses[1]) > 1e-3 * losses[1]


def test_nothing_to_train_on_is_refused(world: SimpleNamespace, distilled: SimpleNamespace) -> None:
    batch = distilled.batches[0]
    ignored = replace(batch, targets_BT=torch.full_like(batch.targets_BT, -100))
    with pytest.raises(DeltaError, match="no token to distil on"):
        distill(distilled.base, distilled.tuned, world.delta, [ignored], n_steps=1)
    with pytest.raises(DeltaError, match="no token to distil on"):
        distill(distilled.base, distilled.tuned, world.delta, [], n_steps=1)


def test_nothing_to_train_is_no_error(world: SimpleNamespace, distilled: SimpleNamespace) -> None:
    empty = compress(world.base_state, world.base_state)
    assert distill(distilled.base, distilled.base, empty, distilled.batches, n_steps=3).delta is empty
    assert distill(distilled.base, distilled.tuned, world.delta, [], n_steps=0).loss_best is None


def test_logits_that_are_not_finite_are_refused(world: SimpleNamespace, distilled: SimpleNamespace) -> None:
    broken: Decoder = load_model(world.tuned)
    with torch.no_grad():
        broken.norm.weight.fill_(float("inf"))
    huge = {n: Encoded(m.shape, m.parts | {"scale": torch.tensor(1e30)}) for n, m in world.delta.encoded.items()}
    for tuned, delta in ((broken, world.delta), (distilled.tuned, replace(world.delta, encoded=huge))):
        with pytest.raises(DeltaError, match="not finite"):
            distill(distilled.base, tuned, delta, distilled.batches[:1], n_steps=1)
