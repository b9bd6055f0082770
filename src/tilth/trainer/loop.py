"""The training loop, read from top to bottom: batch, loss, gradients, update, record, evaluate, checkpoint."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tilth.artifacts.atomic import disk_errors, is_locked, locked
from tilth.errors import StaleError, TrainError
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder
from tilth.models.weights import load_model, save_model, weights_digest
from tilth.tokenize.mixed_order import MixedOrder
from tilth.tokenize.mixture import Source, TokenMixture, check_repeats
from tilth.trainer.checkpoint import Checkpoint, check_identity, latest_checkpoint, published, restore, save_checkpoint
from tilth.trainer.config import TrainConfig, differences
from tilth.trainer.data import count_targets, micro_batches, open_tokens
from tilth.trainer.document_losses import DocumentLosses, write_table
from tilth.trainer.evaluate import evaluate
from tilth.trainer.interrupt import Wish, stop_wish
from tilth.trainer.metrics import Metrics, read_metrics
from tilth.trainer.optim import learning_rate, make_optimizer, set_learning_rate
from tilth.trainer.parallel import World, join_world

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
    n_tokens: int  # targets over all steps
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
    initial: Path | None = None,
    on_step: OnStep | None = None,
) -> TrainResult:
    """Train on the token set `tokens`, or a mixture of several, or go on where an interrupted call with the same inputs stopped.

    Under `torchrun` every process calls this with the same arguments and a `work_dir` that all can read.
    `initial` is a saved model to start from; `on_step` gets the metrics of each step, in the first process.
    Bits are equal to those of an uninterrupted run at the same number of processes and threads. Raises StaleError
    (other inputs than the run was begun with), TrainError (loss not finite, a process died, no whole checkpoint),
    StoreError (disk full; the last checkpoint stays), RecipeError, ContractError, and KeyboardInterrupt after a
    checkpoint when asked to stop.
    """
    with join_world(config.device) as world, _sole_use(Path(work_dir), world):
        run = _prepare(model_config, config, tokens, validation, Path(work_dir), initial, world)
        if run.first_step < config.steps:
            _take_steps(run, on_step)
        return world.from_first(lambda: _finish(run))


@contextlib.contextmanager
def _sole_use(work_dir: Path, world: World) -> Iterator[None]:
    """Keep a second run out of `work_dir`: both would cut back the record of the other."""
    if not world.is_first:
        yield
        return
    with disk_errors(work_dir):
        work_dir.mkdir(parents=True, exist_ok=True)
    lock = work_dir / ".lock"
    if is_locked(lock):
        raise TrainError("another process is training here", where=str(work_dir), fix="Wait for it, or use another work folder.")
    with locked(lock):
        yield


@dataclass
class _Run:
    config: TrainConfig
    work_dir: Path
    world: World
    tokens: TokenMixture
    validation: TokenMixture | None
    order: MixedOrder
    model: Decoder
    optimizer: torch.optim.AdamW
    identity: dict[str, Any]
    resumed_from: int | None
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
    initial: Path | None,
    world: World,
) -> _Run:
    tokens = open_tokens(sources, model_config)
    validation = open_tokens(validation_sources, model_config) if validation_sources else None
    if validation and validation.tokenizer_digest != tokens.tokenizer_digest:
        raise StaleError("the validation set was made by another tokenizer", where=str(validation.folder))
    order = tokens.order(config.seq_len, config.global_batch, config.seed)
    check_repeats(order, tokens.names, config.steps, config.max_repeats or math.inf)
    order.batch(0, world.rank, world.size)  # an unequal share is refused before any work
    torch.manual_seed(config.seed)
    model = _load_initial(initial, model_config, tokens) if initial else Decoder(model_config)
    identity = {
        "model": model_config.to_dict(),
        "train": config.identity(),
        "tokens": tokens.identity(),
        "initial_digest": weights_digest(model.state_dict()) if initial else None,
    }
    checkpoint = world.from_first(lambda: _find_checkpoint(work_dir, identity))
    model.to(world.device)
    optimizer = make_optimizer(model, config)
    if checkpoint:
        log.info("resuming from %s", checkpoint.folder)
        restore(checkpoint, model, optimizer, world.place)
    resumed_from = checkpoint.step if checkpoint else None
    return _Run(config, work_dir, world, tokens, validation, order, model, optimizer, identity, resumed_from)


def _find_checkpoint(work_dir: Path, identity: dict[str, Any]) -> Checkpoint | None:
    checkpoint = latest_checkpoint(work_dir)
    if checkpoint:
        check_identity(checkpoint, identity)
    return checkpoint


def _load_initial(folder: Path, model_config: ModelConfig, tokens: TokenMixture) -> Decoder:
    model = load_model(folder)
    changed = differences(model.config.to_dict(), model_config.to_dict(), "model.")
    tokenizer = folder / "tokenizer.json"
    if tokenizer.exists() and tokenizer.read_bytes() != (tokens.folder / "tokenizer.json").read_bytes():
        changed.append("tokenizer.json: the vocabulary differs, so the same id would mean another token")
    if changed:
        raise StaleError(
            "the initial model is not the one to train: " + "; ".join(changed),
            where=str(folder),
            fix="Use its config, and tokenise the subset with its tokenizer.json.",
        )
    return model


def _take_steps(run: _Run, on_step: OnStep | None) -> None:
    config, world = run.config, run.world
    record = Metrics(run.work_dir, run.first_step) if world.is_first else contextlib.nullcontext()
    if config.document_losses:
        run.losses = DocumentLosses(run.work_dir, run.first_step, world)
    with record as metrics, stop_wish() as wish:
        for step in range(run.first_step, config.steps):
            at_start = _evaluate_start(run) if step == 0 else {}
            line, is_stopping = _take_step(run, step, wish)
            line |= at_start
            n_done = step + 1
            if run.validation and _is_due(n_done, config.eval_every, config.steps):
                line["validation_loss"] = evaluate(run.model, run.validation, config, world)
            if metrics:
                metrics.write(line)
                if on_step:
                    on_step(line)
            if is_stopping or _is_due(n_done, config.checkpoint_every, config.steps):
                if run.losses:
                    run.losses.sync()
                if metrics:
                    metrics.sync()
                    save_checkpoint(run.work_dir, n_done, run.model, run.optimizer, run.identity, world.place)
                if is_stopping and n_done < config.steps:
                    log.info("stopped after step %d as asked", step)
                    raise KeyboardInterrupt


def _evaluate_start(run: _Run) -> dict[str, float]:
    """What a fine-tune, above all, is compared with."""
    if not run.validation:
        return {}
    return {"start_validation_loss": evaluate(run.model, run.validation, run.config, run.world)}


def _take_step(run: _Run, step: int, wish: Wish) -> tuple[dict[str, Any], bool]:
    """One update. Returns the line for the metrics, and whether any process was asked to stop."""
    began = time.perf_counter()
    config, world = run.config, run.world
    # Every process knows the whole batch, so the count of all its targets needs no message.
    n_targets = count_targets(run.order.sequences(step), f"step {step}")
    share = run.order.batch(step, world.rank, world.size)
    if run.losses:
        run.losses.begin(share)
    run.optimizer.zero_grad()
    loss_sum = torch.zeros((), dtype=torch.float64, device=world.device)
    for batch in micro_batches(run.tokens, share, config.micro_batch, world.device):
        each_BT = torch.empty_like(batch[0], dtype=torch.float32) if run.losses else None
        loss, _ = run.model.loss(*batch, each_BT)
        (loss / n_targets).backward()
        loss_sum += loss.detach()
        if run.losses and each_BT is not None:
            run.losses.add(batch, each_BT)
    if run.losses:
        run.losses.write(step)
    world.add_up_gradients(run.model.parameters())
    total, n_wishes = world.add_up([float(loss_sum), float(wish.is_set)])
    grad_norm = float(torch.nn.utils.clip_grad_norm_(run.model.parameters(), config.clip_norm))
    _refuse_not_finite(run, step, total / n_targets, grad_norm)
    lr = learning_rate(step, config)
    set_learning_rate(run.optimizer, lr)
    run.optimizer.step()
    seconds = time.perf_counter() - began
    line = {
        "step": step,
        "loss": total / n_targets,
        "lr": lr,
        "grad_norm": grad_norm,
        "n_tokens": n_targets,
        "seconds": seconds,
        "tokens_per_second": config.global_batch * config.seq_len / seconds,
    }
    return line, n_wishes > 0


def _refuse_not_finite(run: _Run, step: int, loss: float, grad_norm: float) -> None:
    if math.isfinite(loss) and math.isfinite(grad_norm):
        return
    saved = published(run.work_dir)
    last = f"The last good checkpoint is {saved[-1].name}." if saved else "There is no checkpoint yet."
    raise TrainError(
        f"the loss of step {step} is {loss} (gradient norm {grad_norm}); no update was made",
        where=str(run.work_dir),
        fix=f"{last} Lower lr, lengthen the warm-up, or look at the documents of step {step}.",
    )


def _is_due(n_done: int, every: int, n_steps: int) -> bool:
    return n_done == n_steps or (every > 0 and n_done % every == 0)


def _finish(run: _Run) -> TrainResult:
    """Publish the model of the last step. Every part can be repeated: a kill here is made good by the next call."""
    with disk_errors(run.work_dir):
        digest = save_model(run.work_dir, run.model, (run.tokens.folder / "tokenizer.json").read_bytes())
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
        n_tokens=sum(line["n_tokens"] for line in lines),
        seconds=seconds,
        tokens_per_second=len(lines) * run.config.global_batch * run.config.seq_len / seconds,
        weights_digest=digest,
        resumed_from=run.resumed_from,
    )
