"""A call made ready for the engine: its requests, and the form in which its answer goes out."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from tilth.deploy.server.answer import Choice, Delta, Usage
from tilth.deploy.server.api_errors import ApiError
from tilth.deploy.server.branch_text import BranchText, StopWatch
from tilth.deploy.server.limits import Limits
from tilth.deploy.server.models import ServedModel
from tilth.deploy.server.prompts import PromptReader
from tilth.deploy.server.schemas import Generation
from tilth.deploy.server.token_text import TokenText
from tilth.inference.engine.requests import Request
from tilth.inference.sampling import Sampling
from tilth.inference.stopping import Stopping

GREEDY_BELOW = 1e-5  # a temperature that fp32 logits cannot be divided by
_SEEDS = 2**62  # seed + branch stays below 2^63


class Form(Protocol):
    """How an answer looks: of a completion or of a chat."""

    def whole(self, deltas: Sequence[Delta], usage: Usage) -> dict[str, Any]:
        """The answer at once."""

    def opening(self, choices: Sequence[Choice]) -> list[dict[str, Any]]:
        """Chunks before the first token."""

    def chunk(self, delta: Delta) -> dict[str, Any]:
        """A chunk of a stream."""

    def closing(self, usage: Usage) -> dict[str, Any]:
        """The chunk that tells the usage."""


@dataclass(frozen=True, kw_only=True)
class Call:
    """prompts are ids; each is continued by n_branches, of which the best n are answered; stops are strings."""

    model: ServedModel
    prompts: Sequence[tuple[int, ...]]
    max_tokens: Sequence[int]
    sampling: Sampling
    seed: int
    form: Form
    n: int = 1
    n_branches: int = 1
    n_logprobs: int | None = None
    keeps_tokens: bool = False
    stops: Sequence[str] = ()
    end_ids: tuple[int, ...] = ()
    salt: str = ""
    uses_cache: bool = True
    deadline: float = 0.0
    is_stream: bool = False
    has_usage: bool = False

    def requests(self) -> list[Request]:
        """What the engine is asked: one request for each prompt."""
        return [
            Request(
                prompt_ids=ids, max_tokens=max_tokens, n=self.n_branches, sampling=self.sampling,
                stopping=Stopping(stop_ids=self.end_ids), seed=self.seed, tenant=self.model.tenant, salt=self.salt,
                n_logprobs=self.n_logprobs, deadline=self.deadline, uses_cache=self.uses_cache,
            )
            for ids, max_tokens in zip(self.prompts, self.max_tokens, strict=True)
        ]  # fmt: skip

    def branches(self, tokens: TokenText) -> list[list[Choice]]:
        """The choices that the requests will fill, by prompt."""
        n = self.n_branches
        return [
            [Choice(prompt, prompt * n + i, BranchText(tokens, self.stops, self.keeps_tokens)) for i in range(n)]
            for prompt in range(len(self.prompts))
        ]

    def stop_watches(self, tokens: TokenText) -> list[list[StopWatch]]:
        """One for each branch, by prompt; none where no string stops."""
        if not self.stops:
            return []
        return [[StopWatch(tokens, self.stops) for _ in range(self.n_branches)] for _ in self.prompts]

    def best(self, deltas: Sequence[Delta]) -> list[Delta]:
        """Of each prompt's branches the n of the highest mean log p, in that order; all of them where none is left out."""
        if self.n == self.n_branches:
            return list(deltas)
        kept = []
        for start in range(0, len(deltas), self.n_branches):
            ranked = sorted(deltas[start : start + self.n_branches], key=lambda delta: -delta.choice.mean_log_p)
            kept += ranked[: self.n]
        for index, delta in enumerate(kept):
            delta.choice.index = index
        return kept


def shared_fields(asked: Generation, model: ServedModel, reader: PromptReader, limits: Limits) -> dict[str, Any]:
    """What both kinds of call say in the same way, as arguments of Call. Raises ApiError 400."""
    temperature = 1.0 if asked.temperature is None else asked.temperature
    top_k = asked.top_k if asked.top_k is not None and asked.top_k > 0 else None
    sampling = Sampling(
        temperature=0.0 if temperature < GREEDY_BELOW else temperature,
        top_k=top_k,
        top_p=1.0 if asked.top_p is None else asked.top_p,
        min_p=asked.min_p or 0.0,
    )
    if asked.stream_options is not None and not asked.stream:
        raise ApiError(400, "`stream_options` needs `stream: true`.", param="stream_options", code="invalid_value")
    return {
        "model": model,
        "sampling": sampling,
        "seed": (secrets.randbelow(_SEEDS) if asked.seed is None else asked.seed) % _SEEDS,
        "stops": read_stops(asked.stop, limits),
        "end_ids": () if asked.ignore_eos else reader.end_ids,
        "salt": asked.cache_salt or "",
        "uses_cache": asked.uses_cache is not False,
        "deadline": time.monotonic() + limits.request_seconds,
        "is_stream": bool(asked.stream),
        "has_usage": bool(asked.stream_options and asked.stream_options.include_usage),
    }


def read_stops(stop: Sequence[str] | None, limits: Limits) -> tuple[str, ...]:
    """The stop strings, each once. Raises ApiError 400 for empty, too many or too long ones."""
    stops = stop or ()
    if len(stops) > limits.max_stop_strings:
        raise ApiError(400, f"`stop` has more than {limits.max_stop_strings} strings.", param="stop", code="invalid_value")
    if any(not 0 < len(one) <= limits.max_stop_chars for one in stops):
        what = f"A stop string has 1 to {limits.max_stop_chars} characters."
        raise ApiError(400, what, param="stop", code="invalid_value")
    return tuple(dict.fromkeys(stops))


def check_choices(n_prompts: int, n: int, limits: Limits, param: str = "n") -> None:
    """Raises ApiError 400 where a prompt would have more branches than it may, or the call; param is what asks for n."""
    if n > limits.max_samples:
        what = f"`{param}` is {n}; one prompt may have {limits.max_samples} samples."
    elif n_prompts * n > limits.max_choices:
        prompts, samples = _counted(n_prompts, "prompt"), _counted(n, "sample")
        what = f"{prompts} with {samples} each would be {n_prompts * n} choices; one call may ask for {limits.max_choices}."
    else:
        return
    raise ApiError(400, what, param=param, code="too_many_choices")


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
