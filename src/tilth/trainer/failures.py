"""What a run that cannot go on says: what happened, which checkpoint is good, and what to change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from tilth.errors import TrainError
from tilth.trainer.checkpoint import published
from tilth.trainer.config import TrainConfig


def not_finite(work_dir: Path, step: int, loss: float, grad_norm: float) -> TrainError:
    """The error of a loss or a gradient that is NaN or infinite."""
    return TrainError(
        f"the loss of step {step} is {loss} (gradient norm {grad_norm}); no update was made",
        where=str(work_dir),
        fix=f"{_last_good(work_dir)} Lower lr, lengthen the warm-up, or look at the documents of step {step}.",
    )


@contextlib.contextmanager
def memory_errors(work_dir: Path, config: TrainConfig, n_processes: int, *, is_training: bool = True) -> Iterator[None]:
    """Turn running out of memory, on a GPU or not, into a TrainError that says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        first_line = str(error).splitlines()[0] if str(error) else type(error).__name__
        kept = _last_good(work_dir) if is_training else "The steps that the teacher has read are kept."
        fix = f"{kept} {_what_to_lower(config, n_processes, is_training)}"
        raise TrainError(f"out of memory: {first_line}", where=str(work_dir), fix=fix) from error


def _is_out_of_memory(error: BaseException) -> bool:
    # The allocator of the CPU raises a bare RuntimeError.
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _what_to_lower(config: TrainConfig, n_processes: int, is_training: bool) -> str:
    size = config.micro_batch or max(1, config.global_batch // n_processes)
    ways = [f"set micro_batch={size // 2} (it was {size}; the loss stays)"] if size > 1 else []
    if is_training and not config.recompute:
        ways.append("set recompute=True")
    if config.precision == "float32":
        ways.append("set precision='bfloat16'")
    return f"To use less: {', or '.join([*ways, f'lower seq_len={config.seq_len}'])}."


def _last_good(work_dir: Path) -> str:
    saved = published(work_dir)
    return f"The last good checkpoint is {saved[-1].name}." if saved else "There is no checkpoint yet."
