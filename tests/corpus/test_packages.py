"""Installed packages, from hand-made installations and from this environment."""

from __future__ import annotations

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tilth.corpus.provenance.distributions import installed_packages
from tilth.corpus.sources.package_descriptions import PackageDescriptions
from tilth.corpus.sources.packages import PackageSource, common_limit
from tilth.errors import SourceError

MIT_TEXT = (
    "Permission is hereby granted, free of charge, to any person obtaining a copy of this software, to deal in the Software "
    "without restriction, including without limitation the rights to use, copy, modify, merge. "
    "The above copyright notice and this permission notice shall be included."
)


@pytest.fixture
def install(tmp_path: Path) -> Callable[..., str]:
    """Installs a package by hand and returns the folder to search."""

    def make(name: str, files: dict[str, str], headers: str = "", body: str = "", extra: dict[str, str] | None = None) -> str:
        info = f"{name}-1.0.dist-info"
        content = {**files, f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{headers}\n{body}"}
        content |= {f"{info}/{path}": text for path, text in (extra or {}).items()}
        lines = []
        for path, text in content.items():
            file = tmp_path / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            digest = urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            lines.append(f"{path},sha256={digest},{len(text.encode())}")
        (tmp_path / info / "RECORD").write_text("\n".join([*lines, f"{info}/RECORD,,", "../../bin/tool,sha256=x,1"]) + "\n")
        return str(tmp_path)

    return make


def test_source_files_with_their_licences(install: Callable[..., str], rows: Callable[..., Any]) -> None:
    vendored = {
        "alpha/_vendor/gpl/LICENSE": "GNU GENERAL PUBLIC LICENSE\nVersion 3, 29 June 2007\na free, copyleft license for software",
        "alpha/_vendor/gpl/x.py": "x = 1\n",
    }
    install(
        "alpha",
        {"alpha/a.py": "a = 1\n", "alpha/data.json": "{}", **vendored},
        "License-Expression: Apache-2.0\n",
        extra={"licenses/LICENSE": MIT_TEXT},
    )
    path = install("beta", {"beta/__init__.py": "", "beta/a.py": "a = 1\n"}, extra={"LICENSE": MIT_TEXT})
    found = rows(PackageSource("packages", search_path=(path,)))
    assert [(row["origin"], row["path"]) for row in found.occurrences] == [
        ("alpha==1.0", "alpha/_vendor/gpl/x.py"), ("alpha==1.0", "alpha/a.py"), ("beta==1.0", "beta/a.py"),
    ]  # fmt: skip
    assert found.reasons == ["empty"]
    effective = {(row["path"], row["spdx"], row["scope"]) for row in found.licences if row["effective"]}
    assert effective == {
        ("alpha/_vendor/gpl/x.py", "GPL-3.0-only", "ancestor"), ("alpha/a.py", "Apache-2.0", "repository"),
        ("beta/a.py", "MIT", "repository"),
    }  # fmt: skip
    noted = {(row["path"], row["spdx"]) for row in found.licences if not row["effective"]}
    assert ("alpha/a.py", "MIT") in noted


def test_changed_and_missing_files(install: Callable[..., str], rows: Callable[..., Any], tmp_path: Path) -> None:
    path = install("alpha", {"alpha/a.py": "a = 1\n", "alpha/b.py": "b = 1\n", "alpha/c.py": "c = 1\n"})
    source = PackageSource("packages", search_path=(path,))
    before = source.plan()[0].fingerprint
    (tmp_path / "alpha/a.py").write_text("changed")
    (tmp_path / "alpha/b.py").unlink()
    assert rows(source).reasons == ["changed", "vanished"]
    assert source.plan()[0].fingerprint == before
    install("alpha", {"alpha/a.py": "a = 2\n"})
    assert source.plan()[0].fingerprint != before


def test_a_plan_parses_no_list_of_files(install: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle build plans only, and an environment lists tens of thousands of files."""
    path = install("alpha", {"alpha/a.py": "a = 1\n"}, body="# Alpha\n")

    def refuse(distribution: Any) -> None:
        raise AssertionError("RECORD was parsed")

    monkeypatch.setattr("tilth.corpus.provenance.distributions._recorded_files", refuse)
    assert len(PackageSource("packages", search_path=(path,)).plan()) == 1
    assert len(PackageDescriptions("prose", search_path=(path,)).plan()) == 1
    with pytest.raises(AssertionError):
        _ = next(installed_packages([path])).files


def test_tilth_and_editable_installations_are_left_out(install: Callable[..., str]) -> None:
    install("tilth", {"tilth/a.py": "a"})
    install("editable", {"editable/a.py": "a"}, extra={"direct_url.json": '{"url": "file:///x", "dir_info": {"editable": true}}'})
    path = install("other", {"other/a.py": "a"}, extra={"direct_url.json": "not json"})
    assert [package.name for package in installed_packages([path])] == ["other"]


@given(demands=st.lists(st.integers(0, 1000), max_size=12), total=st.integers(0, 5000))
@settings(max_examples=80, deadline=None)
def test_the_common_limit_uses_the_space(demands: list[int], total: int) -> None:
    limit = common_limit(demands, total)
    taken = sum(min(demand, limit) for demand in demands)
    assert taken <= total
    if sum(demands) > total:
        assert sum(min(demand, limit + 1) for demand in demands) > total or taken == sum(demands)
    else:
        assert taken == sum(demands)


def test_small_packages_keep_their_share(install: Callable[..., str], rows: Callable[..., Any]) -> None:
    install("aaa", {f"aaa/{i:03d}.py": f"n = {i:090d}\n" for i in range(100)})
    path = install("zzz", {"zzz/a.py": "z = 1\n" * 50})
    found = rows(PackageSource("packages", max_bytes=2000, search_path=(path,)))
    sizes = {
        name: sum(row["n_bytes"] for row in found.documents if dict(row["meta"])["package"] == name) for name in ("aaa", "zzz")
    }
    assert sizes["zzz"] == 300
    assert 1500 < sizes["aaa"] <= 1700


def test_descriptions(install: Callable[..., str], rows: Callable[..., Any]) -> None:
    install(
        "alpha",
        {},
        "Summary: short\nProject-URL: Home Page, https://example.org\nDescription-Content-Type: text/markdown; charset=UTF-8\n",
        "# Alpha\n\nGrüße.\n",
    )
    install(
        "beta",
        {},
        "Home-page: https://beta.example.org\nDescription: First.\n        Second.\n"
        "Classifier: License :: OSI Approved :: MIT License\n",
    )
    path = install("gamma", {}, "Home-page: UNKNOWN\n", "UNKNOWN\n")
    found = rows(PackageDescriptions("prose", search_path=(path,)))
    assert found.texts == ["# Alpha\n\nGrüße.", "First.\nSecond."]
    assert [(row["url"], row["language"]) for row in found.documents] == [
        ("https://example.org", "Markdown"),
        ("https://beta.example.org", None),
    ]
    assert [(row["location"], row["reason"]) for row in found.rejects] == [("gamma==1.0:METADATA", "empty")]
    assert [row["spdx"] for row in found.licences] == ["MIT"]


def test_this_environment(rows: Callable[..., Any]) -> None:
    found = rows(PackageDescriptions("prose"))
    names = {dict(row["meta"])["package"] for row in found.documents}
    assert {"numpy", "hypothesis", "pytest"} <= names
    assert "tilth" not in names
    code = rows(PackageSource("packages", max_bytes=600_000))
    assert 300_000 < sum(row["n_bytes"] for row in code.documents) <= 600_000
    assert len({dict(row["meta"])["package"] for row in code.documents}) > 20
    assert code.texts == rows(PackageSource("packages", max_bytes=600_000)).texts


def test_nothing_installed(tmp_path: Path) -> None:
    for kind in (PackageSource, PackageDescriptions):
        with pytest.raises(SourceError, match="no package is installed"):
            kind("p", search_path=(str(tmp_path),)).plan()
