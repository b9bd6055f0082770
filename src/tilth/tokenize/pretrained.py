"""The tokenizer of a corpus that a model is to read which exists already: its tokenizer.json, byte for byte."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tilth.errors import RecipeError
from tilth.tokenize import byte_level

if TYPE_CHECKING:
    from tilth.tokenize.bpe import Tokenizer


@dataclass(frozen=True)
class PretrainedTokenizer:
    """The tokenizer of a run, `PretrainedTokenizer("llama")`, or the tokenizer.json at `path` or in the folder there.

    `separator` is the token that ends a document; by default the end of text that tokenizer_config.json beside it names, else
    one that is known by its name. What a model reads before a document is the token that these files put before a text, else the
    separator. The tokenizer must be byte-level and must not change texts: each token is then some bytes of
    its document, and can be traced to them.
    """

    path: str
    separator: str | None = None

    @property
    def file(self) -> Path:
        """The tokenizer.json. Raises RecipeError where there is none."""
        path = Path(self.path).expanduser()
        file = path / "tokenizer.json" if path.is_dir() else path
        if not file.is_file():
            fix = "Name a tokenizer.json, the folder of a model that holds one, or a run."
            raise RecipeError("there is no tokenizer.json", f"PretrainedTokenizer({self.path!r})", fix)
        return file

    def read(self) -> Tokenizer:
        """The tokenizer. Raises RecipeError for one that is not byte-level or changes texts, ContractError for a damaged one."""
        from tilth.tokenize.bpe import Tokenizer

        file, where = self.file, f"PretrainedTokenizer({self.path!r})"
        tokenizer = Tokenizer.open(file, self.separator)
        described = json.loads(tokenizer.data)
        fix = "Take the tokenizer of a Llama 3, SmolLM or GPT-2, or train one: `tokenizer=Bpe()`."
        if not byte_level.is_byte_level(described):
            raise RecipeError("this tokenizer is not byte-level: not every text is the sum of its tokens", where, fix)
        if (changes := byte_level.changes_texts(described)) is not None:
            raise RecipeError(f"this tokenizer changes texts ({changes}): its tokens could not be traced to bytes", where, fix)
        return tokenizer
