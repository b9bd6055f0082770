"""Which tokens begin and end a text: what the files beside a tokenizer.json say of it, and how Tilth writes them there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tilth.errors import ContractError
from tilth.tokenize.byte_level import steps_of

if TYPE_CHECKING:
    from tilth.tokenize.bpe import Tokenizer

CONFIG_FILE = "tokenizer_config.json"
GENERATION_FILE = "generation_config.json"
TOKENS_FILE = "tokens.json"  # of a token set
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token")
# What ends a text in published models, and in those of Tilth.
SEPARATORS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "<｜end▁of▁sentence｜>")


class TextEnds(NamedTuple):
    """`first_ids` begin a text, which ends before one of `end_ids`; `names` are the tokens of ROLES, None where there is none."""

    first_ids: tuple[int, ...]
    end_ids: tuple[int, ...]
    names: dict[str, str | None]


def text_ends(tokenizer: Tokenizer, folder: Path | None) -> TextEnds:
    """As the model in `folder` was trained.

    A model trained by Tilth reads the separator before a text, and it ends one. Of an imported one tokenizer_config.json and
    generation_config.json say which tokens these are. Whether a text begins with one says `add_bos_token`, or where that is
    not given, as of Llama 3, what tokenizer.json adds; where that adds nothing and there is no tokenizer_config.json, it is the
    separator. Raises ContractError for a file that is no JSON object.
    """
    config, generation = _read(folder, CONFIG_FILE), _read(folder, GENERATION_FILE)
    names = {role: _content(config.get(role)) for role in ROLES}
    first_ids = _first_ids(config, tokenizer.data) if config else (tokenizer.begin_id,)
    ends = generation.get("eos_token_id")
    if ends is None:
        ends = tokenizer.special_ids.get(names["eos_token"] or "", tokenizer.separator_id)
    return TextEnds(first_ids, tuple(ends) if isinstance(ends, list) else (ends,), names)


def separator_beside(file: Path) -> str | None:
    """The separator that the files beside a tokenizer.json name: of a token set, or of a model. Raises ContractError."""
    for name, key in ((TOKENS_FILE, "separator"), (CONFIG_FILE, "eos_token")):
        if isinstance(found := _content(_read(file.parent, name).get(key)), str):
            return found
    return None


def begin_beside(file: Path) -> int | None:
    """The id that a tokenizer.json and the files beside it put before a text, None where there is none. Raises ContractError."""
    if isinstance(known := _read(file.parent, TOKENS_FILE).get("begin_id"), int):
        return known
    first_ids = _first_ids(_read(file.parent, CONFIG_FILE), file.read_bytes())
    return first_ids[-1] if first_ids else None


def write_text_ends(folder: Path, tokenizer: Tokenizer) -> None:
    """Name what ends and begins a text beside a tokenizer.json that would be read otherwise."""
    if (tokenizer.separator, tokenizer.begin_id) == (default_separator(tokenizer.special_ids), tokenizer.separator_id):
        return
    begin = next(name for name, number in tokenizer.special_ids.items() if number == tokenizer.begin_id)
    config = {"eos_token": tokenizer.separator, "bos_token": begin, "add_bos_token": True}
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def default_separator(special_ids: Mapping[str, int]) -> str | None:
    """The end of text among special tokens that published models and Tilth give this name; the first of SEPARATORS."""
    return next((name for name in SEPARATORS if name in special_ids), None)


def _first_ids(config: Mapping[str, Any], data: bytes) -> tuple[int, ...]:
    """The ids before a text by a tokenizer_config.json and the tokenizer.json `data`."""
    if config.get("add_bos_token") is False:
        return ()
    described = json.loads(data)
    if config.get("add_bos_token"):
        wanted = _content(config.get("bos_token"))
        return tuple(token["id"] for token in described.get("added_tokens") or () if token["content"] == wanted)
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
