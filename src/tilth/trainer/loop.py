"""The training loop, read from top to bottom: batch, loss, gradients, update, record, evaluate, checkpoint."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tilth.artifacts.atomic import disk_errors
from tilth.errors import StaleError, TrainError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.weights import save_model, weights_digest
from tilth.tokenize.mixed_order import MixedOrder
from tilth.tokenize.mixture import Source, TokenMixture, check_repeats
from tilth.tokenize.strands import mark_turned
from tilth.tokenize.text_ends import write_text_ends
from tilth.trainer.checkpoint import check_identity, latest_checkpoint, restore
from tilth.trainer.config import TrainConfig
from tilth.trainer.data import Batch, count_inputs, count_targets, micro_batches, open_tokens, require_targets
from tilth.trainer.distill.student import freeze
from tilth.trainer.document_losses import DocumentLosses, write_table
from tilth.trainer.evaluate import evaluate
from tilth.trainer.execution import autocast, wrap_sublayers
from tilth.trainer.failures import memory_errors, not_finite
from tilth.trainer.given import NOTHING, Given, identity_of
from tilth.trainer.initial import initial_model
from tilth.trainer.interrupt import Wish, stop_wish
from tilth.trainer.metrics import Metrics, read_metrics
from tilth.trainer.objectives import Objective, make_objective
from tilth.trainer.optim import learning_rate, make_optimizer, set_learning_rate
from tilth.trainer.parallel import add_up_gradients, add_up_slices, clip_gradients, lay_out, whole_model
from tilth.trainer.saving import Checkpointer
from tilth.trainer.spikes import SpikeGuard
from tilth.trainer.throughput import flops_per_token, speed
from tilth.trainer.world import World, join_world, sole_use

log = logging.getLogger(__name__)
OnStep = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class TrainResult:
    """What a finished run leaves; losses are nats per target token."""

    folder: Path  # model.safetensors, config.json, tokenizer.json, metrics.jsonl, checkpoints/, tensorboard/
    steps: int
    first_loss: float  # before any update
    final_loss: float  # of the last step, before its update
    start_validation_loss: float | None  # before the first update
    validation_loss: float | None  # after the last update
    validation_accuracy: float | None  # of documents whose class is right, after the last update
    n_tokens: int  # targets over all steps
    n_skipped: int  # steps whose update was left out, see TrainConfig.skip_spikes
    seconds: float  # of all steps, evaluations and checkpoints apart
    tokens_per_second: float  # input tokens of all processes
    weights_digest: str
    resumed_from: int | None  # the step of the checkpoint that this call began from


def train(
    model_config: ModelConfig,
    config: TrainConfig,
    tokens: Path | Sequence[Source],
    validation: Path | Sequence[Source] | None,
    work_dir: Path,
    given: Given = NOTHING,
    on_step: OnStep | None = None,
) -> TrainResult:
    """Train on the token set `tokens`, or a mixture of several, or go on where an interrupted call with the same inputs stopped.

    Under `torchrun` every process calls this with the same arguments and a `work_dir` that all can read.
    `given` is what it begins with and learns from; `on_step` gets the metrics of each step, in the first process.
    Bits are equal to those of an uninterrupted run at the same number of processes and threads. Raises StaleError
    (other inputs than the run was begun with), TrainError (loss not finite, a process died, no whole checkpoint),
    StoreError (disk full; the last checkpoint stays), RecipeError, ContractError, and KeyboardInterrupt after a
    checkpoint when asked to stop.
    """
    work_dir = Path(work_dir)
    with (
        join_world(config.device, config.tensor_parallel) as world,
        sole_use(work_dir, world),
        memory_errors(work_dir, config, world.data_size),
    ):
        run = _prepare(model_config, config, tokens, validation, work_dir, given, world)
        if run.first_step < config.steps:
            _take_steps(run, on_step)
        model = whole_model(run.model, world)
        return world.from_first(lambda: _finish(run, model))


@dataclass
class _Run:
    config: TrainConfig
    work_dir: Path
    world: World
    tokens: TokenMixture
    validation: TokenMixture | None
    order: MixedOrder
    objective: Objective
    model: Decoder
    optimizer: torch.optim.Optimizer
    guard: SpikeGuard
    saver: Checkpointer
    resumed_from: int | None
    flops_per_token: float
    losses: DocumentLosses | None = None

    @property
    def first_step(self) -> int:
        return self.resumed_from or 0


def _prepare(
    model_config: ModelConfig,
    config: TrainConfig,
    sources: Path | Sequence[Source],
    validation_sources: Path | Sequence[Source] | None,
    work_dir: Path,
    given: Given,
    world: World,
) -> _Run:
    tokens = open_tokens(sources, model_config)
    validation = open_tokens(validation_sources, model_config) if validation_sources else None
    if validation and validation.tokenizer_digest != tokens.tokenizer_digest:
        raise StaleError("the validation set was made by another tokenizer", where=str(validation.folder))
    teacher = given.read_teacher(config, model_config.vocab_size, tokens, world.device)
    objective = make_objective(config, model_config, tokens, teacher)
    order = tokens.order(config.seq_len, config.global_batch, config.seed, objective.reads_whole_documents)
    check_repeats(order, tokens.names, config.steps, config.max_repeats or math.inf)
    order.batch(0, world.data_rank, world.data_size)  # an unequal share is refused before any work
    torch.manual_seed(config.seed)
    model = initial_model(given.initial, model_config, tokens)
    freeze(model, config, given.teacher)
    identity = {
        "model": model_config.to_dict(),
        "train": config.identity(),
        "tokens": tokens.identity(),
        "initial_digest": weights_digest(model.state_dict()) if given.initial else None,
        **identity_of(teacher),
    }
    checkpoint = world.from_first(lambda: check_identity(latest_checkpoint(work_dir), identity))
    model = lay_out(model, world, config.shard)
    wrap_sublayers(model, config)
    optimizer = make_optimizer(model, config)
    # What the rounding of sums depends on, the settings that a resumed run may change included.
    place = {**world.place, "shard": config.shard and world.data_size > 1}
    place |= {"micro_batch": config.micro_batch, "compile": config.compile}
    if checkpoint:
        log.info("resuming from %s", checkpoint.folder)
        restore(checkpoint, model, optimizer, world, place)
    guard = SpikeGuard(config.skip_spikes, checkpoint.state["ledger"] if checkpoint else None)
    saver = Checkpointer(work_dir, model, optimizer, world, identity, place)
    resumed_from = checkpoint.step if checkpoint else None
    flops = flops_per_token(model_config, config, teacher.config if isinstance(teacher, Decoder) else None)
    return _Run(
        config, work_dir, world, tokens, validation, order, objective, model, optimizer, guard, saver, resumed_from, flops
    )


def _take_steps(run: _Run, on_step: OnStep | None) -> None:
    config, world = run.config, run.world
    record = Metrics(run.work_dir, run.first_step, config.wandb_project) if world.is_first else contextlib.nullcontext()
    if config.document_losses and world.tensor_rank == 0:
        run.losses = DocumentLosses(run.work_dir, run.first_step, world)
    with record as metrics, run.saver, stop_wish() as wish:
        for step in range(run.first_step, config.steps):
            # what a fine-tune, above all, is compared with
            at_start = _validate(run, "start_") if step == 0 else {}
            run.saver.check()
            line, is_stopping = _take_step(run, step, wish)
            line |= at_start
            n_done = step + 1
            if _is_due(n_done, config.eval_every, config.steps):
                line |= _validate(run)
            if metrics:
                metrics.write(line)
                if on_step:
                    on_step(line)
            if is_stopping or _is_due(n_done, config.checkpoint_every, config.steps):
                run.saver.save(n_done, run.guard.ledger, [record.sync for record in (metrics, run.losses) if record])
                if is_stopping and n_done < config.steps:
                    run.saver.wait()
                    log.info("stopped after step %d as asked", step)
                    raise KeyboardInterrupt


def _take_step(run: _Run, step: int, wish: Wish) -> tuple[dict[str, Any], bool]:
    """One update. Returns the line for the metrics, and whether any process was asked to stop."""
    began = time.perf_counter()
    config, world = run.config, run.world
    batches = _read_share(run, step)
    n_targets = require_targets(world.add_up([count_targets(batches) / world.tensor_size])[0], f"step {step}")
    loss_sum = _make_gradients(run, batches, n_targets)
    if run.losses:
        run.losses.write(step)
    add_up_gradients(run.model, world)
    n_read = count_inputs(batches, run.objective.reads_whole_documents) / world.tensor_size
    total, n_wishes, n_read = world.add_up([loss_sum, float(wish.is_set), n_read])
    loss = total / n_targets
    grad_norm = clip_gradients(run.model, config.clip_norm, world)
    is_skipped = run.guard.skips(step, loss, grad_norm)
    if run.guard.gives_up:
        run.saver.wait()  # the error names the last checkpoint
        raise not_finite(run.work_dir, step, loss, grad_norm)
    lr = learning_rate(step, config)
    if not is_skipped:
        set_learning_rate(run.optimizer, lr)
        run.optimizer.step()
    line = {"step": step, "loss": loss, "lr": lr, "grad_norm": grad_norm, "n_tokens": n_targets}
    if is_skipped:
        log.warning("step %d is skipped: its loss is %.3f, its gradient norm %.3f", step, loss, grad_norm)
        line["skipped"] = True
    seconds = time.perf_counter() - began
    return line | speed(run.flops_per_token, n_read, seconds, world.device, world.size), n_wishes > 0


def _read_share(run: _Run, step: int) -> list[Batch]:
    """This process's part of the batch of `step`, as micro-batches."""
    config, world = run.config, run.world
    plans = run.order.batch(step, world.data_rank, world.data_size)
    plans = mark_turned(plans, config.reverse_complement, config.seed, step, world.data_rank * len(plans))
    if run.losses:
        run.losses.begin(plans)
    numbered = list(enumerate(plans, start=world.data_rank * len(plans)))
    arrange = run.objective.arrange
    return list(
        micro_batches(
            run.tokens, numbered, config.micro_batch, world.device, lambda row, plan, number: arrange(row, plan, step, number)
        )
    )


