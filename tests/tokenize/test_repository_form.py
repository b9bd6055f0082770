"""The training form of repositories: context, pieces to fill in, and spans that find every byte again."""

from __future__ import annotations

import random
from collections import Counter

import numpy as np
import pytest

from tilth.errors import ContractError, RecipeError
from tilth.tokenize.bpe import Tokenizer, train_bpe
from tilth.tokenize.code_form import FILE_SEP, FIM_MIDDLE, FIM_PREFIX, FIM_SUFFIX, REPO_NAME, SPECIAL_TOKENS, CodeForm
from tilth.tokenize.repository_form import (
    RepositoryFile,
    TrainingDocument,
    document_spans,
    fill_in_pieces,
    repository_name,
    training_documents,
)
from tilth.tokenize.source_ranges import segments_of
from tilth.tokenize.token_spans import SpanIndex, SpanWriter, TokenSpan

ORIGIN = "https://forge.example/owner/name.git"
CODE = "def grow(seed):\n    # Blüte 🌱\n    return [seed] * 3\n"
HOSTILE = "x = '<fim_prefix>a<fim_suffix>b<fim_middle>' # <repo_name>r<file_sep>p\n<|endoftext|><fim_pad>"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_bpe([CODE * 20, "import plough\n" * 9], 330, special_tokens=SPECIAL_TOKENS))


def files_of(n: int, text: str = CODE) -> list[RepositoryFile]:
    return [RepositoryFile(bytes([i] * 16), "code/00000", i, f"src/m{i:02d}.py", f"{text}# {i} é\n") for i in range(n)]


def formed(tokenizer: Tokenizer, files: list[RepositoryFile], copy: int = 0, **settings: object) -> list[TrainingDocument]:
    return list(training_documents(ORIGIN, files, CodeForm(**settings), tokenizer, copy))  # type: ignore[arg-type]


def decoded(tokenizer: Tokenizer, document: TrainingDocument, span: TokenSpan) -> bytes:
    alphabet = {token: number for number, token in enumerate(_byte_alphabet())}
    words = (tokenizer._library.id_to_token(int(number)) for number in document.ids[span.token_start : span.token_end])
    return bytes(alphabet[char] for word in words for char in word)


