"""What travels beside the weights: the tokenizer's files, the special tokens by id, and how to generate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tilth.tokenize.text_ends import SEPARATORS

FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.model", "vocab.json",
    "merges.txt", "chat_template.jinja", "chat_template.json", "generation_config.json",
)  # fmt: skip
# The names that tokenizers of Tilth, and published ones that a run here may have, give their special tokens
_ROLES = {
    "eos_token": (*reversed(SEPARATORS), "[SEP]"),  # of several the last
    "bos_token": ("[BOS]",),
    "pad_token": ("[PAD]",),
    "unk_token": ("[UNK]",),
    "mask_token": ("[MASK]",),
    "cls_token": ("[CLS]",),
    "sep_token": ("[SEP]",),
}
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
_GENERATION = (*_IDS, "use_cache")
DEFAULT_CONTEXT = 2048
_NO_CONTEXT = 10**7  # transformers writes 10^30 for "no limit"


def copy_tokenizer(source: Path, folder: Path) -> list[str]:
    """Copy those of FILES that are there; returns their names."""
    found = [name for name in FILES if (source / name).is_file()]
    for name in found:
        (folder / name).write_bytes((source / name).read_bytes())
    return found


def token_settings(folder: Path, imported: dict[str, Any], context: int | None) -> dict[str, Any]:
    """bos, eos and pad ids (or None) and max_position_embeddings, of the files in folder and an imported config."""
    generation, tokenizer = _read(folder / "generation_config.json"), _read(folder / "tokenizer_config.json")
    named = special_tokens(folder)
    found: dict[str, Any] = {}
    for name in _IDS:
        role = named.get(name.removesuffix("_id"))
        values = (imported.get(name), generation.get(name), role[1] if role else None)
        found[name] = next((value for value in values if value is not None), None)
    length = tokenizer.get("model_max_length") or _NO_CONTEXT
    length = imported.get("max_position_embeddings") or (length if length < _NO_CONTEXT else DEFAULT_CONTEXT)
    return {**found, "max_position_embeddings": context or int(length)}


def write_tokenizer_config(folder: Path, tokens: dict[str, Any]) -> list[str]:
    """Write what is not there of the files that AutoTokenizer and generate() need; returns their names.

    Texts of a model of Tilth began with the separator in training: theirs will, too.
    """
    written: dict[str, dict[str, Any]] = {}
    if (folder / "tokenizer.json").is_file():
        # text is given back as it was: no spaces are "cleaned up"
        plain = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
        plain |= {"model_max_length": tokens["max_position_embeddings"]}
        named = special_tokens(folder)
        plain |= {role: token for role, (token, _) in named.items()}
        if not (folder / "tokenizer_config.json").is_file() and "eos_token" in named and named["bos_token"] == named["eos_token"]:
            plain["add_bos_token"] = True
            _begin_texts_with(folder / "tokenizer.json", *named["bos_token"])
        written["tokenizer_config.json"] = plain
    written["generation_config.json"] = {
        name: value for name, value in tokens.items() if name in _GENERATION and value is not None
    }
    for name in [name for name in written if (folder / name).is_file()]:
        del written[name]
    for name, values in written.items():
        (folder / name).write_text(json.dumps(values, indent=2) + "\n")
    return list(written)


def special_tokens(folder: Path) -> dict[str, tuple[str, int]]:
    """role -> (token, id) of the special tokens in tokenizer.json that have a name of ours.

    Where no token is for beginnings alone, the one that ends a text also begins one.
    """
    added = {token["content"]: token["id"] for token in _read(folder / "tokenizer.json").get("added_tokens", ())}
    named = {role: (name, added[name]) for role, names in _ROLES.items() for name in names if name in added}
    return {"bos_token": named["eos_token"]} | named if "eos_token" in named else named


def _begin_texts_with(path: Path, token: str, number: int) -> None:
    """Let HF's tokenizer put the token before each text, unless the tokenizer.json says already what it adds."""
    described = _read(path)
    if described.get("post_processor") is not None:
        return
    first = {"SpecialToken": {"id": token, "type_id": 0}}
    text, second = ({"Sequence": {"id": name, "type_id": kind}} for name, kind in (("A", 0), ("B", 1)))
    described["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, second],
        "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
    }
    path.write_text(json.dumps(described, ensure_ascii=False), encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
