"""What begins and ends a text of a model is what its published files say: those of Llama 3 and of others."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import pre_tokenizers, processors

from tilth.errors import ContractError
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.text_ends import text_ends, write_text_ends

SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")


def folder_of(folder: Path, config: dict[str, Any] | None = None, generation: dict[str, Any] | None = None) -> Path:
    """As Llama 3 is published: two steps come after the tokens, and no setting says that a text begins with one."""
    library = tokenizers.Tokenizer.from_str(train_bpe(["a question\n" * 20], 280, special_tokens=SPECIAL).decode())
    first = ("<|begin_of_text|>", library.token_to_id("<|begin_of_text|>"))
    template = processors.TemplateProcessing(single=f"{first[0]} $A", pair=f"{first[0]} $A {first[0]} $B", special_tokens=[first])
    library.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.save(str(folder / "tokenizer.json"))
    for name, values in (("tokenizer_config.json", config), ("generation_config.json", generation)):
        if values is not None:
            (folder / name).write_text(json.dumps(values))
    return folder


LLAMA3 = {"bos_token": "<|begin_of_text|>", "eos_token": {"content": "<|end_of_text|>"}}


@pytest.mark.parametrize(
    ("config", "generation", "first", "ends"),
    [
        (LLAMA3, None, ["<|begin_of_text|>"], ["<|end_of_text|>"]),
        (LLAMA3, {"eos_token_id": None}, ["<|begin_of_text|>"], ["<|end_of_text|>"]),
        (LLAMA3, {"eos_token_id": [3, 5]}, ["<|begin_of_text|>"], [3, 5]),
        ({**LLAMA3, "add_bos_token": False}, None, [], ["<|end_of_text|>"]),
        ({**LLAMA3, "add_bos_token": True, "bos_token": "<|eot_id|>"}, None, ["<|eot_id|>"], ["<|end_of_text|>"]),
        (None, None, ["<|begin_of_text|>"], ["<|endoftext|>"]),
    ],
)
def test_the_files_say_what_begins_and_ends_a_text(
    tmp_path: Path, config: dict[str, Any] | None, generation: dict[str, Any] | None, first: list[str], ends: list[Any]
) -> None:
    tokenizer = Tokenizer.open(folder_of(tmp_path, config, generation))
    found = text_ends(tokenizer, tmp_path)
    ids = tokenizer.special_ids
    assert found.first_ids == tuple(ids[name] for name in first)
    assert found.end_ids == tuple(ids.get(name, name) for name in ends)
    # without one of its own a document is read behind the separator
    assert tokenizer.begin_id == (found.first_ids[-1] if found.first_ids else tokenizer.separator_id)


def test_what_begins_a_text_travels_beside_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = Tokenizer.open(folder_of(tmp_path, LLAMA3))
    folder = tmp_path / "copied"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(tokenizer.data)
    write_text_ends(folder, tokenizer)
    again = Tokenizer.open(folder)
    assert (again.separator, again.begin_id) == (tokenizer.separator, tokenizer.special_ids["<|begin_of_text|>"])
    assert text_ends(again, folder).first_ids == text_ends(tokenizer, tmp_path).first_ids
    assert pickle.loads(pickle.dumps(again)).begin_id == again.begin_id


def test_a_beginning_that_is_no_special_token_is_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer.open(folder_of(tmp_path))
    with pytest.raises(ContractError, match="no special token 40"):
        Tokenizer(tokenizer.data, begin_id=40)


def test_a_text_begins_as_the_published_tokenizer_lets_it(tmp_path: Path) -> None:
    tokenizer = Tokenizer.open(folder_of(tmp_path, LLAMA3))
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("a question").ids
    assert [*text_ends(tokenizer, tmp_path).first_ids, *tokenizer.encode("a question").tolist()] == theirs


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    tokenizer = Tokenizer.open(folder_of(tmp_path))
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(ContractError, match=r"generation_config\.json is no JSON"):
        text_ends(tokenizer, tmp_path)