def _byte_alphabet() -> list[str]:
    """The character that GPT-2's byte-level alphabet writes for each byte."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [chr(byte) if byte in shown else chr(256 + hidden.index(byte)) for byte in range(256)]


def test_names_and_paths_stand_before_each_file(tokenizer: Tokenizer) -> None:
    (document,) = formed(tokenizer, files_of(2), order="path", names=1.0, fim_repositories=0.0)
    text = "".join(f"{FILE_SEP}src/m{i:02d}.py\n{CODE}# {i} é\n" for i in range(2))
    assert tokenizer.decode(document.ids) == f"{REPO_NAME}owner/name{text}"
    (document,) = formed(tokenizer, files_of(2), order="path", names=0.0, fim_repositories=0.0)
    assert tokenizer.decode(document.ids) == "".join(f"{FILE_SEP}{CODE}# {i} é\n" for i in range(2))


def test_middle_comes_last_and_pieces_join_to_the_file(tokenizer: Tokenizer) -> None:
    special = {number: name for name, number in tokenizer.special_ids.items()}
    forms = {0.0: [FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE], 1.0: [FIM_PREFIX, FIM_SUFFIX, FIM_MIDDLE]}
    for spm, order in forms.items():
        (document,) = formed(tokenizer, files_of(9), order="path", fim_repositories=1.0, fim_files=1.0, spm=spm, names=0.0)
        found = [special[int(number)] for number in document.ids if int(number) in special]
        assert found == [FILE_SEP, *order] * 9
        for row in range(9):
            own = [span for span in document.spans if span.row == row and span.kind == "text"]
            parts = [span.part for span in own]
            full = ["suffix", "prefix", "middle"] if spm else ["prefix", "suffix", "middle"]
            assert parts == [part for part in full if part in parts]  # an empty piece has no tokens
            pieces = {span.part: decoded(tokenizer, document, span) for span in own}
            joined = b"".join(pieces.get(part, b"") for part in ("prefix", "middle", "suffix"))
            assert joined == f"{CODE}# {row} é\n".encode()
            for piece in pieces.values():
                piece.decode("utf-8")  # no character is torn


def test_spans_tile_the_tokens_and_name_what_is_synthetic(tokenizer: Tokenizer) -> None:
    (document,) = formed(tokenizer, files_of(12), names=1.0, fim_repositories=1.0)
    ends = [0, *(span.token_end for span in document.spans)]
    assert [span.token_start for span in document.spans] == ends[:-1]
    assert ends[-1] == len(document.ids) + 1  # the separator's span
    special = set(tokenizer.special_ids.values())
    for span in document.spans[:-1]:
        ids = set(document.ids[span.token_start : span.token_end].tolist())
        assert (span.kind == "synthetic") == (span.start is None)
        assert span.kind == "synthetic" or not ids & special
    assert next(span.row for span in document.spans if span.kind == "synthetic") is None
    covered = Counter(span.row for span in document.spans for _ in range(span.start or 0, span.end or 0))
    assert covered == {file.row: len(file.text.encode()) for file in files_of(12)}


def test_text_never_becomes_a_special_token(tokenizer: Tokenizer) -> None:
    special = set(tokenizer.special_ids.values())
    assert not special & set(tokenizer.encode(HOSTILE).tolist())
    assert tokenizer.decode(tokenizer.encode(HOSTILE)) == HOSTILE
    file = RepositoryFile(bytes(16), "code/00000", 0, "<file_sep>p<fim_middle>.py", HOSTILE)
    for fim in (0.0, 1.0):
        found = training_documents("https://x.example/<repo_name>/<|endoftext|>", [file], _all(fim), tokenizer)
        (document,) = found
        n_special = int(np.isin(document.ids, list(special)).sum())
        assert n_special == (5 if fim else 2)
        assert b"".join(sorted(decoded(tokenizer, document, span) for span in document.spans if span.kind == "text")) != b""


def _all(fim: float) -> CodeForm:
    return CodeForm(names=1.0, fim_repositories=fim, fim_files=1.0)


def test_special_tokens_move_no_other_id() -> None:
    texts = [CODE * 9]
    plain, more = (Tokenizer(train_bpe(texts, 290 + len(own), special_tokens=own)) for own in ((), SPECIAL_TOKENS))
    assert (plain.encode(CODE + HOSTILE) == more.encode(CODE + HOSTILE)).all()
    assert more.vocab_size == plain.vocab_size + len(SPECIAL_TOKENS)
    with pytest.raises(RecipeError, match="cannot hold all bytes"):
        train_bpe(texts, 260, special_tokens=SPECIAL_TOKENS)


def test_chance_depends_on_seed_and_ids_alone(tokenizer: Tokenizer) -> None:
    files = files_of(20)
    shuffled = random.Random(3).sample(files, len(files))
    first = formed(tokenizer, files)
    assert [document.ids.tolist() for document in formed(tokenizer, shuffled)] == [document.ids.tolist() for document in first]
    for other in ({"seed": 1}, {"copy": 1}):
        assert formed(tokenizer, files, **other)[0].ids.tolist() != first[0].ids.tolist()  # type: ignore[arg-type]


def test_shares_are_those_that_were_asked_for(tokenizer: Tokenizer) -> None:
    form, documents = CodeForm(), []
    for i in range(400):
        files = [file._replace(shard=f"code/{i:05d}") for file in files_of(4)]
        documents += training_documents(f"https://x.example/o/r{i}", files, form, tokenizer)
    special = tokenizer.special_ids
    named = np.array([special[REPO_NAME] in document.ids for document in documents])
    n_filled = np.array([(document.ids == special[FIM_MIDDLE]).sum() for document in documents])
    assert abs(named.mean() - 0.5) < 0.1  # 4 standard deviations
    assert abs((n_filled > 0).mean() - 0.5) < 0.1  # a repository of four files with FIM fills all but none of them
    assert abs(n_filled[n_filled > 0].mean() / 4 - 0.5) < 0.1


def test_cuts_fall_anywhere_also_at_the_ends() -> None:
    cuts = [fill_in_pieces("ab", (number,), CodeForm()) for number in range(500)]
    assert set(cuts) == {(0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2)}
    assert fill_in_pieces("", (1,), CodeForm()) == (0, 0)


def test_much_text_goes_on_in_a_further_document(tokenizer: Tokenizer) -> None:
    files = files_of(10)
    size = len(files[0].text.encode())
    documents = formed(tokenizer, files, order="path", names=1.0, max_bytes=3 * size)
    assert [sorted({span.row for span in one.spans if span.kind == "text"}) for one in documents] == [
        [0, 1, 2], [3, 4, 5], [6, 7, 8], [9],
    ]  # fmt: skip
    assert all(one.ids[0] == tokenizer.special_ids[REPO_NAME] for one in documents)


def test_edits_are_traced_through_the_pieces(tokenizer: Tokenizer) -> None:
    random_ = random.Random(5)
    read = "".join(random_.choice("abc é🌱\n=()") for _ in range(600))
    edits = [(40, 60, ""), (100, 100, "PUT<é>"), (200, 230, "<EMAIL>"), (599, 600, "")]
    text = "".join(part for part in (read[:40], read[60:100], "PUT<é>", read[100:200], "<EMAIL>", read[230:599]))
    source, trained = read.encode(), text.encode()
    for seed in range(30):
        file = RepositoryFile(bytes(16), "code/0", 0, "a.py", text, segments_of(read, edits))
        (document,) = formed(tokenizer, [file], fim_repositories=1.0, fim_files=1.0, seed=seed)
        own = [span for span in document.spans if span.kind != "synthetic"]
        assert sum((span.end or 0) - (span.start or 0) for span in own) == len(trained)
        kinds = Counter(span.kind for span in own)
        assert kinds["edited"] >= 2
        for span in own:
            data = decoded(tokenizer, document, span)
            assert data == trained[span.start : span.end]
            if span.kind == "text":
                assert data == source[span.source_start : span.source_end]
            else:
                assert 0 <= span.source_start <= span.source_end <= len(source)  # type: ignore[operator]
                assert data != source[span.source_start : span.source_end]


def test_a_document_alone_has_one_text_and_its_separator(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(CODE)
    spans = document_spans(RepositoryFile(bytes(16), "web/0", 3, "", CODE), ids, tokenizer)
    n = len(ids)
    assert [(span.token_start, span.token_end, span.kind, span.end) for span in spans] == [
        (0, n, "text", len(CODE.encode())), (n, n + 1, "synthetic", None),
    ]  # fmt: skip


def test_spans_on_disk_are_found_by_token(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tilth.tokenize.token_spans._ROWS_A_GROUP", 3)
    spans = [TokenSpan(at, at + 2, "text", "whole", bytes([at] * 16), "code/0", at, 0, 2, 0, 2) for at in range(0, 40, 2)]
    with SpanWriter(tmp_path) as writer:
        writer.write(spans)
    index = SpanIndex(tmp_path)
    assert [index.at(token) for token in range(40)] == [spans[token // 2] for token in range(40)]
    with pytest.raises(ContractError, match="from 41 to 42 follows 40"), SpanWriter(tmp_path) as writer:
        writer.write([*spans, TokenSpan(41, 42, "synthetic")])


def test_a_repository_is_called_by_owner_and_name() -> None:
    for origin in (ORIGIN, "git@forge.example:owner/name.git", "ssh://git@forge.example/owner/name"):
        assert repository_name(origin) == "owner/name"
    assert repository_name("name") == "name"


def test_a_form_that_cannot_be_is_refused(tokenizer: Tokenizer) -> None:
    for settings in ({"order": "size"}, {"names": 1.5}, {"fim_files": -0.1}, {"max_bytes": 0}):
        with pytest.raises(RecipeError):
            CodeForm(**settings)  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="lacks <repo_name>"):
        list(training_documents(ORIGIN, files_of(1), CodeForm(), Tokenizer(train_bpe([CODE], 300))))
