"""A planted repository, read as a user would read it: nothing with a GPL header or a GPL ancestor is called permissive."""

from __future__ import annotations

import html
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tilth.corpus.provenance.spdx_expressions import strictness
from tilth.corpus.sources.folder import Folder
from tilth.corpus.sources.git import GitRepository

MIT = """MIT License

Copyright (c) {holder}

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation
files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy,
modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software
is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES
OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE
LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
GPL_TEXT = (
    "GNU GENERAL PUBLIC LICENSE\nVersion 2, June 1991\n\nEveryone is permitted to copy and distribute verbatim copies.\n"
    "The precise terms and conditions for copying, distribution and modification follow.\n"
)
NOTICE = (
    "This program is free software; you can redistribute it and/or modify it under the terms of the GNU General Public License"
    ' as published by the Free Software Foundation; either version 2 of the License, or (at your option) any later version.\n"'
    'Plough & Sons" distribute this program in the hope that it will be useful, but WITHOUT ANY WARRANTY; see the GNU General'
    " Public License for more details."
)
TAG = "SPDX-License-Identifier: GPL-2.0-or-later"


def each_line(mark: str, end: str = "") -> Callable[[str], str]:
    return lambda notice: "".join(f"{mark}{line}{end}\n" for line in textwrap.wrap(notice, 60))


def between(start: str, end: str, mark: str = "") -> Callable[[str], str]:
    return lambda notice: f"{start}\n{each_line(mark)(notice)}{end}\n"


# What a comment looks like, by the extension of a file that has it.
STYLES = {
    "c": between("/*", " */", " * "), "cpp": each_line("// "), "py": each_line("# "), "sql": each_line("-- "),
    "html": between("<!--", "-->"), "lisp": each_line(";;; "), "tex": each_line("% "), "ml": between("(*", "*)", " * "),
    "m4": each_line("dnl "), "bat": each_line("REM "), "f": each_line("C     "), "f90": each_line("! "), "vb": each_line("' "),
    "hs": between("{-", "-}"), "1": each_line('.\\" '), "texi": each_line("@c "), "lua": between("--[[", "]]"),
    "cc": each_line('  puts("', '\\n");'), "pas": between("{", "}"), "php": lambda notice: f"<?php\n{between('/**', ' */', ' * ')(notice)}",
}  # fmt: skip


def planted() -> dict[str, bytes]:
    """Path -> content. What must not be called permissive has `gpl` in its path, what must be has `free`."""
    files = {"LICENSE": MIT.format(holder="2020 A. Farmer").encode(), "src/free.py": b"print('free')\n"}
    for extension, style in STYLES.items():
        code = b"\nx = 1\n"
        files[f"styles/gpl_notice.{extension}"] = style(NOTICE).encode() + code
        files[f"styles/gpl_tag.{extension}"] = style(TAG).encode() + code
    notice = each_line("# ")(NOTICE)
    files |= {
        "vendor/gpl/COPYING": GPL_TEXT.encode(), "vendor/gpl/a.c": b"int a;\n", "vendor/gpl/deep/er/free_looking.c": b"int b;\n",
        "vendor/gpl/sub/LICENSE": MIT.format(holder="B").encode(), "vendor/gpl/sub/c.c": b"int c;\n",
        "vendor/gpl/tagged.c": b"// SPDX-License-Identifier: MIT\nint d;\n",
        "odd/gpl_escaped.py": html.escape(notice).encode() + b"a = 1\n",
        "odd/gpl_bom.py": b"\xef\xbb\xbf" + notice.encode() + b"b = 1\n",
        "odd/gpl_crlf.py": notice.replace("\n", "\r\n").encode() + b"c = 1\r\n",
        "odd/gpl_cr.py": notice.replace("\n", "\r").encode() + b"d = 1\r",
        "odd/gpl_latin1.py": "# Copyright 2001 J. Müller, Straße 1\n".encode("latin-1") + notice.encode() + b"e = 1\n",
        "odd/gpl_utf16.py": ("\ufeff" + notice + "f = 1\n").encode("utf-16-le"),
        "odd/gpl_wide.py": ("# " + " ".join(NOTICE.split()) + "\ng = 1\n").encode(),
        "odd/gpl_narrow.py": "".join(f"# {word}\n" for word in NOTICE.split()).encode() + b"h = 1\n",
        "odd/gpl_below_a_docstring.py": ('"""' + "What it does.\n" * 70 + '"""\n' + notice).encode(),
        "odd/gpl_and_tag.py": b"# SPDX-License-Identifier: MIT\n" + notice.encode() + b"i = 1\n",
        "odd/gpl_short.py": b"# Licensed under the GPLv2+, see COPYING\nj = 1\n",
        "odd/gpl_module.c": b'MODULE_LICENSE("GPL v2");\n',
        "odd/gpl_gnu.py": b"# This is released under GNU/GPL\nk = 1\n",
        "kinds/gpl_npm/package.json": b'{"name": "x", "license": "GPL-3.0"}', "kinds/gpl_npm/i.js": b"i();\n",
        "kinds/gpl_cargo/Cargo.toml": b'[package]\nlicense = "GPL-2.0+"\n', "kinds/gpl_cargo/i.rs": b"fn i() {}\n",
        "kinds/gpl_py/setup.cfg": b"[metadata]\nlicense = GPLv3\n", "kinds/gpl_py/i.py": b"i()\n",
        "kinds/gpl_page/COPYING.html": b"<html><body><h1>GNU GPL</h1><p>under the GNU&nbsp;<b>General</b> Public License</p></body>",
        "kinds/gpl_page/i.py": b"ii()\n", "kinds/gpl_name/gpl-2.0.txt": GPL_TEXT.encode(), "kinds/gpl_name/i.py": b"iii()\n",
        "kinds/gpl_latin1/COPYING": "© 2001 Müller\n".encode("latin-1") + GPL_TEXT.encode(), "kinds/gpl_latin1/i.py": b"iv()\n",
        "kinds/gpl_crlf/COPYING": b"\xef\xbb\xbf" + GPL_TEXT.replace("\n", "\r\n").encode(), "kinds/gpl_crlf/i.py": b"v()\n",
        "dual/free_tag.py": b"# SPDX-License-Identifier: MIT OR GPL-2.0-only\nl = 1\n",
        "dual/gpl_both.py": b"# SPDX-License-Identifier: MIT AND GPL-2.0-only\nm = 1\n",
        "dual/free_notice.js": b"/* Dual licensed under the MIT license and the GPL Version 2 licenses. */\nn();\n",
        "dual/free_crate/Cargo.toml": b'[package]\nlicense = "MIT/GPL-2.0"\n', "dual/free_crate/LICENSE-COPYLEFT": GPL_TEXT.encode(),
        "dual/free_crate/LICENSE-MIT": MIT.format(holder="C").encode(), "dual/free_crate/lib.rs": b"fn o() {}\n",
        "rewrapped/free/LICENSE": html.escape("\r\n".join(textwrap.wrap(MIT.format(holder="1999 D & Söhne <d@e.f>"), 40))).encode(),
        "rewrapped/free/p.py": b"p = 1\n",
    }  # fmt: skip
    return files


@pytest.fixture(scope="module")
def repository_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    for path, content in planted().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    git = ["git", "-C", str(folder), "-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "core.autocrlf=false"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "planted"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    return folder


def in_force(claims: list[dict[str, Any]]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for claim in claims:
        if claim["effective"]:
            found.setdefault(claim["path"], set()).add(claim["spdx"])
    return found


@pytest.mark.parametrize("kind", [GitRepository, Folder])
def test_no_file_under_gpl_is_called_permissive(kind: Any, repository_folder: Path, rows: Callable[..., Any]) -> None:
    licences = in_force(rows(kind("planted", str(repository_folder))).licences)
    paths = [path for path in planted() if path in licences]
    assert len(paths) >= len(planted()) - 1  # all but what is no text
    levels = {path: max(strictness(spdx) for spdx in licences[path]) for path in paths}
    assert [path for path in paths if "gpl" in path and levels[path] < 3] == []
    assert [(path, licences[path]) for path in paths if "free" in path and "gpl" not in path and levels[path] > 1] == []


def test_the_evidence_names_file_lines_tool_version_and_score(repository_folder: Path, rows: Callable[..., Any]) -> None:
    claims = rows(GitRepository("planted", str(repository_folder))).licences
    (header,) = [c for c in claims if c["path"] == "odd/gpl_below_a_docstring.py" and c["scope"] == "file"]
    assert (header["spdx"], header["tool"], header["evidence_path"]) == ("GPL-2.0-or-later", "notice", header["path"])
    assert 71 <= header["first_line"] <= header["last_line"] <= 80
    assert header["tool_version"]
    above = [c for c in claims if c["path"] == "src/free.py"]
    assert [(c["spdx"], c["tool"], c["score"], c["first_line"], c["evidence_path"]) for c in above] == [
        ("MIT", "spdx text", 1.0, 1, "LICENSE")
    ]
    blob = subprocess.run(
        ["git", "-C", str(repository_folder), "rev-parse", "HEAD:LICENSE"], capture_output=True, text=True, check=True
    )
    assert above[0]["evidence_swhid"] == f"swh:1:cnt:{blob.stdout.strip()}"
    assert above[0]["tool_version"].startswith("v3.")
