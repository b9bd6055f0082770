"""What the routes stand on, and the way of a call: let in, read, prepared, handed to the engine, answered."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from starlette import requests
from starlette.responses import Response

from tilth.deploy.server.answer import Answer
from tilth.deploy.server.api_errors import LOG, ApiError, as_api_error, json_response
from tilth.deploy.server.call import Call
from tilth.deploy.server.chat import read_chat
from tilth.deploy.server.chat_template import ChatTemplate
from tilth.deploy.server.completions import read_completion
from tilth.deploy.server.engine_metrics import EngineCollector
from tilth.deploy.server.limits import Gate, Limits, read_body
from tilth.deploy.server.metrics import Metrics
from tilth.deploy.server.models import Models, ServedModel
from tilth.deploy.server.prompts import PromptReader
from tilth.deploy.server.schemas import ChatCall, CompletionCall, Generation, read_call
from tilth.deploy.server.state_room import StateRoom
from tilth.deploy.server.stream import EventStream, event_lines, give_up_when_gone
from tilth.deploy.server.submission import Engine, Mailbox, Submission
from tilth.deploy.server.token_text import TokenText
from tilth.errors import UserError
from tilth.inference.engine.requests import BranchFinished, Request
from tilth.tokenize.bpe import Tokenizer

WARMING_IDS = (0,) * 8  # of which every model has one
Asked = TypeVar("Asked", bound=Generation)
DEADLINE_GRACE_SECONDS = 2.0  # the engine ends what is over its deadline; this is for an engine that does not


@dataclass(frozen=True, kw_only=True)
class Served:
    """What is served: the engine, its base's name, tokenizer and sizes, and its folder, which may have a chat template.

    room says what fits into the engine's memory; without it an answer may be as long as the context where nothing is asked.
    """

    engine: Engine
    name: str
    tokenizer: Tokenizer
    vocab_size: int
    size_bytes: int = 0
    n_parameters: int = 0
    folder: Path | None = None
    room: StateRoom | None = None


class Service:
    """One server's state. Made, and used, in its event loop; the engine runs in a thread of its own."""

    def __init__(self, served: Served, limits: Limits) -> None:
        self.engine, self.limits = served.engine, limits
        self.models = Models(ServedModel(served.name, None, served.size_bytes))
        longest = limits.max_context_tokens
        self.reader = PromptReader(served.tokenizer, served.folder, served.vocab_size, longest, served.room)
        self.template = ChatTemplate(self.reader, served.folder)
        self.tokens = TokenText(served.tokenizer)
        self.gate = Gate(limits)
        self.metrics = Metrics(EngineCollector(served.engine.stats, self.models), lambda: self.gate.n_open)
        self.failure: str | None = None  # why the engine's thread ended
        self.failed = asyncio.Event()
        self._mailbox = Mailbox(asyncio.get_running_loop())
        self._open: set[Submission] = set()

    async def complete(self, request: requests.Request) -> Response:
        """POST /v1/completions."""

        async def prepare(asked: CompletionCall, model: ServedModel) -> Call:
            return await read_completion(asked, model, self.reader, self.tokens, self.limits)

        return await self._answered(request, CompletionCall, prepare)

    async def chat(self, request: requests.Request) -> Response:
        """POST /v1/chat/completions."""

        async def prepare(asked: ChatCall, model: ServedModel) -> Call:
            return await read_chat(asked, model, self.reader, self.template, self.tokens, self.limits)

        return await self._answered(request, ChatCall, prepare)

    async def warm_up(self, tenant: str | None) -> None:
        """Let a model read and say a few tokens, past the cache, so that what is compiled on first use is compiled."""
        submission = Submission(self.engine, self._mailbox, None)
        self._open.add(submission)
        try:
            submission.submit([Request(prompt_ids=WARMING_IDS, max_tokens=3, tenant=tenant, uses_cache=False)])
            async for events in submission.batches(self.limits.keep_alive_seconds):
                failed = next((event for _, event in events if isinstance(event, BranchFinished) and event.message), None)
                if failed is not None:
                    LOG.warning("%s cannot say a token: %s", tenant or self.models.base.name, failed.message)
        except (ApiError, UserError) as error:  # a full queue, or an engine that has died: what comes next will say so
            LOG.warning("%s was not warmed up: %s", tenant or self.models.base.name, error)
        finally:
            self._open.discard(submission)

    def fail(self, why: str) -> None:
        """The engine's thread has ended: nothing that is open will be answered, and nothing new is taken."""
        self.failure = why
        what = "The engine has stopped; the server's log says why."
        self.gate.close(ApiError(503, what, code="engine_stopped"))
        self.give_up_all(ApiError(500, what, code="engine_stopped"))
        self.failed.set()

    def give_up_all(self, reason: ApiError) -> None:
        """End all calls now."""
        for submission in list(self._open):
            submission.give_up(reason)

    async def _answered(
        self, request: requests.Request, kind: type[Asked], prepare: Callable[[Asked, ServedModel], Awaitable[Call]]
    ) -> Response:
        with ExitStack() as stack:
            try:
                response = await self._answer(request, kind, prepare, stack)
            except Exception as error:
                response = as_api_error(error).response()
        self.metrics.requests.labels(request.url.path, str(response.status_code)).inc()
        return response

    async def _answer(
        self,
        request: requests.Request,
        kind: type[Asked],
        prepare: Callable[[Asked, ServedModel], Awaitable[Call]],
        stack: ExitStack,
    ) -> Response:
        """What is entered into stack ends with the answer: here, or when its stream has ended."""
        visit = stack.enter_context(self.gate.admit())
        asked = read_call(kind, await read_body(request, self.limits, visit))
        model = self.models.find(asked.model)
        stack.enter_context(self.models.use(model))
        call = await prepare(asked, model)
        answer = self._begin(request, call, stack)
        if not call.is_stream:
            deltas = await answer.whole(self.limits.keep_alive_seconds)
            return json_response(call.form.whole(call.best(deltas), answer.usage))
        lines = event_lines(answer, call, self.limits.keep_alive_seconds)
        first = await anext(lines)
        return EventStream(first, lines, self.limits.write_seconds, stack.pop_all().close)

    def _begin(self, request: requests.Request, call: Call, stack: ExitStack) -> Answer:
        """Hand the call to the engine, with all that may end it before it is done."""
        # an answer that is given at once is held whole in any case
        most = self.limits.max_pending_events * len(call.prompts) * call.n_branches if call.is_stream else None
        submission = Submission(self.engine, self._mailbox, most)
        answer = Answer(submission, call.branches(self.tokens), call.deadline, self.metrics)
        stack.callback(submission.close)
        self._open.add(submission)
        stack.callback(self._open.discard, submission)
        submission.submit(call.requests(), call.stop_watches(self.tokens))
        over = ApiError(504, "The time limit of this request is over.", code="deadline")
        seconds = self.limits.request_seconds + DEADLINE_GRACE_SECONDS
        stack.callback(asyncio.get_running_loop().call_later(seconds, submission.give_up, over).cancel)
        stack.callback(asyncio.create_task(give_up_when_gone(request, submission)).cancel)
        return answer
