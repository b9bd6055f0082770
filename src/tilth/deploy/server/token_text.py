"""What each token says, as bytes: the same for every tokenizer whose tokens stand for themselves wherever they come."""

from __future__ import annotations

import json
import re
from typing import Any

from tilth.tokenize.bpe import Tokenizer

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def _byte_alphabet() -> dict[str, int]:
    """The character that GPT-2's byte-level tokens write for each byte: itself where it can be seen, else one from U+0100 on."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(visible)]
    return {chr(byte): byte for byte in visible} | {chr(0x100 + i): byte for i, byte in enumerate(hidden)}


_ALPHABET = _byte_alphabet()


class TokenText:
    """Bytes of the tokens of one tokenizer: byte-level BPE, byte fallback, or pieces of text.

    Special tokens say nothing (b""): they are marks for the model. Read from tokenizer.json, of which the decoder tells how.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        described: dict[str, Any] = json.loads(tokenizer.data)
        vocabulary = (described.get("model") or {}).get("vocab") or {}
        pairs = vocabulary.items() if isinstance(vocabulary, dict) else ((entry[0], i) for i, entry in enumerate(vocabulary))
        added = {token["id"]: token["content"] for token in described.get("added_tokens") or ()}
        self._pieces = {number: piece for piece, number in pairs} | added
        self._added, self._special = added.keys(), frozenset(tokenizer.special_ids.values())
        decoder = described.get("decoder") or {}
        kinds = {part.get("type") for part in (decoder, *decoder.get("decoders", ()))}
        self._is_byte_level, self._has_byte_pieces = "ByteLevel" in kinds, "ByteFallback" in kinds
        self._tokenizer = tokenizer
        self._bytes: dict[int, bytes] = {}
        self._anchor = self._find_anchor()

    def bytes_of(self, token_id: int) -> bytes:
        """The bytes that the token adds to a text that has begun; b"" for special tokens and ids beyond the vocabulary."""
        found = self._bytes.get(token_id)
        if found is None:
            found = self._bytes[token_id] = b"" if token_id in self._special else self._find(token_id)
        return found

    def name_of(self, token_id: int) -> str:
        """The token as logprobs show it: its text; `bytes:\\xe2\\x82` where that is no whole character; a special one's name."""
        if token_id in self._special:
            return self._pieces[token_id]
        data = self.bytes_of(token_id)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _find(self, token_id: int) -> bytes:
        piece = self._pieces.get(token_id)
        if piece is None:
            return b""
        if token_id in self._added:
            return piece.encode()
        if self._is_byte_level:
            return bytes(_ALPHABET[letter] for letter in piece)
        if self._has_byte_pieces and (byte := _BYTE_PIECE.fullmatch(piece)):
            return bytes([int(byte[1], 16)])
        # other decoders treat the first token apart (no space before it), so it is read after another one
        before = self._tokenizer.decode([self._anchor])
        return self._tokenizer.decode([self._anchor, token_id]).removeprefix(before).encode()

    def _find_anchor(self) -> int:
        plain = (number for number, piece in self._pieces.items() if number not in self._added and piece.isalpha())
        return next(plain, 0)
