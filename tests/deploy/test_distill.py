"""Scale distillation on a real small fine-tune: it lowers the logit error, touches scales alone, and never gets worse."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tilth.deploy.choice import Choice
from tilth.deploy.codecs import find_codec
from tilth.deploy.delta import Delta, compress, decode
from tilth.deploy.distill import distill, mean_logit_error
from tilth.deploy.overlay import logits_of, overlaid
from tilth.deploy.teacher import Teacher
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
    teacher = Teacher.of(tuned, batches)
    result = distill(base, teacher, world.delta, n_steps=N_STEPS, on_step=lambda step, loss: losses.append((step, loss)))
    return SimpleNamespace(
        base=base, tuned=tuned, teacher=teacher, held_out=Teacher.of(tuned, held_out), losses=losses, result=result
    )


def multiplied(delta: Delta, factor: float, parts: tuple[str, ...] = ("scale",)) -> Delta:
    """The delta with the scales of its matrices multiplied."""
    encoded = dict(delta.encoded)
    for name, own in delta.of_kind("matrices").items():
        encoded[name] = replace(own, parts=own.parts | {part: own.parts[part] * factor for part in parts})
    return replace(delta, encoded=encoded)


def test_the_logit_error_falls_on_seen_and_on_held_out_tokens(world: SimpleNamespace, distilled: SimpleNamespace) -> None:
    result = distilled.result
    assert result.best_step > 0
    assert result.loss_best < 0.9 * result.loss_start
    before, after = (mean_logit_error(distilled.base, distilled.held_out, delta) for delta in (world.delta, result.delta))
    assert after < 0.9 * before
    assert [step for step, _ in distilled.losses] == list(range(1, N_STEPS + 1))


def test_the_losses_are_those_of_the_decoded_models(world: SimpleNamespace, distilled: SimpleNamespace) -> None:
    # the scales are rounded before they are judged, so the file has the loss that is told
    for delta, loss in ((world.delta, distilled.result.loss_start), (distilled.result.delta, distilled.result.loss_best)):
        model = load_model(world.base)
        model.load_state_dict(decode(delta, world.base_state))
        errors = []
        with torch.no_grad():
            for batch in distilled.teacher.batches[:8]:
                difference = model(batch.ids_BT, batch.segments_BT) - distilled.tuned(batch.ids_BT, batch.segments_BT)
                errors.append(difference[batch.targets_BT != -100].double().square().flatten())
        assert loss == pytest.approx(torch.cat(errors).mean().item(), rel=1e-4)


@pytest.mark.parametrize("words", ["bitdelta", "rank1", "residual:2", "low-rank:4", "whole"])
@pytest.mark.parametrize("tables", ["16", "8", "4", "1"])
def test_only_scales_change(world: SimpleNamespace, distilled: SimpleNamespace, words: str, tables: str) -> None:
    before = compress(world.base_state, world.tuned_state, Choice(words, tables=tables))
    result = distill(distilled.base, distilled.teacher, before, n_steps=2)
    after = result.delta
    assert after.encoded.keys() == before.encoded.keys()
    changed = {}
    for name, own in before.encoded.items():
        scales = find_codec(own.codec).scales(own.parts)
        for part, tensor in own.parts.items():
            found = after.encoded[name].parts[part]
            assert (found.dtype, found.shape, found.requires_grad) == (tensor.dtype, tensor.shape, False)
            if not torch.equal(found, tensor):
                assert part in scales
                changed[f"{name}:{part}"] = tensor
    if result.best_step:
        all_scales = [part for own in before.encoded.values() for part in find_codec(own.codec).scales(own.parts)]
        assert len(changed) == len(all_scales)
    for model, state in ((distilled.base, world.base_state), (distilled.tuned, world.tuned_state)):
        assert weights_digest(model.state_dict()) == weights_digest(state)
        assert all(parameter.grad is None for parameter in model.parameters())
    assert all("forward" not in module.__dict__ for module in distilled.base.modules())


@pytest.mark.parametrize("words", ["bitdelta", "rank1", "residual:2", "low-rank:4"])
def test_gradients_are_those_of_the_dense_sum(world: SimpleNamespace, distilled: SimpleNamespace, words: str) -> None:
    delta = compress(world.base_state, world.tuned_state, Choice(words, tables="1"))
    batch = distilled.teacher.batches[0]
    names = sorted(delta.of_kind("matrices") | delta.of_kind("tables"))

    def scales() -> dict[str, dict[str, Tensor]]:
        found = {}
        for name in names:
            own = delta.encoded[name]
            found[name] = {part: own.parts[part].float().requires_grad_() for part in find_codec(own.codec).scales(own.parts)}
        return found

    ours, dense = scales(), scales()
    with overlaid(distilled.base, delta, ours):
        logits_of(distilled.base, batch).square().mean().backward()
    weights = dict(decode(delta, world.base_state))
    for name in names:
        own = delta.encoded[name]
        weights[name] = find_codec(own.codec).rebuild(own.parts | dense[name], world.base_state[name])
    logits = torch.func.functional_call(distilled.base, weights, (batch.ids_BT, batch.segments_BT))[batch.kept]
    logits.square().mean().backward()
    for name in names:
        for part, leaf in ours[name].items():
            wanted = dense[name][part].grad
            torch.testing.assert_close(leaf.grad, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


def test_a_destructive_learning_rate_keeps_the_start(world: SimpleNamespace, distilled: SimpleNamespace) -> None:
    result = distill(distilled.base, distilled.teacher, world.delta, n_steps=2, learning_rate=50.0)
    assert result.best_step == 0
    assert result.loss_best == result.loss_start
    assert result.delta is world.delta


def test_a_wrong_scale_is_found_again(world: SimpleNamespace, distilled: SimpleNamespace) -> None:
    # without distillation the doubled scales would stay doubled
    doubled = multiplied(world.delta, 2.0)
    result = distill(distilled.base, distilled.teacher, doubled, n_steps=N_STEPS, learning_rate=0.1)
    assert result.loss_best < 0.2 * result.loss_start


def test_rank_1_scales_beat_one_scale_a_matrix(world: SimpleNamespace, distilled: SimpleNamespace) -> None:
    errors = {}
    for words in ("bitdelta", "rank1"):
        delta = compress(world.base_state, world.tuned_state, Choice(words, tables="16"))
        result = distill(distilled.base, distilled.teacher, delta, n_steps=N_STEPS)
        errors[words] = mean_logit_error(distilled.base, distilled.held_out, result.delta)
    assert errors["rank1"] < 0.75 * errors["bitdelta"]


def test_ignored_positions_take_no_part(world: SimpleNamespace, distilled: SimpleNamespace) -> None:
    batch = distilled.teacher.batches[0]
    targets_BT = batch.targets_BT.clone()
    targets_BT[:, 32:] = -100
    cut = TokenBatch(batch.ids_BT[:, :32], targets_BT[:, :32], batch.segments_BT[:, :32])
    masked = replace(batch, targets_BT=targets_BT)
    # the model is causal: masking the second half must be the same as not having it
    losses = [mean_logit_error(distilled.base, Teacher.of(distilled.tuned, [b]), world.delta) for b in (masked, cut, batch)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert abs(losses[2] - losses[1]) > 1e-3 * losses[1]


def test_nothing_to_train_on_is_refused(world: SimpleNamespace, distilled: SimpleNamespace) -> None:
    batch = distilled.teacher.batches[0]
    ignored = replace(batch, targets_BT=torch.full_like(batch.targets_BT, -100))
    for batches in ([ignored], []):
        with pytest.raises(DeltaError, match="no token to distil on"):
            distill(distilled.base, Teacher.of(distilled.tuned, batches), world.delta, n_steps=1)


def test_nothing_to_train_is_no_error(world: SimpleNamespace, distilled: SimpleNamespace) -> None:
    empty = compress(world.base_state, world.base_state)
    assert distill(distilled.base, distilled.teacher, empty, n_steps=3).delta is empty
    assert distill(distilled.base, Teacher.of(distilled.tuned, []), world.delta, n_steps=0).loss_best is None


def test_logits_that_are_not_finite_are_refused(world: SimpleNamespace, distilled: SimpleNamespace) -> None:
    broken: Decoder = load_model(world.tuned)
    with torch.no_grad():
        broken.norm.weight.fill_(float("inf"))
    huge = multiplied(world.delta, 1e35)
    one = distilled.teacher.batches[:1]
    for tuned, delta in ((broken, world.delta), (distilled.tuned, huge)):
        with pytest.raises(DeltaError, match="not finite"):
            distill(distilled.base, Teacher.of(tuned, one), delta, n_steps=1)
