"""Which ids begin and end a text for the model of a folder: what the files beside its tokenizer.json say of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tilth.errors import ContractError
from tilth.tokenize.bpe import Tokenizer
from tilth.tokenize.byte_level import steps_of
from tilth.tokenize.pretrained import CONFIG_FILE

GENERATION_FILE = "generation_config.json"
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")


class TextEnds(NamedTuple):
    """`first_ids` begin a text, which ends before one of `end_ids`; `names` are the tokens of ROLES, None where there is none."""

    first_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    names: dict[str, str | None]


def text_ends(tokenizer: Tokenizer, folder: Path | None) -> TextEnds:
    """As the model in `folder` was trained.

    A model trained by Tilth reads the separator before a text, and it ends one. Of an imported one tokenizer_config.json and
    generation_config.json say which tokens these are. Whether a text begins with one says `add_bos_token`, or where that is
    not given, as of Llama 3, what tokenizer.json adds. Raises ContractError for a file that is no JSON object.
    """
    config, generation = _read(folder, CONFIG_FILE), _read(folder, GENERATION_FILE)
    names = {role: _content(config.get(role)) for role in ROLES}
    special = tokenizer.special_ids
    first_ids: tuple[int, ...] = (tokenizer.separator_id,)
    if config.get("add_bos_token") is not None:
        number = special.get(names["bos_token"] or "") if config["add_bos_token"] else None
        first_ids = () if number is None else (number,)
    elif config:
        first_ids = _added_before(json.loads(tokenizer.data))
    ends = generation.get("eos_token_id")
    if ends is None:
        ends = special.get(names["eos_token"] or "", tokenizer.separator_id)
    return TextEnds(first_ids, tuple(ends) if isinstance(ends, list) else (ends,), names)


def _added_before(described: Mapping[str, Any]) -> tuple[int, ...]:
    """The ids that a parsed tokenizer.json adds before a text."""
    found: list[int] = []
    for step in steps_of(described.get("post_processor"), "processors"):
        known = step.get("special_tokens") or {}
        for piece in step.get("single") or () if step.get("type") == "TemplateProcessing" else ():
            if "SpecialToken" not in piece:
                break
            found += known[piece["SpecialToken"]["id"]]["ids"]
    return tuple(found)


def _read(folder: Path | None, name: str) -> dict[str, Any]:
    path = folder / name if folder else None
    if path is None or not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ContractError(f"{name} is no JSON: {error}", str(path), "Copy the file again.") from error
    if not isinstance(found, dict):
        raise ContractError(f"{name} is no JSON object", str(path), "Copy the file again.")
    return found


def _content(token: Any) -> str | None:
    """A token of tokenizer_config.json is a string, or an object that has it as `content`."""
    return token.get("content") if isinstance(token, dict) else token
