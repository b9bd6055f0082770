"""Where other threads leave what they want: requests to take up, requests to give up; checked as it comes in."""

from __future__ import annotations

import threading
import time

import numpy as np

from tilth.errors import UserError
from tilth.inference.engine.jobs import Job
from tilth.inference.engine.limits import EngineLimits
from tilth.inference.engine.requests import DrainingError, FinishReason, QueueFullError, Request, TooLongError
from tilth.inference.generate import check_prompt
from tilth.models.decoder import Decoder

SHORTEST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1.0, 60.0
MOST_SEEDS = 1 << 63
GivenUp = tuple[int, int | None, FinishReason]
"""A request, its branch or None for all of them, and why it ends."""


class Desk:
    """Guarded by `changed`, a condition that is notified of all that the engine's thread may wait for."""

    def __init__(self, limits: EngineLimits) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.is_draining = False
        self.n_queued = 0  # those that the engine took up and has not begun
        self._limits = limits
        self._arrived: list[Job] = []
        self._given_up: set[GivenUp] = set()
        self._n_jobs = 0
        self._seconds_a_request = SHORTEST_RETRY_SECONDS
        self._last_left = time.monotonic()

    @property
    def n_waiting(self) -> int:
        """Requests that have not begun."""
        return len(self._arrived) + self.n_queued

    @property
    def has_news(self) -> bool:
        """Whether `collect` would find something."""
        return bool(self._arrived or self._given_up)

    def leave(self, job: Job) -> int:
        """Queue a request; returns its number. Raises QueueFullError, DrainingError."""
        with self.changed:
            if self.is_draining:
                raise DrainingError("the engine is shutting down and takes no new requests", fix="ask another server")
            if self.n_waiting >= self._limits.max_waiting:
                raise QueueFullError(f"{self.n_waiting} requests are waiting already", self._retry_after_seconds())
            self._n_jobs += 1
            job.id = self._n_jobs
            self._arrived.append(job)
            self.changed.notify_all()
            return job.id

    def give_up(self, job_id: int, branch: int | None = None, reason: FinishReason = FinishReason.CANCELLED) -> None:
        """Ask for a request, or one of its branches, to be ended; nothing for one that has ended."""
        with self.changed:
            self._given_up.add((job_id, branch, reason))
            self.changed.notify_all()

    def collect(self) -> tuple[list[Job], set[GivenUp]]:
        """What has come in since the last time: new requests, and those to be ended."""
        with self.changed:
            found = self._arrived, self._given_up
            self._arrived, self._given_up = [], set()
            self.n_queued += len(found[0])
            return found

    def note_left(self) -> None:
        """A request has left the queue: how often that happens says when a refused one may ask again."""
        self.n_queued -= 1
        now = time.monotonic()
        self._seconds_a_request = 0.9 * self._seconds_a_request + 0.1 * (now - self._last_left)
        self._last_left = now

    def _retry_after_seconds(self) -> float:
        """Until a quarter of the queue will have been worked off."""
        seconds = self._seconds_a_request * self._limits.max_waiting / 4
        return min(LONGEST_RETRY_SECONDS, max(SHORTEST_RETRY_SECONDS, seconds))


def check_request(request: Request, model: Decoder, limits: EngineLimits, most_bytes: int) -> None:
    """Raise UserError for what no engine of this model can do, TooLongError for what this one cannot hold."""
    ids = np.asarray(request.prompt_ids)
    if not ids.size or ids.dtype.kind not in "iu" or ids.min() < 0 or ids.max() >= model.config.vocab_size:
        check_prompt(model, request.prompt_ids)
        raise UserError("the prompt is not a sequence of token ids", fix="give whole numbers")
    request.sampling.check_ids(model.config.vocab_size)
    for name, value, least, most in (
        ("n", request.n, 1, limits.max_rows),
        ("max_tokens", request.max_tokens, 1, limits.max_tokens),
        ("n_logprobs", request.n_logprobs or 0, 0, model.config.vocab_size),
        ("seed", request.seed, -MOST_SEEDS, MOST_SEEDS - request.n),
    ):
        if not least <= value <= most:
            raise UserError(f"{name} is {value}", where=f"Request.{name}", fix=f"use {least} to {most}")
    n_tokens = len(request.prompt_ids) + request.max_tokens
    if n_tokens > limits.max_tokens:
        raise TooLongError(
            f"the prompt has {len(request.prompt_ids)} tokens, with max_tokens {request.max_tokens} more",
            fix=f"together they may be {limits.max_tokens}",
        )
    if most_bytes > limits.capacity_bytes:
        raise TooLongError(
            f"the request would hold {most_bytes:,} bytes of states, and the engine has {limits.capacity_bytes:,}",
            fix="ask for fewer tokens or samples, or start the engine with more memory",
        )
