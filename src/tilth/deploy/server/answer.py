"""Events of the engine become choices: their text, why each ended, what was used, and what went wrong."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass

from tilth.deploy.server.api_errors import ApiError
from tilth.deploy.server.branch_text import BranchText, SaidToken
from tilth.deploy.server.metrics import Metrics
from tilth.deploy.server.submission import Submission
from tilth.inference.engine.requests import BranchFinished, Event, FinishReason, NewToken, RequestFinished


@dataclass
class Choice:
    """One branch of one prompt. index numbers it within the call."""

    prompt: int
    index: int
    text: BranchText
    finish_reason: FinishReason | None = None
    n_tokens: int = 0
    sum_log_p: float = 0.0
    token_time: float | None = None

    @property
    def mean_log_p(self) -> float:
        """By which best_of ranks; of a branch without tokens it is 0, for an end at once was the likeliest text."""
        return self.sum_log_p / self.n_tokens if self.n_tokens else 0.0


@dataclass(frozen=True)
class Delta:
    """What a choice said since it was last asked. finish_reason comes with its last words."""

    choice: Choice
    text: str
    tokens: Sequence[SaidToken]
    finish_reason: FinishReason | None


@dataclass
class Usage:
    """Tokens of a call. Each prompt counts once, however many branches continue it."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def describe(self) -> dict[str, object]:
        """As OpenAI's `usage`."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }


class Answer:
    """The choices of one call while they grow. branches[prompt] are those of one prompt, in the engine's order."""

    def __init__(self, submission: Submission, branches: Sequence[Sequence[Choice]], deadline: float, metrics: Metrics) -> None:
        self.branches, self.usage = branches, Usage()
        self._submission, self._deadline, self._metrics = submission, deadline, metrics
        self._began = time.monotonic()
        self._is_first = True

    def choices(self) -> Iterator[Choice]:
        """All of them."""
        return (choice for branches in self.branches for choice in branches)

    async def deltas(self, idle_seconds: float) -> AsyncIterator[list[Delta]]:
        """What is new, at most one a choice at a time; an empty list after idle_seconds in silence.

        Raises ApiError for what the engine could not do, and for a call that was given up.
        """
        try:
            async for events in self._submission.batches(idle_seconds):
                touched = {choice.index: choice for choice in (self._take(*event) for event in events) if choice}
                deltas = [self._delta(choice) for choice in touched.values()]
                deltas = [delta for delta in deltas if delta.text or delta.tokens or delta.finish_reason]
                if deltas or not events:
                    yield deltas
        except ApiError as error:
            self._metrics.given_up.labels(error.code).inc()
            raise
        self._metrics.whole.observe(time.monotonic() - self._began)

    async def whole(self, idle_seconds: float) -> list[Delta]:
        """All that each choice said, in the order of their numbers."""
        parts: dict[int, list[Delta]] = {choice.index: [] for choice in self.choices()}
        async for deltas in self.deltas(idle_seconds):
            for delta in deltas:
                parts[delta.choice.index].append(delta)
        return [_joined(choice, parts[choice.index]) for choice in self.choices()]

    def _take(self, prompt: int, event: Event) -> Choice | None:
        """The choice that the event changed."""
        if isinstance(event, RequestFinished):
            self.usage.prompt_tokens += event.n_prompt_tokens
            self.usage.cached_tokens += event.n_cached_tokens
            self._metrics.queue.observe(event.queue_seconds)
            return None
        choice = self.branches[prompt][event.branch]
        if choice.finish_reason is not None:
            return None  # its text ended at a stop string, as the engine has noticed by now
        if isinstance(event, NewToken):
            self._take_token(choice, event)
        else:
            self._check(event)
            choice.text.finish()
            choice.finish_reason = event.reason
        return choice

    def _take_token(self, choice: Choice, token: NewToken) -> None:
        self._observe(choice)
        choice.n_tokens += 1
        choice.sum_log_p += token.log_p or 0.0
        self.usage.completion_tokens += 1
        choice.text.add(token)
        if choice.text.is_stopped:
            choice.finish_reason = FinishReason.STOP

    def _observe(self, choice: Choice) -> None:
        now = time.monotonic()
        if choice.token_time is not None:
            self._metrics.next_token.observe(now - choice.token_time)
        elif self._is_first:
            self._is_first = False
            self._metrics.first_token.observe(now - self._began)
        choice.token_time = now

    def _check(self, event: BranchFinished) -> None:
        if event.reason is FinishReason.ERROR:
            what = event.message.splitlines()[0] if event.message else "no reason was given"
            raise ApiError(500, f"The engine failed on this request: {what}", code="engine_error")
        if event.reason is FinishReason.CANCELLED:
            if time.monotonic() >= self._deadline:
                raise ApiError(504, "The time limit of this request is over.", code="deadline")
            raise ApiError(503, f"The engine gave the request up: {event.message or 'no reason was given'}.", code="cancelled")

    def _delta(self, choice: Choice) -> Delta:
        text = choice.text.take()
        return Delta(choice, text, choice.text.take_tokens(), choice.finish_reason)


def _joined(choice: Choice, deltas: Sequence[Delta]) -> Delta:
    text = "".join(delta.text for delta in deltas)
    return Delta(choice, text, [token for delta in deltas for token in delta.tokens], choice.finish_reason)
