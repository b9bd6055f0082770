"""Tokenizers of published models: read as they are, each token some bytes of its text, and refused where that is not so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from tilth.errors import ContractError, RecipeError
from tilth.tokenize.bpe import MAX_CHUNK_CHARS, Tokenizer, train_bpe
from tilth.tokenize.byte_level import BYTE_OF
from tilth.tokenize.pretrained import PretrainedTokenizer
from tilth.tokenize.text_ends import write_text_ends

# The splitting pattern of Llama 3 (its published tokenizer.json): marks take the line feeds after them, numbers come in threes.
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
TEXTS = ["Question: 12 + 35?\nAnswer: 12 + 35 = 47\n#### 47.\n\n", "Why?\nAnswer:\n- it's 1,234!\n", "é漢字 \t x  y"] * 20


def like_llama3(vocab_size: int = 500, **changes: Any) -> bytes:
    library = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(tokenizers.Regex(LLAMA3), "isolated")
    library.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    library.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=sorted(alphabet), show_progress=False)
    )
    library.add_special_tokens(SPECIAL)
    for name, value in changes.items():
        setattr(library, name, value)
    return str(library.to_str()).encode()


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    def write(data: bytes, **config: Any) -> Path:
        (tmp_path / "tokenizer.json").write_bytes(data)
        if config:
            (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        return tmp_path

    return write


@pytest.fixture(scope="module")
def llama3() -> Tokenizer:
    return Tokenizer(like_llama3())


@pytest.fixture(scope="module")
def tilths() -> Tokenizer:
    return Tokenizer(train_bpe(TEXTS, 400))


TEXT = st.text(st.one_of(st.sampled_from(" \n.?!:A1é漢\t"), st.characters(exclude_categories=["Cs"])), max_size=60)


@given(TEXT)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tokens_tile_every_text(llama3: Tokenizer, tilths: Tokenizer, text: str) -> None:
    for tokenizer in (llama3, tilths):
        ids = tokenizer.encode(text).tolist()
        assert b"".join(tokenizer.token_bytes[number] for number in ids) == text.encode()
        assert tokenizer.byte_lengths[ids].sum() == len(text.encode())
        assert tokenizer.decode(ids) == text


def test_the_characters_of_bytes_are_the_librarys() -> None:
    assert set(BYTE_OF) == set(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(BYTE_OF.values()) == list(range(256))


def test_special_tokens_stand_for_no_text_and_other_added_ones_for_theirs() -> None:
    library = tokenizers.Tokenizer.from_str(like_llama3().decode())
    library.add_tokens(["    é"])
    tokenizer = Tokenizer(library.to_str().encode())
    assert [tokenizer.token_bytes[tokenizer.special_ids[name]] for name in SPECIAL] == [b"", b"", b""]
    ids = tokenizer.encode("x    é").tolist()
    assert [tokenizer.token_bytes[number] for number in ids] == [b"x", "    é".encode()]
    assert SPECIAL[1] not in [tokenizer.decode([number]) for number in tokenizer.encode(f"a {SPECIAL[1]}").tolist()]


def test_the_separator_is_told_by_the_files_or_by_its_name(written: Callable[..., Path], tmp_path: Path) -> None:
    assert PretrainedTokenizer(str(written(like_llama3()))).read().separator == "<|end_of_text|>"
    folder = str(written(like_llama3(), eos_token={"content": "<|eot_id|>"}))
    assert PretrainedTokenizer(folder).read().separator == "<|eot_id|>"
    assert PretrainedTokenizer(f"{folder}/tokenizer.json").read().separator == "<|eot_id|>"
    assert PretrainedTokenizer(folder, "<|begin_of_text|>").read().separator == "<|begin_of_text|>"
    with pytest.raises(ContractError, match="no separator token `<eos>`"):
        PretrainedTokenizer(folder, "<eos>").read()


def test_a_separator_that_is_not_known_by_its_name_travels_beside_the_file(tmp_path: Path) -> None:
    for name in SPECIAL:
        folder = tmp_path / name.strip("<|>")
        folder.mkdir()
        tokenizer = Tokenizer(like_llama3(), name)
        (folder / "tokenizer.json").write_bytes(tokenizer.data)
        write_text_ends(folder, tokenizer)
        assert (folder / "tokenizer_config.json").exists() == (name != "<|end_of_text|>")
        assert Tokenizer.open(folder).separator == name


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"normalizer": normalizers.NFC()}, r"changes texts \(NFC\)"),
        ({"normalizer": normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])}, r"\(NFKC, Lowercase\)"),
        ({"pre_tokenizer": pre_tokenizers.ByteLevel(add_prefix_space=True)}, r"changes texts \(ByteLevel that adds a space\)"),
        ({"decoder": decoders.Metaspace()}, "not byte-level"),
        ({"decoder": decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])}, "not byte-level"),
    ],
)
def test_one_whose_tokens_are_not_the_text_is_refused(written: Callable[..., Path], change: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        PretrainedTokenizer(str(written(like_llama3(**change)))).read()


def test_what_is_missing_or_damaged(tmp_path: Path, written: Callable[..., Path]) -> None:
    with pytest.raises(RecipeError, match=r"there is no tokenizer\.json"):
        PretrainedTokenizer(str(tmp_path)).read()
    with pytest.raises(ContractError, match=r"not a tokenizer\.json"):
        PretrainedTokenizer(str(written(b"{}"))).read()
    folder = written(like_llama3())
    (folder / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(ContractError, match="no JSON object"):
        PretrainedTokenizer(str(folder)).read()


def test_a_text_that_is_cut_into_chunks_keeps_its_tokens(llama3: Tokenizer) -> None:
    # marks before line feeds are one token there: the cut must not part them
    text = "".join(f"{n} + {n} = {2 * n}.\n\nSo?\n" for n in range(MAX_CHUNK_CHARS // 8))
    assert len(text) > 2 * MAX_CHUNK_CHARS
    whole = tokenizers.Tokenizer.from_str(llama3.data.decode()).encode(text, add_special_tokens=False).ids
    assert llama3.encode(text).tolist() == whole


def test_what_a_tokenizer_was_saved_with_cuts_no_text(tmp_path: Path) -> None:
    described = json.loads(like_llama3())
    described["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    described["padding"] = {
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "!"
    }  # fmt: skip
    tokenizer = Tokenizer(json.dumps(described).encode())
    assert tokenizer.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0]
