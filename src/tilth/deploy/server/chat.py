"""POST /v1/chat/completions: a conversation in, the assistant's next turn out."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from tilth.deploy.server.answer import Choice, Delta, Usage
from tilth.deploy.server.api_errors import ApiError
from tilth.deploy.server.branch_text import SaidToken
from tilth.deploy.server.call import Call, check_choices, shared_fields
from tilth.deploy.server.chat_template import ChatTemplate
from tilth.deploy.server.completions import log_p_of
from tilth.deploy.server.limits import Limits
from tilth.deploy.server.models import ServedModel
from tilth.deploy.server.prompts import PromptReader
from tilth.deploy.server.schemas import ChatCall
from tilth.deploy.server.token_text import TokenText


class ChatForm:
    """`chat.completion`, and `chat.completion.chunk` in a stream."""

    def __init__(self, model: str, tokens: TokenText, has_logprobs: bool) -> None:
        self._tokens, self._has_logprobs = tokens, has_logprobs
        self._head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": model}
        self._whole_head = self._head | {"object": "chat.completion"}
        self._chunk_head = self._head | {"object": "chat.completion.chunk"}

    def whole(self, deltas: Sequence[Delta], usage: Usage) -> dict[str, Any]:
        """The answer at once."""
        choices = [
            {
                "index": delta.choice.index,
                "message": {"role": "assistant", "content": delta.text, "refusal": None},
                "logprobs": self._logprobs(delta),
                "finish_reason": delta.finish_reason,
            }
            for delta in deltas
        ]
        return self._whole_head | {"choices": choices, "usage": usage.describe()}

    def opening(self, choices: Sequence[Choice]) -> list[dict[str, Any]]:
        """Who speaks."""
        return [self._chunk(choice.index, {"role": "assistant", "content": ""}, None, None) for choice in choices]

    def chunk(self, delta: Delta) -> dict[str, Any]:
        """A chunk of a stream."""
        said = {"content": delta.text} if delta.text else {}
        return self._chunk(delta.choice.index, said, self._logprobs(delta), delta.finish_reason)

    def closing(self, usage: Usage) -> dict[str, Any]:
        """The chunk that tells the usage."""
        return self._chunk_head | {"choices": [], "usage": usage.describe()}

    def _chunk(self, index: int, said: dict[str, str], logprobs: Any, reason: str | None) -> dict[str, Any]:
        choice = {"index": index, "delta": said, "logprobs": logprobs, "finish_reason": reason}
        return self._chunk_head | {"choices": [choice]}

    def _logprobs(self, delta: Delta) -> dict[str, Any] | None:
        if not self._has_logprobs:
            return None
        return {"content": [self._said(said) for said in delta.tokens], "refusal": None}

    def _said(self, said: SaidToken) -> dict[str, Any]:
        likeliest = [self._entry(token, log_p) for token, log_p in said.token.likeliest]
        return self._entry(said.token.token_id, said.token.log_p) | {"top_logprobs": likeliest}

    def _entry(self, token_id: int, log_p: float | None) -> dict[str, Any]:
        name, data = self._tokens.name_of(token_id), self._tokens.bytes_of(token_id)
        return {"token": name, "logprob": log_p_of(log_p), "bytes": list(data or name.encode())}


async def read_chat(
    asked: ChatCall, model: ServedModel, reader: PromptReader, template: ChatTemplate, tokens: TokenText, limits: Limits
) -> Call:
    """The call made ready. Raises ApiError 400."""
    n = asked.n or 1
    check_choices(1, n, limits)
    if asked.top_logprobs is not None and not asked.logprobs:
        raise ApiError(400, "`top_logprobs` needs `logprobs: true`.", param="top_logprobs", code="invalid_value")
    for turn in asked.messages:
        extra = next((name for name, value in (turn.model_extra or {}).items() if value not in (None, [], {})), None)
        if extra is not None:
            what = f"`{extra[:200]}` of a message is not supported by this server; leave it out."
            raise ApiError(400, what, param="messages", code="unsupported_parameter")
    max_tokens = asked.max_completion_tokens or asked.max_tokens
    ids = await template.encode(asked.messages)
    reader.check_length(len(ids), max_tokens or 1)
    shared = shared_fields(asked, model, reader, limits)
    return Call(
        **shared | {"stops": (*shared["stops"], *template.stops)},
        prompts=[ids],
        max_tokens=[max_tokens or reader.room_after(len(ids), n)],
        n=n,
        n_branches=n,
        n_logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        keeps_tokens=bool(asked.logprobs),
        form=ChatForm(model.name, tokens, bool(asked.logprobs)),
    )
