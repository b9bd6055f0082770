"""Named predicates: they parse, bind, expand where a name is meant and nowhere else, and say what they miss."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.catalog.policies import POLICIES, expand_known_policies, expand_policies, names_policies
from tilth.catalog.predicate import check_binds, parse_predicate
from tilth.errors import QueryError
from tilth.pipeline.linguist import COLUMNS
from tilth.quality_signals.registry import families

NAMES = ("redpajama-v2", "gopher", "c4", "fineweb", "refinedweb", "dolma-cc", "ccnet-head")
CODE = ("stack-v2", "starcoder", "santacoder-comments", "santacoder-fertility")
OF_EVERY_CORPUS = {"language": pa.string(), "path": pa.string(), "n_chars": pa.int64()}
GOPHER = f"({POLICIES['gopher'].sql})"


@pytest.fixture(scope="module")
def signals() -> pa.Table:
    """A table of no row with every column that the families promise."""
    fields = [pa.field(name, kind) for family in families().values() for name, kind in family.columns.items()]
    fields += [pa.field(name, kind) for name, kind in (OF_EVERY_CORPUS | {"n_tokens": pa.int64()} | COLUMNS).items()]
    return pa.schema(fields).empty_table()


def test_all_are_there() -> None:
    assert tuple(POLICIES) == (*NAMES, *CODE)
    assert all(policy.source and policy.clauses for policy in POLICIES.values())


@pytest.mark.parametrize("name", [*NAMES, *CODE])
def test_a_policy_is_a_predicate_over_columns_of_the_families_it_names(name: str, signals: pa.Table) -> None:
    policy = POLICIES[name]
    known = {name: set(family.columns) for name, family in families().items()} | {
        "tokens": {"n_tokens"},
        "linguist": set(COLUMNS),
    }
    for clause in policy.clauses:
        assert set(clause.columns) <= known[clause.family], clause
        assert clause.word
    with duckdb.connect() as connection:
        connection.register("documents", signals)
        predicate = parse_predicate(connection, policy.sql)
        check_binds(connection, "documents", policy.sql, predicate, signals.column_names)
        assert len(predicate.clauses) == len(policy.clauses)
        assert set(policy.columns) <= predicate.names
        assert predicate.names - {"line"} <= {*policy.columns, *OF_EVERY_CORPUS}


@pytest.mark.parametrize(
    ("where", "expanded"),
    [
        ("@gopher", GOPHER),
        ("@gopher and n_bytes > 5", f"{GOPHER} and n_bytes > 5"),
        ("not @gopher", f"not {GOPHER}"),
        ("(@gopher)or(@c4)", f"({GOPHER})or(({POLICIES['c4'].sql}))"),
        ("n_bytes>5 and\n@ccnet-head", "n_bytes>5 and\n(ccnet_bucket = 0)"),
        ("url = '@gopher'", "url = '@gopher'"),
        ("url = 'it''s @gopher'", "url = 'it''s @gopher'"),
        (r"url = e'it\'s @gopher' and @ccnet-head", r"url = e'it\'s @gopher' and (ccnet_bucket = 0)"),
        ('"@gopher" = 1 and "a""@c4" = 2', '"@gopher" = 1 and "a""@c4" = 2'),
        ("url = $$@gopher$$ or url = $q$ '@c4 $q$", "url = $$@gopher$$ or url = $q$ '@c4 $q$"),
        ("n_bytes > 5 -- @gopher\n and @ccnet-head", "n_bytes > 5 -- @gopher\n and (ccnet_bucket = 0)"),
        ("/* @gopher */ true", "/* @gopher */ true"),
        ("url ^@ prefix and a <@ b and a @> b", "url ^@ prefix and a <@ b and a @> b"),
        ("text like 'me@gopher' or mail = me@gopher", "text like 'me@gopher' or mail = me@gopher"),
        ("@ -5 = 5", "@ -5 = 5"),
    ],
)
def test_names_are_expanded_where_they_are_names(where: str, expanded: str) -> None:
    assert expand_policies(where) == expanded


def test_an_unknown_name_gets_a_suggestion_and_its_place() -> None:
    with pytest.raises(QueryError) as caught:
        expand_policies("n_bytes > 5\n  and @goper")
    assert caught.value.where == "line 2, column 7: @goper"
    assert caught.value.fix is not None
    assert caught.value.fix.startswith("Did you mean `gopher`?")


def test_missing_signals_name_the_families_to_add() -> None:
    policy = POLICIES["gopher"]
    assert expand_policies("@gopher", [column.upper() for column in policy.columns], "web") == GOPHER
    quality = [column for column in policy.columns if not column.endswith(("gram_char_frac",))]
    with pytest.raises(QueryError) as caught:
        expand_policies("n_bytes > 1 and @gopher", quality, "web")
    assert "gopher_top_2gram_char_frac, gopher_top_3gram_char_frac, gopher_top_4gram_char_frac and 6 more" in caught.value.what
    assert caught.value.where == "corpus `web`"
    assert caught.value.fix == "Add `gopher_repetition` to the signals of the recipe and build again."
    assert expand_policies("url = '@gopher'", [], "web") == "url = '@gopher'"


@pytest.mark.parametrize(
    ("columns", "sql"),
    [
        (["ccnet_bucket"], "(ccnet_bucket = 0)"),
        (["perplexity_bucket"], "(perplexity_bucket = 'head')"),
        (["perplexity_bucket", "ccnet_bucket"], "(coalesce(ccnet_bucket = 0, perplexity_bucket = 'head'))"),
    ],
)
def test_the_best_third_is_told_by_what_a_corpus_has(columns: list[str], sql: str) -> None:
    assert expand_policies("@ccnet-head", columns, "web") == sql


def test_without_buckets_both_ways_to_them_are_said() -> None:
    with pytest.raises(QueryError) as caught:
        expand_policies("@ccnet-head", ["n_bytes"], "web")
    assert "ccnet_bucket, perplexity_bucket" in caught.value.what
    fix = "Add `ccnet` to the signals (of CCNet's own output) or `Perplexity(TRAIN_ON)` to the models of the recipe"
    assert caught.value.fix == f"{fix} and build again."


def test_published_buckets_come_first_where_a_corpus_has_both() -> None:
    (clause,) = POLICIES["ccnet-head"].on(["ccnet_bucket", "perplexity_bucket"]).clauses  # type: ignore[union-attr]
    values = "values (0, 'tail'), (2, 'head'), (null, 'head'), (null, 'middle'), (null, null)"
    found = duckdb.sql(f"select {clause.sql} from ({values}) as t(ccnet_bucket, perplexity_bucket)").fetchall()
    assert [row[0] for row in found] == [True, False, True, False, None]


def test_in_a_query_only_policies_are_names() -> None:
    columns = ["ccnet_bucket"]
    query = "select @n_tokens, '@ccnet-head', count(*) filter (@ccnet-head) from web -- @ccnet-head"
    wanted = "select @n_tokens, '@ccnet-head', count(*) filter ((ccnet_bucket = 0)) from web -- @ccnet-head"
    assert expand_known_policies(query, columns, "web") == wanted
    assert names_policies(query)
    assert not names_policies("select @n_tokens, '@gopher' from web")


@pytest.mark.parametrize(
    ("words", "capitals", "digits", "keeps"),
    [
        ([20, 20], [0.1, 0.1], [0.0, 0.0], True),
        ([20, 2], [0.1, 0.9], [0.0, 0.0], False),
        ([40, 1], [0.1, 0.0], [0.0, 0.0], True),
        ([9, 1], [0.1, 0.0], [0.0, 1.0], False),
    ],
)
def test_refinedweb_weighs_lines_by_their_words(
    words: list[int], capitals: list[float], digits: list[float], keeps: bool
) -> None:
    (clause,) = [clause for clause in POLICIES["refinedweb"].clauses if clause.family == "lines"]
    values = f"select {words} as {clause.columns[0]}, {capitals} as {clause.columns[1]}, {digits} as {clause.columns[2]}"
    assert duckdb.sql(f"select {clause.sql} from ({values})").fetchone() == (keeps,)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.sampled_from(["'", '"', "$$", "--", "\n", "/*", "*/", "@gopher", "@", "a", " ", "\\", "e'", "''"]), max_size=12)
)
def test_what_stands_between_quotes_is_never_touched(pieces: list[str]) -> None:
    where = "".join(pieces)
    quoted = "'" + where.replace("'", "''") + "'"
    assert expand_policies(quoted) == quoted
    named = '"' + where.replace('"', '""') + '"'
    assert expand_policies(f"{named} and @ccnet-head") == f"{named} and (ccnet_bucket = 0)"
