"""Server-sent events: an answer as it grows, whole errors before its first byte, and readers that are slow or gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from tilth.deploy.server.answer import Answer
from tilth.deploy.server.api_errors import CLIENT_GONE, LOG, ApiError
from tilth.deploy.server.call import Call
from tilth.deploy.server.submission import Submission

DONE = b"data: [DONE]\n\n"
KEEP_ALIVE = b": keep-alive\n\n"


async def event_lines(answer: Answer, call: Call, keep_alive_seconds: float) -> AsyncGenerator[bytes, None]:
    """The bytes of the stream, one item for all that was new at once. Before the first item errors are raised as ApiError."""
    has_begun = False
    try:
        async for deltas in answer.deltas(keep_alive_seconds):
            lines = [] if has_begun else [_line(chunk) for chunk in call.form.opening(list(answer.choices()))]
            has_begun = True
            lines += [_line(call.form.chunk(delta)) for delta in deltas] or [KEEP_ALIVE]
            yield b"".join(lines)
        if call.has_usage:
            yield _line(call.form.closing(answer.usage))
    except ApiError as error:
        if not has_begun:
            raise
        yield _line(error.body())
    yield DONE


def _line(chunk: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n\n"


class EventStream(StreamingResponse):
    """Sends first and then all of rest; calls on_close exactly once, however it ends.

    A write that waits longer than write_seconds for its reader ends the stream; uvicorn then closes the connection.
    """

    def __init__(
        self, first: bytes, rest: AsyncGenerator[bytes, None], write_seconds: float, on_close: Callable[[], None]
    ) -> None:
        # proxies must pass events on as they come
        headers = {"cache-control": "no-cache", "x-accel-buffering": "no"}
        super().__init__(_chain(first, rest), media_type="text/event-stream", headers=headers)
        self._write_seconds, self._on_close = write_seconds, on_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI call; disconnects are watched by `give_up_when_gone`, which makes the lines end."""

        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(self._write_seconds):
                await send(message)

        try:
            await self.stream_response(send_in_time)
        except TimeoutError:
            LOG.info("a reader took nothing for %g s; its stream was ended", self._write_seconds)
        finally:
            self._on_close()


async def _chain(first: bytes, rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    yield first
    async for lines in rest:
        yield lines


async def give_up_when_gone(request: Request, submission: Submission) -> None:
    """Cancel the call's work as soon as its client hangs up; ends with the call."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    submission.give_up(ApiError(CLIENT_GONE, "The client hung up.", code="client_gone"))
