"""Messages to token ids by the model's own jinja template, sandboxed; what a user writes never becomes a special token."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tilth.deploy.server.api_errors import ApiError
from tilth.deploy.server.prompts import PromptReader
from tilth.deploy.server.schemas import Message
from tilth.errors import ContractError

# For models without a template: turns as a base model knows them from dialogues. Ends before the next turn of the user.
PLAIN = (
    "{% for message in messages %}{{ {'system': 'System', 'developer': 'System', 'user': 'User', 'assistant': 'Assistant'}"
    "[message.role] }}: {{ message.content }}\n\n{% endfor %}Assistant:"
)
PLAIN_STOP = "\n\nUser:"


class ChatTemplate:
    """chat_template.jinja, or `chat_template` of tokenizer_config.json, of the model's folder; else PLAIN.

    Raises ContractError for a template that jinja cannot read.
    """

    def __init__(self, reader: PromptReader, folder: Path | None) -> None:
        self._reader = reader
        source, where = _find(folder)
        self.stops = () if source else (PLAIN_STOP,)
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.filters["tojson"] = _to_json
        environment.globals |= {"raise_exception": _raise, "strftime_now": lambda form: datetime.now().strftime(form)}
        try:
            self._template = environment.from_string(source or PLAIN)
        except jinja2.TemplateError as error:
            raise ContractError(f"the chat template cannot be read: {error}", where, "mend or remove the template") from error
        self._has_first = bool(source)
        # longest first: one may begin another
        self._special_names = sorted(reader.tokenizer.special_ids, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, self._special_names)))

    async def encode(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The ids of the conversation up to where the assistant speaks. Raises ApiError 400 for messages the template refuses."""
        given = [{"role": message.role, "content": message.content or ""} for message in messages]
        given = [turn | ({"name": message.name} if message.name else {}) for turn, message in zip(given, messages, strict=True)]
        mark = _unused_letter("".join(text for turn in given for text in turn.values()))
        # a special token that a user wrote goes through the template as its number, and becomes plain text again
        hide = partial(self._special.sub, lambda found: f"{mark}{self._special_names.index(found[0])}{mark}")
        given = [{key: hide(value) for key, value in turn.items()} for turn in given]
        try:
            text = self._template.render(messages=given, add_generation_prompt=True, tools=None, **self._names())
        except (jinja2.TemplateError, TypeError, ValueError) as error:
            what = f"The model's chat template refuses these messages: {str(error)[:300]}"
            raise ApiError(400, what, param="messages", code="template_error") from None
        return await self._encode_marked(text, mark)

    def _names(self) -> dict[str, str]:
        return {role: name or "" for role, name in self._reader.names.items()}

    async def _encode_marked(self, text: str, mark: str) -> tuple[int, ...]:
        """Special tokens that the template wrote become their ids; the text between is encoded as text."""
        special, start = self._reader.tokenizer.special_ids, 0
        ids: list[int] = [] if self._has_first else list(self._reader.first_ids)
        for found in self._special.finditer(text):
            ids += await self._plain(text[start : found.start()], mark)
            ids.append(special[found[0]])
            start = found.end()
        return (*ids, *await self._plain(text[start:], mark))

    async def _plain(self, text: str, mark: str) -> tuple[int, ...]:
        text = re.sub(f"{mark}(\\d+){mark}", lambda found: self._special_names[int(found[1])], text)
        return await self._reader.encode(text, begins=False) if text else ()


def _find(folder: Path | None) -> tuple[str | None, str]:
    if folder is None:
        return None, ""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8"), str(path)
    for name in ("chat_template.json", "tokenizer_config.json"):
        path = folder / name
        found = json.loads(path.read_text(encoding="utf-8")).get("chat_template") if path.is_file() else None
        if isinstance(found, list):  # several by name
            found = next((entry["template"] for entry in found if entry.get("name") == "default"), None)
        if found:
            return found, str(path)
    return None, ""


def _unused_letter(text: str) -> str:
    """A letter of the private use area that the text does not have; raises ApiError 400 for a text that has them all."""
    present = set(text)
    found = next((chr(code) for code in range(0xE000, 0xF900) if chr(code) not in present), None)
    if found is None:
        raise ApiError(400, "The messages use every private letter of Unicode.", param="messages", code="invalid_value")
    return found


def _to_json(value: Any, **options: Any) -> str:
    # jinja's own escapes for HTML, which no model was trained on
    return json.dumps(value, ensure_ascii=False, **options)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
