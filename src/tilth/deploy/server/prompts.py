"""Text to token ids: what begins a text, how long it may be, and never for long on the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

from tilth.deploy.server.api_errors import ApiError
from tilth.deploy.server.state_room import StateRoom
from tilth.tokenize.bpe import Tokenizer
from tilth.tokenize.text_ends import text_ends

SHORT_CHARS = 4096  # about 1 ms; what is longer is tokenised in a thread
SHORT_IDS = 1024
# tokenizers lets go of the interpreter's lock; more threads would only take cores from the engine
_WORKERS = ThreadPoolExecutor(2, thread_name_prefix="tokenise")


class PromptReader:
    """Encodes prompts as the model was trained to read them, and decides how a text ends (`text_ends`)."""

    def __init__(
        self, tokenizer: Tokenizer, folder: Path | None, vocab_size: int, max_tokens: int, room: StateRoom | None = None
    ) -> None:
        self.tokenizer, self._vocab_size, self._max_tokens, self._room = tokenizer, vocab_size, max_tokens, room
        self.first_ids, self.end_ids, self.names = text_ends(tokenizer, folder)
        self._longest = max(1, int(tokenizer.byte_lengths.max())) if tokenizer.byte_lengths.any() else 64

    async def encode(self, text: str, *, begins: bool = True) -> tuple[int, ...]:
        """The ids of a text, those that begin one included. Raises ApiError 400 for a text longer than the model's context."""
        # no tokenisation could bring it under the limit: said before time is spent on it
        if len(text) > self._longest * self._max_tokens:
            self.refuse_length(f"The prompt has at least {len(text) // self._longest} tokens, the answer 1 or more")
        if len(text) <= SHORT_CHARS:
            ids = self.tokenizer.encode(text)
        else:
            ids = await asyncio.get_running_loop().run_in_executor(_WORKERS, self.tokenizer.encode, text)
        return (*(self.first_ids if begins else ()), *ids.tolist())

    async def decode(self, ids: Sequence[int]) -> str:
        """The text of ids that were checked."""
        if len(ids) <= SHORT_IDS:
            return self.tokenizer.decode(ids)
        return await asyncio.get_running_loop().run_in_executor(_WORKERS, self.tokenizer.decode, ids)

    def check_ids(self, ids: Sequence[Any], param: str) -> tuple[int, ...]:
        """Token ids as they came in JSON; raises ApiError 400 for what is none of this model, and for too many of them."""
        if len(ids) > self._max_tokens:
            self.refuse_length(f"`{param}` has {len(ids)} tokens, with an answer or without", param)
        bad = next((token for token in ids if type(token) is not int or not 0 <= token < self._vocab_size), None)
        if bad is not None:
            what = f"`{param}` has {str(bad)[:40]!r}, which is no token id of this model: 0 to {self._vocab_size - 1}."
            raise ApiError(400, what, param=param, code="invalid_token")
        return tuple(ids)

    def check_length(self, n_prompt_tokens: int, max_tokens: int) -> None:
        """Raises ApiError 400 where not so many tokens could follow."""
        if n_prompt_tokens + max_tokens > self._max_tokens:
            self.refuse_length(f"The prompt has {n_prompt_tokens} tokens, the answer up to {max_tokens}")

    def refuse_length(self, what: str, param: str = "prompt") -> NoReturn:
        """Raises ApiError 400."""
        what = f"{what}; together they can have {self._max_tokens}."
        raise ApiError(400, what, param=param, code="context_length_exceeded")

    def room_after(self, n_prompt_tokens: int, n_samples: int) -> int:
        """How many tokens can follow, in each of the samples; at least 1, which the engine refuses where it has no room."""
        n_tokens = self._max_tokens - n_prompt_tokens
        return max(1, n_tokens if self._room is None else min(n_tokens, self._room.new_tokens(n_prompt_tokens, n_samples)))