def _make_gradients(run: _Run, batches: list[Batch], n_targets: int) -> float:
    """Leave the gradients of the mean loss over `n_targets` in the parameters; returns the sum of this process's losses."""
    run.optimizer.zero_grad()
    loss_sum = torch.zeros((), dtype=torch.float64, device=run.world.device)
    for batch in batches:
        with autocast(run.config, run.world.device):
            each_BT = torch.empty_like(batch[0], dtype=torch.float32) if run.config.document_losses else None
            loss, _ = run.objective.loss(run.model, batch, each_BT)
        (loss / n_targets).backward()
        loss_sum += loss.detach()
        if each_BT is not None:
            add_up_slices(each_BT, run.world)
            if run.losses:
                run.losses.add(batch, each_BT)
    return float(loss_sum)


def _validate(run: _Run, prefix: str = "") -> dict[str, float]:
    if not run.validation:
        return {}
    found = evaluate(run.model, run.objective, run.validation, run.config, run.world)
    return {f"{prefix}{name}": value for name, value in found.items()}


def _is_due(n_done: int, every: int, n_steps: int) -> bool:
    return n_done == n_steps or (every > 0 and n_done % every == 0)


def _finish(run: _Run, model: Decoder) -> TrainResult:
    """Publish the model of the last step. Every part can be repeated: a kill here is made good by the next call."""
    with disk_errors(run.work_dir):
        tokenizer = run.tokens.sets[0].tokenizer()
        digest = save_model(run.work_dir, model, tokenizer.data)
        write_text_ends(run.work_dir, tokenizer)
    lines = read_metrics(run.work_dir)
    if not lines:
        raise TrainError("metrics.jsonl of a finished run is missing or empty", where=str(run.work_dir))
    if run.config.document_losses:
        write_table(run.work_dir, run.tokens.names, sum(line["n_tokens"] for line in lines))
    seconds = sum(line["seconds"] for line in lines)
    return TrainResult(
        folder=run.work_dir,
        steps=run.config.steps,
        first_loss=lines[0]["loss"],
        final_loss=lines[-1]["loss"],
        start_validation_loss=lines[0].get("start_validation_loss"),
        validation_loss=lines[-1].get("validation_loss"),
        validation_accuracy=lines[-1].get("validation_accuracy"),
        n_tokens=sum(line["n_tokens"] for line in lines),
        n_skipped=sum("skipped" in line for line in lines),
        seconds=seconds,
        tokens_per_second=sum(line["seconds"] * line["tokens_per_second"] for line in lines) / seconds,
        weights_digest=digest,
        resumed_from=run.resumed_from,
    )
