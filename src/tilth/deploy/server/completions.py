"""POST /v1/completions: text or ids in, text out."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from tilth.deploy.server.answer import Choice, Delta, Usage
from tilth.deploy.server.api_errors import ApiError
from tilth.deploy.server.branch_text import SaidToken
from tilth.deploy.server.call import Call, check_choices, shared_fields
from tilth.deploy.server.limits import Limits
from tilth.deploy.server.models import ServedModel
from tilth.deploy.server.prompts import PromptReader
from tilth.deploy.server.schemas import CompletionCall
from tilth.deploy.server.token_text import TokenText

DEFAULT_MAX_TOKENS = 16  # OpenAI's
NO_LOG_P = -9999.0  # what OpenAI writes for a log of zero, which JSON cannot


class CompletionForm:
    """`text_completion`. echoed: the prompts' texts where the call asked for them, else empty strings."""

    def __init__(self, model: str, tokens: TokenText, echoed: Sequence[str], has_logprobs: bool) -> None:
        self._tokens, self._echoed, self._has_logprobs = tokens, echoed, has_logprobs
        self._head = {
            "id": f"cmpl-{secrets.token_hex(12)}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, deltas: Sequence[Delta], usage: Usage) -> dict[str, Any]:
        """The answer at once."""
        choices = [self._choice(delta, self._echoed[delta.choice.prompt] + delta.text) for delta in deltas]
        return self._head | {"choices": choices, "usage": usage.describe()}

    def opening(self, choices: Sequence[Choice]) -> list[dict[str, Any]]:
        """The prompts, where they are echoed."""
        said = [(choice, self._echoed[choice.prompt]) for choice in choices]
        return [self._head | {"choices": [self._choice(Delta(choice, "", (), None), text)]} for choice, text in said if text]

    def chunk(self, delta: Delta) -> dict[str, Any]:
        """A chunk of a stream."""
        return self._head | {"choices": [self._choice(delta, delta.text)]}

    def closing(self, usage: Usage) -> dict[str, Any]:
        """The chunk that tells the usage."""
        return self._head | {"choices": [], "usage": usage.describe()}

    def _choice(self, delta: Delta, text: str) -> dict[str, Any]:
        logprobs = self._logprobs(delta) if self._has_logprobs else None
        return {"index": delta.choice.index, "text": text, "logprobs": logprobs, "finish_reason": delta.finish_reason}

    def _logprobs(self, delta: Delta) -> dict[str, Any]:
        start = len(self._echoed[delta.choice.prompt])
        return {
            "tokens": [self._tokens.name_of(said.token.token_id) for said in delta.tokens],
            "token_logprobs": [log_p_of(said.token.log_p) for said in delta.tokens],
            "top_logprobs": [self._likeliest(said) for said in delta.tokens],
            "text_offset": [start + said.offset for said in delta.tokens],
        }

    def _likeliest(self, said: SaidToken) -> dict[str, float]:
        return {self._tokens.name_of(token): log_p_of(log_p) for token, log_p in said.token.likeliest}


def log_p_of(log_p: float | None) -> float:
    """A log p that JSON can write."""
    return NO_LOG_P if log_p is None or log_p < NO_LOG_P else log_p


async def read_completion(
    asked: CompletionCall, model: ServedModel, reader: PromptReader, tokens: TokenText, limits: Limits
) -> Call:
    """The call made ready. Raises ApiError 400."""
    n = asked.n or 1
    n_branches = max(n, asked.best_of or n)
    raw = read_prompts(asked.prompt)
    check_choices(len(raw), n_branches, limits, "n" if n_branches == n else "best_of")
    _check(asked, n, n_branches)
    prompts = [await reader.encode(one) if isinstance(one, str) else reader.check_ids(one, "prompt") for one in raw]
    max_tokens = asked.max_tokens or DEFAULT_MAX_TOKENS
    for ids in prompts:
        if not ids:
            raise ApiError(400, "A prompt has no token.", param="prompt", code="invalid_value")
        reader.check_length(len(ids), asked.max_tokens or 1)
    echoed = [one if isinstance(one, str) else await reader.decode(one) for one in raw] if asked.echo else [""] * len(raw)
    is_ranked = n_branches > n
    return Call(
        **shared_fields(asked, model, reader, limits),
        prompts=prompts,
        max_tokens=[min(max_tokens, reader.room_after(len(ids), n_branches)) for ids in prompts],
        n=n,
        n_branches=n_branches,
        n_logprobs=asked.logprobs if asked.logprobs is not None else 0 if is_ranked else None,
        keeps_tokens=asked.logprobs is not None,
        form=CompletionForm(model.name, tokens, echoed, asked.logprobs is not None),
    )


def _check(asked: CompletionCall, n: int, n_branches: int) -> None:
    if asked.best_of is not None and asked.best_of < n:
        raise ApiError(400, f"`best_of` is {asked.best_of}, less than `n`, which is {n}.", param="best_of", code="invalid_value")
    if asked.stream and n_branches > n:
        raise ApiError(400, "`best_of` cannot be streamed: the best is known at the end.", param="best_of", code="invalid_value")
    if asked.echo and asked.logprobs is not None:
        what = "`echo` with `logprobs` is not supported: prompts are read without keeping their log p."
        raise ApiError(400, what, param="logprobs", code="unsupported_parameter")


def read_prompts(prompt: Any) -> list[str | list[Any]]:
    """One prompt or several, each a text or a list of ids. Raises ApiError 400."""
    if prompt is None:
        raise ApiError(400, "`prompt` is missing.", param="prompt", code="missing_parameter")
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, list) and prompt:
        kinds = {type(one) for one in prompt}
        if kinds == {str} or kinds == {list}:
            return prompt
        if kinds <= {int, bool, float}:
            return [prompt]  # check_ids refuses what is no id
    what = "`prompt` is a string, a list of strings, a list of token ids or a list of such lists."
    raise ApiError(400, what, param="prompt", code="invalid_value")
