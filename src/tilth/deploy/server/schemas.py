"""What may be asked. A parameter that is not supported is refused by name, unless its value asks for nothing."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from tilth.deploy.server.api_errors import ApiError
from tilth.errors import did_you_mean

_MOST_TOKENS = 2**31 - 1
_NOTHING: tuple[Any, ...] = (None, False, [], {}, "")
# name -> values that ask for nothing
UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "suffix": _NOTHING,
    "logit_bias": _NOTHING,
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "tools": _NOTHING,
    "tool_choice": (None, "none"),
    "parallel_tool_calls": (None, True, False),
    "functions": _NOTHING,
    "function_call": (None, "none"),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None,),
    "verbosity": (None,),
    "web_search_options": (None,),
    "service_tier": (None, "auto", "default"),
    "store": (None, False),
}


def _as_list(stop: Any) -> Any:
    """One stop string is a list of one. In place of a union, whose every branch pydantic would complain of."""
    if stop is None or isinstance(stop, list):
        return stop
    if isinstance(stop, str):
        return [stop]
    raise PydanticCustomError("kind", "It is a string or a list of strings")


def _as_text(content: Any) -> Any:
    """The text of a turn's parts together; there are no parts but text."""
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise PydanticCustomError("kind", "It is a string or a list of parts, each with `type` and `text`")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if isinstance(kind, str) and kind != "text":
            what = "A part of the type `{kind}` is not supported: this server reads text alone"
            raise PydanticCustomError("unsupported", what, {"kind": kind[:200]})  # type: ignore[arg-type]
        if kind is None or part.keys() != {"type", "text"} or not isinstance(part["text"], str):
            raise PydanticCustomError("kind", 'Each part is {"type": "text", "text": ...}')
    return "".join(part["text"] for part in content)


class StreamOptions(BaseModel):
    """include_usage: one more chunk at the end with the tokens that were used."""

    model_config = ConfigDict(strict=True, extra="forbid")
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class Generation(BaseModel):
    """What both kinds of call share. Beyond OpenAI's: top_k, min_p, ignore_eos, cache_salt, uses_cache.

    user and metadata label a call where calls are stored, which they are not here: both are taken and left alone.
    """

    model_config = ConfigDict(strict=True, extra="allow", allow_inf_nan=False)
    model: str
    max_tokens: Annotated[int, Field(ge=1, le=_MOST_TOKENS)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=_MOST_TOKENS)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[list[str] | None, BeforeValidator(_as_list)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: Annotated[str, Field(max_length=1024)] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None
    cache_salt: Annotated[str, Field(max_length=1024)] | None = None
    uses_cache: bool | None = None
    ignore_eos: bool | None = None


class CompletionCall(Generation):
    """POST /v1/completions. prompt is checked by completions.read_prompts, whose messages are clearer than a union's."""

    prompt: Any = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class Message(BaseModel):
    """One turn, whose content may come in parts. What else a client sends with a turn must be null."""

    model_config = ConfigDict(strict=True, extra="allow")
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str | None, BeforeValidator(_as_text)] = None
    name: str | None = None


class ChatCall(Generation):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=_MOST_TOKENS)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None


class TokenizeCall(BaseModel):
    """POST /tokenize. add_special_tokens: with what begins a text, as for a prompt."""

    model_config = ConfigDict(strict=True, extra="forbid")
    model: str | None = None
    prompt: str
    add_special_tokens: bool = True


class DetokenizeCall(BaseModel):
    """POST /detokenize."""

    model_config = ConfigDict(strict=True, extra="forbid")
    model: str | None = None
    tokens: list[int]


class LoadCall(BaseModel):
    """POST /v1/load_delta of the admin port: a delta by its name in the store."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    model: Annotated[str, Field(min_length=1, max_length=200)]


class UnloadCall(LoadCall):
    """POST /v1/unload_delta; timeout_seconds is how long the answer waits for requests that run."""

    timeout_seconds: Annotated[float, Field(ge=0, le=3600)] = 300.0


Call = TypeVar("Call", bound=BaseModel)


def read_call(kind: type[Call], body: bytes) -> Call:
    """The call in a body of JSON; raises ApiError 400 with the first thing that is wrong. Deep nesting is no JSON here."""
    try:
        call = kind.model_validate_json(body)
    except ValidationError as error:
        raise _refusal(error, kind) from None
    for name, value in (call.model_extra or {}).items():
        _check_extra(name, value, kind)
    return call


def _refusal(error: ValidationError, kind: type[BaseModel]) -> ApiError:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"The body is not JSON: {first['msg'].removeprefix('Invalid JSON: ')}.", code="invalid_json")
    if first["type"] == "missing":
        where = ".".join(map(str, first["loc"]))
        return ApiError(400, f"`{where}` is missing.", param=where, code="missing_parameter")
    if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
        return _unknown(str(first["loc"][0]), kind)
    where = ".".join(map(str, first["loc"]))
    code = "unsupported_parameter" if first["type"] == "unsupported" else "invalid_value"
    return ApiError(400, f"`{where}`: {first['msg']}." if where else f"{first['msg']}.", param=where or None, code=code)


def _check_extra(name: str, value: Any, kind: type[BaseModel]) -> None:
    if name not in UNSUPPORTED:
        raise _unknown(name, kind)
    # True == 1, but a switch is no number
    if not any(value == nothing and isinstance(value, bool) == isinstance(nothing, bool) for nothing in UNSUPPORTED[name]):
        raise ApiError(400, f"`{name}` is not supported by this server; leave it out.", param=name, code="unsupported_parameter")


def _unknown(name: str, kind: type[BaseModel]) -> ApiError:
    hint = did_you_mean(name[:200], kind.model_fields)
    return ApiError(400, f"There is no parameter `{name[:200]}`. {hint}", param=name[:200], code="unknown_parameter")
