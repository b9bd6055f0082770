"""What is asked of the engine, and what it answers: plain values, free of torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from tilth.errors import UserError
from tilth.inference.sampling import Sampling
from tilth.inference.stopping import Stopping


class FinishReason(StrEnum):
    """Why a branch ended. error: the engine failed on it, others go on; cancelled: by the caller, a deadline or a shutdown."""

    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    ERROR = "error"


class MissReason(StrEnum):
    """Why the cache could not save a prompt's prefill, or all of it: what a metric counts and an operator asks for."""

    NONE = "none"  # all but the last token was there
    NO_PREFIX = "no_prefix"  # no token of it was ever seen under this root
    NO_STATE = "no_state"  # keys and values reach further than the last recurrent state
    EVICTED = "evicted"  # it was there once
    OFF = "off"  # this model, or this request, uses no cache


@dataclass(frozen=True, kw_only=True)
class Request:
    """Continue prompt_ids n times, each by at most max_tokens; branch i draws with seed + i, whatever else is in the batch.

    tenant names a fine-tune (None = the base). salt keeps what this request leaves in the cache from requests with another
    salt. n_logprobs: also report the log p of each token and of the n likeliest (None = no, 0 = only its own). deadline is on
    the clock of time.monotonic. uses_cache False neither reads nor fills the cache.
    """

    prompt_ids: tuple[int, ...]
    max_tokens: int = 16
    n: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    stopping: Stopping = field(default_factory=Stopping)
    seed: int = 0
    tenant: str | None = None
    salt: str = ""
    n_logprobs: int | None = None
    deadline: float | None = None
    uses_cache: bool = True


@dataclass(frozen=True)
class NewToken:
    """One token of one branch, and its log p with those of the likeliest (id, log p) where they were asked for."""

    branch: int
    token_id: int
    log_p: float | None = None
    likeliest: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class BranchFinished:
    """A branch has ended; message says what went wrong where the reason is an error."""

    branch: int
    reason: FinishReason
    message: str = ""


@dataclass(frozen=True)
class RequestFinished:
    """The last event of a request. n_cached_tokens of the prompt were not read again; queue_seconds passed before it began."""

    n_prompt_tokens: int
    n_cached_tokens: int
    n_new_tokens: int
    miss_reason: MissReason
    queue_seconds: float = 0.0


Event = NewToken | BranchFinished | RequestFinished
OnEvent = Callable[[Event], None]
"""Called in the engine's thread; must return at once and never raise."""


class QueueFullError(UserError):
    """More requests wait than the engine lets wait; retry_after_seconds is when to ask again."""

    def __init__(self, what: str, retry_after_seconds: float) -> None:
        super().__init__(what, fix=f"ask again in {retry_after_seconds:.0f} s")
        self.retry_after_seconds = retry_after_seconds


class UnknownTenantError(UserError):
    """No fine-tune of that name is loaded."""


class TooLongError(UserError):
    """Prompt and max_tokens together are more than the engine can hold for one request."""


class DrainingError(UserError):
    """The engine finishes what it has and takes nothing new."""
