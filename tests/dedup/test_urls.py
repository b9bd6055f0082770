"""Normal URLs: examples of RFC 3986 and of the web, the form of a form, and what must stay apart."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.dedup.exact.urls import TRACKING, normal_urls

_PIECES = st.sampled_from(
    [
        *("http://", "HTTPS://", "a", "B", ".", "..", "/", "//", "?", "&", "=", "%", "%4", "%41", "%2f", "%e4"),
        *("2", "#", ":", "80", "443", "@", "utm_a", "gclid", "é", "中", " ", "\t", "\0", ";", "[", "]"),
    ]
)


def _normal(url: str | None) -> str:
    return normal_urls(pa.array([url], pa.string()))[0].as_py()


@pytest.mark.parametrize(
    ("url", "form"),
    [
        (
            "HTTP://User@Example.COM:80/%7Ea/./b/../c//?utm_source=x&b=2&a=1&a=0&gclid=3#frag",
            "http://User@example.com/~a/c?a=1&a=0&b=2",
        ),
        ("https://EXAMPLE.com:443", "https://example.com"),
        ("https://example.com/?", "https://example.com"),
        ("https://example.com:/", "https://example.com"),
        ("http://example.com:443/", "http://example.com:443"),
        ("ftp://example.com:21/a/", "ftp://example.com/a"),
        ("ws://example.com:80", "ws://example.com"),
        ("http://[::1]:80/", "http://[::1]"),
        ("http://[::1]", "http://[::1]"),
        ("  http://a.b/%e4%B8%ad\n", "http://a.b/%E4%B8%AD"),
        ("http://a.b/中 d", "http://a.b/%E4%B8%AD%20d"),
        ("http://a/../../x/..", "http://a"),
        ("http://a/100%", "http://a/100%25"),
        ("http://a/%%341", "http://a/%2541"),
        ("http://a/?UTM_Campaign=1&_ga=2&utm=3&&", "http://a?utm=3"),
        ("http://a/?b&a=&a", "http://a?a=&a&b"),
        ("mailto:Joe@Example.com", "mailto:Joe@Example.com"),
        ("/only/a/path/", "/only/a/path/"),
        ("", ""),
        (" \t", ""),
    ],
)
def test_examples(url: str, form: str) -> None:
    assert _normal(url) == form


def test_a_null_is_nothing() -> None:
    assert _normal(None) == ""


@pytest.mark.parametrize("name", TRACKING)
def test_every_tracking_parameter_goes_whatever_its_case(name: str) -> None:
    assert _normal(f"http://a/b?x=1&{name.upper()}=2&{name}") == "http://a/b?x=1"
    assert _normal(f"http://a/b?{name}x=1") == f"http://a/b?{name}x=1"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://a/b", "https://a/b"),
        ("http://a/b", "http://www.a/b"),
        ("http://a/b", "http://a/B"),
        ("http://a/b?x=1&x=2", "http://a/b?x=2&x=1"),
        ("http://a/b?q=x+y", "http://a/b?q=x%20y"),
        ("http://a/b%2Fc", "http://a/b/c"),
        ("http://a:8080/b", "http://a/b"),
        ("http://a/b?ref=1", "http://a/b"),
        ("http://u@a/b", "http://U@a/b"),
    ],
)
def test_what_may_be_another_page_stays_apart(one: str, other: str) -> None:
    assert _normal(one) != _normal(other)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.lists(_PIECES, max_size=14).map("".join), min_size=1, max_size=5))
def test_the_form_of_a_form_is_itself(pieces: list[str]) -> None:
    urls = [*pieces, *("http://" + piece for piece in pieces)]
    forms = normal_urls(pa.array(urls))
    assert normal_urls(forms).to_pylist() == forms.to_pylist()
    assert all(form.isascii() and not any(char.isspace() for char in form) for form in forms.to_pylist())


@settings(max_examples=100, deadline=None)
@given(st.permutations([f"{name}={value}" for name, value in zip("abcdefgh", range(8), strict=True)]))
def test_the_order_of_parameters_does_not_count(parameters: list[str]) -> None:
    assert _normal("http://a/?" + "&".join(parameters)) == "http://a?a=0&b=1&c=2&d=3&e=4&f=5&g=6&h=7"


def test_thousands_of_parameters_keep_their_order() -> None:
    query = "&".join(f"p{number}" for number in range(3000, 0, -1))
    assert _normal(f"http://a/?{query}&gclid=1") == f"http://a?{query}"
