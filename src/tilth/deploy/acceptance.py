"""Whether a delta keeps enough of its fine-tune to be given to anyone."""

from __future__ import annotations

import math

from tilth.deploy.verification import Verification
from tilth.errors import DeltaError

# a share of what the fine-tune gained over its base
MAX_LOSS = 0.25
# gains under these are noise of a few thousand tokens, or of a few answers: a share of them would refuse at random
LEAST_NATS = 0.02
LEAST_ANSWERS = 4


def check_max_loss(max_loss: float) -> None:
    """Raise DeltaError for a share that is negative or no number: it would refuse everything, after all the work."""
    if math.isnan(max_loss) or max_loss < 0:
        fix = f"Give a share from 0 on, such as {MAX_LOSS}; `inf` refuses nothing."
        raise DeltaError(f"{max_loss} of the gain cannot be lost", where="max_loss", fix=fix)


def check_acceptable(verification: Verification, max_loss: float) -> None:
    """Raise DeltaError where base + delta loses more than the share max_loss of what the fine-tune gained over its base.

    In loss (nats per token), and, where a task was given, in the share of its answers that are right. Gains under 0.02 nats,
    or 4 answers, count as that much.
    """
    found = verification
    gain, lost = found.loss_base - found.loss_tuned, found.loss_delta - found.loss_tuned
    told = f"loss: base {found.loss_base:.4f}, fine-tune {found.loss_tuned:.4f}, base + delta {found.loss_delta:.4f}"
    _check("nats per token", gain, lost, LEAST_NATS, max_loss, told)
    if found.task_base is None or found.task_tuned is None or found.task_delta is None:
        return
    gain, lost = found.task_tuned - found.task_base, found.task_tuned - found.task_delta
    told = f"answers: base {found.task_base:.1%}, fine-tune {found.task_tuned:.1%}, base + delta {found.task_delta:.1%}"
    _check("of the task's answers", gain, lost, LEAST_ANSWERS / found.n_task_answers, max_loss, told)


def _check(unit: str, gain: float, lost: float, least: float, max_loss: float, told: str) -> None:
    allowed = max_loss * max(gain, least)
    # a share of exactly one answer must not fail on a last bit; what is not a number is allowed nothing
    if not lost <= allowed + 1e-9:
        raise DeltaError(
            f"the delta loses {lost:.4f} {unit}, and {allowed:.4f} are allowed: {max_loss:.0%} of what the fine-tune gained",
            where=told,
            fix="Keep more of it (`--codec residual:2`, `--tables 16`), distil for more steps, or raise `--max-loss`.",
        )
