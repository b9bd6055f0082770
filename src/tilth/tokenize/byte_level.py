"""Which bytes of text a token stands for, where a tokenizer.json is byte-level; and whether its tokens tile every text.

Byte-level tokenizers (Radford et al. 2019) write each byte as one character: those that can be printed as themselves, the
others as the characters from U+0100 on. Tokenizers of GPT-2, Llama 3, Qwen, SmolLM and of Tilth are so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_PRINTED = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTED]
BYTE_OF = {chr(byte): byte for byte in _PRINTED} | {chr(256 + n): byte for n, byte in enumerate(_HIDDEN)}


def is_byte_level(described: Mapping[str, Any]) -> bool:
    """Whether the tokens of a parsed tokenizer.json are bytes."""
    return "ByteLevel" in _kinds(described.get("decoder"), "decoders")


def changes_texts(described: Mapping[str, Any]) -> str | None:
    """What a parsed tokenizer.json does to a text before it is cut into tokens: the names of its normalizers; None if nothing.

    The tokens of a changed text do not tile the text that was read, so no byte of it could be told from a token.
    """
    steps = list(_kinds(described.get("normalizer"), "normalizers"))
    spaces = (step for step in steps_of(described.get("pre_tokenizer"), "pretokenizers") if step.get("add_prefix_space"))
    return ", ".join([*steps, *(f"{step['type']} that adds a space" for step in spaces)]) or None


def bytes_of(token: str) -> bytes:
    """The bytes of a token of a byte-level vocabulary; a character that stands for no byte (some hold such) is itself."""
    return b"".join(
        bytes([BYTE_OF[character]]) if character in BYTE_OF else character.encode("utf-8", "replace") for character in token
    )


def _kinds(step: Any, inner: str) -> Iterator[str]:
    return (str(found.get("type")) for found in steps_of(step, inner))


def steps_of(step: Any, inner: str) -> Iterator[Mapping[str, Any]]:
    """The steps of a part of a tokenizer.json, those of a sequence, which lie under `inner`, one by one."""
    if not isinstance(step, Mapping):
        return
    if step.get("type") == "Sequence":
        for own in step.get(inner, ()):
            yield from steps_of(own, inner)
        return
    yield step
