"""Token shards: what was written is what is read, and damage is named."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tilth.contracts import TOKENS_INDEX, check, uuid_bytes
from tilth.errors import ContractError, SubsetError
from tilth.tokenize import shards
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.order import Piece, RunOrder, SequencePlan
from tilth.tokenize.shards import TokenSet, write_tokens

TEXTS = ["the cat sat on the mat", "", "a", "the dog and the cat " * 50, "<|endoftext|>"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_bpe(TEXTS, 300))


def rows_of(tokenizer: Tokenizer, texts: list[str]) -> Iterator[tuple[bytes, str, int, np.ndarray]]:
    for row, ids in enumerate(tokenizer.encode_batch(texts)):
        yield row.to_bytes(16, "big"), f"web/{row // 3:05d}", row % 3, ids


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    write_tokens(tmp_path, rows_of(tokenizer, TEXTS), tokenizer)
    return tmp_path


def test_every_document_comes_back_with_its_separator(folder: Path, tokenizer: Tokenizer) -> None:
    tokens = TokenSet.open(folder)
    assert [tokenizer.decode(tokens.document(i)[:-1]) for i in range(tokens.n_documents)] == TEXTS
    assert {int(tokens.document(i)[-1]) for i in range(5)} == {tokenizer.separator_id}
    assert tokens.n_tokens == (folder / "tokens.bin").stat().st_size // 2
    assert tokens.tokenizer().digest == tokenizer.digest
    tokens.verify()


def test_a_document_may_stand_there_more_than_once(tmp_path: Path, tokenizer: Tokenizer) -> None:
    (row,) = rows_of(tokenizer, TEXTS[:1])
    write_tokens(tmp_path, [row, row], tokenizer)
    assert TokenSet.open(tmp_path).document(1).tolist() == [*row[3].tolist(), tokenizer.separator_id]


def test_the_index_keeps_its_contract(folder: Path) -> None:
    index = pq.read_table(folder / "index.parquet")
    check(index, TOKENS_INDEX)
    assert index.schema.metadata[b"tilth.contract"] == b"tokens/1"
    picked = TokenSet.open(folder).rows([4, 0])
    assert uuid_bytes(picked.column("doc_id")) == [(4).to_bytes(16, "big"), bytes(16)]
    assert picked.column("shard").to_pylist() == ["web/00001", "web/00000"]


def test_tokens_json_says_what_the_contract_asks(folder: Path, tokenizer: Tokenizer) -> None:
    described = json.loads((folder / "tokens.json").read_text())
    assert described["dtype"] == "uint16"
    assert described["n_documents"] == 5
    assert (described["separator"], described["separator_id"]) == ("<|endoftext|>", 0)
    assert described["tokenizer_digest"] == tokenizer.digest


def test_the_digest_depends_on_tokens_and_on_document_ends(
    folder: Path, tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def digest(texts: list[str]) -> str:
        other = tmp_path_factory.mktemp("tokens")
        write_tokens(other, rows_of(tokenizer, texts), tokenizer)
        return TokenSet.open(other).digest

    first = TokenSet.open(folder).digest
    assert digest(TEXTS) == first
    assert digest(TEXTS[::-1]) != first


def test_a_wide_vocabulary_takes_four_bytes(tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = Tokenizer(tokenizer.data)
    wide.vocab_size = 65_537
    write_tokens(tmp_path, [(bytes(16), "web/0", 0, np.array([65_536, 1]))], wide)
    tokens = TokenSet.open(tmp_path)
    assert tokens.tokens.tolist() == [65_536, 1, 0]
    assert (tmp_path / "tokens.bin").stat().st_size == 12
    wide.vocab_size = 65_536
    assert wide.dtype == np.dtype("<u2")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("tokens.bin", lambda data: data[:-6], "6 bytes too short"),
        ("tokens.bin", lambda data: data + b"abc", "3 bytes too long"),
        ("index.parquet", lambda data: data[:-10], "cannot be read"),
        ("tokens.json", lambda data: data[:20], "no JSON"),
        ("tokens.json", lambda data: data.replace(b"uint16", b"int128"), "dtype"),
        ("tokens.json", lambda data: data.replace(b"vocab_size", b"vocab-size"), "vocab_size"),
        ("tokenizer.json", lambda data: data + b" ", "not the tokenizer that made these tokens"),
    ],
)
def test_damage_is_named_when_opening(folder: Path, name: str, damage: object, message: str) -> None:
    path = folder / name
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    with pytest.raises(ContractError, match=message):
        TokenSet.open(folder)


@pytest.mark.parametrize("name", ["tokens.bin", "index.parquet", "tokens.json", "tokenizer.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ContractError, match=f"{name} is missing"):
        TokenSet.open(folder)


def test_an_index_that_does_not_tile_is_refused(folder: Path) -> None:
    index = pq.read_table(folder / "index.parquet")
    lengths = index.column("length").to_pylist()
    swapped = pa.array([lengths[1], lengths[0], *lengths[2:]], pa.int64())
    pq.write_table(index.set_column(4, TOKENS_INDEX.schema.field("length"), swapped), folder / "index.parquet")
    with pytest.raises(ContractError, match="do not tile"):
        TokenSet.open(folder)


def test_a_flipped_bit_is_found_by_verify_and_a_wild_id_by_reading(folder: Path) -> None:
    data = bytearray((folder / "tokens.bin").read_bytes())
    data[1] ^= 0x80
    (folder / "tokens.bin").write_bytes(bytes(data))
    tokens = TokenSet.open(folder)
    with pytest.raises(ContractError, match=r"tokens\.bin was changed"):
        tokens.verify()
    order = RunOrder(tokens.lengths, tokens.n_tokens, 1, seed=0)
    with pytest.raises(ContractError, match="outside the vocabulary"):
        tokens.sequence(order.sequence(0, 0))


@pytest.mark.parametrize(("ids", "message"), [([300], "outside"), ([-1], "outside"), ([5, 0, 5], "holds the separator")])
def test_ids_that_cannot_be_are_refused(tmp_path: Path, tokenizer: Tokenizer, ids: list[int], message: str) -> None:
    with pytest.raises(ContractError, match=message) as caught:
        write_tokens(tmp_path, [(bytes(16), "web/7", 3, np.array(ids))], tokenizer)
    assert caught.value.where == "web/7 row 3"


def test_no_documents_make_an_empty_set_that_no_run_takes(tmp_path: Path, tokenizer: Tokenizer) -> None:
    assert write_tokens(tmp_path, [], tokenizer) == {"n_documents": 0, "n_tokens": 0, "size_bytes": 0}
    tokens = TokenSet.open(tmp_path)
    assert (tokens.n_tokens, tokens.n_documents) == (0, 0)
    tokens.verify()
    with pytest.raises(SubsetError, match="no tokens"):
        RunOrder(tokens.lengths, 8, 1, seed=0)


def test_a_separator_ends_a_document_and_begins_the_next(folder: Path) -> None:
    tokens = TokenSet.open(folder)
    plan = SequencePlan((Piece(0, 2, int(tokens.lengths[0]) - 2), Piece(2, 0, 2), Piece(3, 0, 4)), (0, 0, 0))
    ids, targets, segments = tokens.sequence(plan)
    first = tokens.document(0)[2:].tolist()
    expected = [*first, *tokens.document(2).tolist(), *tokens.document(3)[:4].tolist()]
    assert ids.tolist() == expected[:-1]
    assert targets.tolist() == expected[1:]
    end = tokens.separator_id
    assert (first[-1], tokens.document(2).tolist()[1]) == (end, end)
    # [first without its separator] [separator, document 2] [separator, document 3 without the last]
    assert segments.tolist() == [0] * (len(first) - 1) + [1, 1] + [2] * 4
    assert len(targets) == plan.n_targets


def test_a_window_that_begins_with_a_separator_gives_it_to_the_document_behind_it(folder: Path) -> None:
    tokens = TokenSet.open(folder)
    end = int(tokens.lengths[0])
    ids, targets, segments = tokens.sequence(SequencePlan((Piece(0, end - 1, 1), Piece(3, 0, 4)), (0, 0)))
    document = tokens.document(3)[:4].tolist()
    assert ids.tolist() == [tokens.separator_id, *document[:3]]
    assert targets.tolist() == document
    assert segments.tolist() == [1] * 4


def test_a_document_begins_with_what_the_tokenizer_begins_texts_with(tmp_path: Path, tokenizer: Tokenizer) -> None:
    data = train_bpe(TEXTS, 300, special_tokens=["<begin>"])
    own = Tokenizer(data, begin_id=Tokenizer(data).special_ids["<begin>"])
    write_tokens(tmp_path, rows_of(own, TEXTS), own)
    tokens = TokenSet.open(tmp_path)
    assert (tokens.begin_id, tokens.tokenizer().begin_id) == (own.begin_id, own.begin_id)
    assert own.begin_id != own.separator_id
    plan = SequencePlan((Piece(0, 0, int(tokens.lengths[0])), Piece(3, 0, 4)), (0, 0))
    ids, targets, _ = tokens.sequence(plan)
    length = int(tokens.lengths[0])
    assert ids[length - 1] == own.begin_id
    assert targets[length - 2] == own.separator_id
    assert own.separator_id not in ids
    assert own.begin_id not in targets
    # a token set that was written before begins were told apart has the separator
    described = json.loads((tmp_path / "tokens.json").read_text())
    del described["begin_id"]
    (tmp_path / "tokens.json").write_text(json.dumps(described))
    old = TokenSet.open(tmp_path)
    assert old.begin_id == old.separator_id
    assert old.digest != tokens.digest


def test_writing_takes_memory_that_does_not_grow_with_the_corpus(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_ROWS_PER_BATCH", 500)
    ids = np.ones(5_000, dtype=np.uint16)

    def peak(n_documents: int) -> int:
        rows = (((i).to_bytes(16, "big"), "web/0", i, ids) for i in range(n_documents))
        tracemalloc.start()
        write_tokens(tmp_path, rows, tokenizer)
        size_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size_bytes

    small = peak(1_000)
    assert peak(4_000) < 1.5 * small
    assert (tmp_path / "tokens.bin").stat().st_size == 4_000 * 5_001 * 2
