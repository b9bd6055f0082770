"""A folder of clones as one source; copyright notices go, what RedPajama-V1 took with them stays."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tilth.corpus.extract.licence_header import strip_licence_header
from tilth.corpus.sources.git_repositories import GitRepositories
from tilth.errors import SourceError

NOTICE = "# Copyright 2020 A. Farmer\n# Licensed under the MIT licence.\n"


@pytest.fixture
def clones(repo: Any, tmp_path: Path) -> Path:
    """The same repository twice, once bare, and a folder that is none."""
    repo.write("run.sh", f"#!/bin/sh\n{NOTICE}\n# It ploughs.\nplough\n")
    repo.write("notice.py", NOTICE)
    repo.write("plain.py", "# It sows.\nsow()\n")
    repo.commit()
    folder = tmp_path / "clones"
    for words in (["clone", "-q"], ["clone", "-q", "--bare"]):
        target = folder / ("b/bare.git" if "--bare" in words else "a")
        subprocess.run(["git", *words, str(repo.path), str(target)], check=True, capture_output=True)
    (folder / "no-repository").mkdir()
    return folder


def test_every_repository_is_a_shard_in_the_order_of_paths(clones: Path, rows: Callable[..., Any]) -> None:
    source = GitRepositories("github", str(clones), max_bytes=1000)
    assert [(Path(s.location).name, s.params["max_bytes"]) for s in source.plan()] == [("a", 500), ("bare.git", 500)]
    names = [shard.name for shard in source.plan()]
    assert all(re.fullmatch(r"github/[0-9a-f]{12}", name) for name in names)
    (clones / "0").symlink_to(clones / "a")
    assert [shard.name for shard in source.plan()][1:] == names, "another repository renames none"
    (clones / "0").unlink()
    found = rows(source)
    assert len(found.documents) == 6
    assert not found.rejects
    assert len({row["doc_id"] for row in found.documents}) == 3  # the content names the document


def test_notices_go_and_shebangs_and_other_comments_stay(clones: Path, rows: Callable[..., Any]) -> None:
    source = GitRepositories("github", str(clones / "a"), strip_licence_headers=True)
    found = rows(source)
    assert sorted(row["text"] for row in found.documents) == ["# It sows.\nsow()\n", "#!/bin/sh\n# It ploughs.\nplough\n"]
    assert [(reject["reason"], reject["location"].endswith(":notice.py")) for reject in found.rejects] == [("empty", True)]
    shards = {
        GitRepositories("github", str(clones / "a"), strip_licence_headers=strip).plan()[0].params.__repr__()
        for strip in (True, False)
    }
    assert len(shards) == 2, "stripping is part of the key"


def test_a_folder_without_a_repository_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no git repository"):
        GitRepositories("github", str(tmp_path)).plan()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("/*\n * Copyright (c) 2001 B\n */\n\n#include <a.h>\n", "#include <a.h>\n"),
        ("#include <a.h>\n// Copyright B\nint x;\n", "#include <a.h>\n// Copyright B\nint x;\n"),
        ("// Copyright B\n\n// Says what it does.\nint x;\n", "// Says what it does.\nint x;\n"),
        ("-- SPDX-License-Identifier: MIT\nselect 1;\n", "select 1;\n"),
        ("\ufeff# -*- coding: utf-8 -*-\n# © B\nx = 1\n", "\ufeff# -*- coding: utf-8 -*-\nx = 1\n"),
        ("<?php\n/* all rights reserved */\necho 1;\n", "<?php\necho 1;\n"),
        ("# A script.\nx = 1\n", "# A script.\nx = 1\n"),
        ("x = 1\n# Copyright B\n", "x = 1\n# Copyright B\n"),
    ],
)
def test_headers(text: str, kept: str) -> None:
    assert strip_licence_header(text) == kept


@given(st.lists(st.sampled_from(["# ", "//", "--", "/*", "*/", "Copyright", "\n", "x", "#!", " ", "<!--", "-->"])).map("".join))
def test_what_is_left_is_an_end_of_the_text_behind_its_opening(text: str) -> None:
    left = strip_licence_header(text)
    taken = len(text) - len(left)
    assert any(text[:i] + text[i + taken :] == left for i in range(len(text) - taken + 1))
    assert taken == 0 or "copyright" in text.lower()
