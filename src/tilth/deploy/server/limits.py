"""What is bounded, so that no client, alone or with others, can take all memory or time."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from tilth.deploy.server.api_errors import CLIENT_GONE, ApiError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds of the HTTP side; the engine has its own for what runs and waits. Seconds and bytes as named.

    max_samples are of one prompt, which the engine takes on together; max_choices of all prompts of a call.
    max_open_requests: calls whose answer is not finished, those in the engine's queue among them, and max_open_bytes of their
    bodies. max_pending_events: tokens of each choice that a stream may leave unread before it is cancelled. write_seconds: how
    long one write may wait for a slow reader.
    """

    max_body_bytes: int = 4 * 2**20
    max_open_bytes: int = 256 * 2**20
    max_context_tokens: int = 4096
    max_samples: int = 64
    max_choices: int = 128
    max_stop_strings: int = 16
    max_stop_chars: int = 1024
    max_open_requests: int = 512
    max_pending_events: int = 1024
    body_seconds: float = 30.0
    request_seconds: float = 600.0
    write_seconds: float = 30.0
    keep_alive_seconds: float = 15.0
    drain_seconds: float = 30.0


class Gate:
    """Lets calls in until there are too many, or until it is closed; knows how many are inside, and their bytes.

    refusal is what those are told who come after it was closed, None while it is open.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.n_open = self.n_bytes = 0
        self.refusal: ApiError | None = None
        self._emptied = asyncio.Event()

    @contextmanager
    def admit(self) -> Iterator[Visit]:
        """Raises the refusal where it is closed and ApiError 429 when full, before a byte of the body is read."""
        if self.refusal is not None:
            raise self.refusal.with_traceback(None)  # the same object each time: its traces would pile up
        if self.n_open >= self._limits.max_open_requests:
            raise ApiError(429, f"{self.n_open} requests are open, which is the most.", code="too_many_requests", retry_after=1)
        self.n_open += 1
        visit = Visit(self, self._limits.max_open_bytes)
        try:
            yield visit
        finally:
            self.n_open -= 1
            self.n_bytes -= visit.n_bytes
            if self.n_open == 0:
                self._emptied.set()

    def close(self, refusal: ApiError) -> None:
        """Let nobody in any more; what was said first stays."""
        self.refusal = self.refusal or refusal

    async def wait_until_empty(self) -> None:
        """Returns when no call is inside."""
        while self.n_open:
            self._emptied.clear()
            await self._emptied.wait()


class Visit:
    """A call inside the gate. n_bytes of its body are counted until it leaves."""

    def __init__(self, gate: Gate, max_open_bytes: int) -> None:
        self._gate, self._max_open_bytes = gate, max_open_bytes
        self.n_bytes = 0

    def take(self, n_bytes: int) -> None:
        """Raises ApiError 429 where all bodies together would be too large."""
        if self._gate.n_bytes + n_bytes > self._max_open_bytes:
            raise ApiError(429, "The open requests hold too many bytes.", code="too_many_requests", retry_after=1)
        self._gate.n_bytes += n_bytes
        self.n_bytes += n_bytes


async def read_body(request: Request, limits: Limits, visit: Visit | None = None) -> bytes:
    """The body, given up as soon as it is known to be too large or too slow. Raises ApiError 413, 429, 408 or 499."""
    too_large = ApiError(413, f"The body has more than {limits.max_body_bytes} bytes.", code="body_too_large")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > limits.max_body_bytes:
        raise too_large
    parts, n_bytes = [], 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for part in request.stream():
                n_bytes += len(part)
                if n_bytes > limits.max_body_bytes:
                    raise too_large
                if visit is not None:
                    visit.take(len(part))
                parts.append(part)
    except TimeoutError:
        raise ApiError(408, f"The body did not come within {limits.body_seconds:g} s.", code="body_timeout") from None
    except ClientDisconnect:
        raise ApiError(CLIENT_GONE, "The client hung up.", code="client_gone") from None
    return b"".join(parts)


class BearerGuard:
    """ASGI middleware: all but the open paths need `Authorization: Bearer KEY` with one of the keys; without keys all is open."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], open_paths: Sequence[str] = ()) -> None:
        self._app, self._keys, self._open_paths = app, [key.encode() for key in keys], frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """401 or on to the application."""
        if scope["type"] == "http" and self._keys and scope["path"] not in self._open_paths and not self._is_known(scope):
            error = ApiError(401, "The key in `Authorization: Bearer KEY` is missing or not known.", code="invalid_api_key")
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _is_known(self, scope: Scope) -> bool:
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, token = given.partition(b" ")
        # all keys are compared, in constant time each: the time tells nothing about them
        matches = [hmac.compare_digest(token.strip(), key) for key in self._keys]
        return kind.lower() == b"bearer" and any(matches)
