"""How a refusal looks: {"error": {message, type, param, code}} with the status that the openai client maps to a class."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from tilth.errors import NotFoundError, TilthError, UserError
from tilth.inference.engine.requests import DrainingError, QueueFullError, TooLongError, UnknownTenantError

LOG = logging.getLogger("tilth.server")
CLIENT_GONE = 499  # nginx's number for a client that hung up; it reaches metrics and logs only
_TYPES = {
    401: "authentication_error", 404: "not_found_error", 408: "timeout_error", 409: "conflict_error", 429: "rate_limit_error",
    CLIENT_GONE: "cancelled", 503: "unavailable_error", 504: "timeout_error",
}  # fmt: skip


class ApiError(Exception):
    """What the client is told: status, one sentence, the parameter at fault and a code that programs can compare."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = {} if retry_after is None else {"retry-after": str(max(1, math.ceil(retry_after)))}

    def body(self) -> dict[str, Any]:
        """The JSON object of the answer, or of an event in a stream that had begun."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The answer as a whole."""
        return json_response(self.body(), self.status, self.headers)


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON as UTF-8; a number that JSON does not know is a defect here and raises ValueError."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Response(text.encode(), status, dict(headers or {}), media_type="application/json")


def as_api_error(error: Exception) -> ApiError:
    """What an exception of the engine or of this room means to the client; what was not foreseen is logged and told as 500."""
    match error:
        case ApiError():
            return error
        case QueueFullError():
            return ApiError(429, error.what, code="queue_full", retry_after=error.retry_after_seconds)
        case UnknownTenantError() | NotFoundError():
            return ApiError(404, _sentence(error), param="model", code="model_not_found")
        case TooLongError():
            return ApiError(400, _sentence(error), param="prompt", code="context_length_exceeded")
        case DrainingError():
            return draining()
        case UserError():
            return ApiError(400, _sentence(error), code="invalid_value")
        case _:
            LOG.error("a request failed", exc_info=error)
            return ApiError(500, "The server failed on this request; its log says how.", code="internal_error")


def draining() -> ApiError:
    """The answer to all that comes while the server finishes what it has."""
    return ApiError(503, "The server is shutting down and takes nothing new.", code="draining", retry_after=5)


def _sentence(error: TilthError) -> str:
    return "; ".join(part for part in (error.what, error.fix) if part)
