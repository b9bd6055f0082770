"""Languages by name and content: each of linguist's strategies on files written here, its samples, and go-enry's answers."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sysconfig
import time
from pathlib import Path

import pytest

from tilth.corpus.languages import Detected, detect
from tilth.corpus.languages.modeline import modeline
from tilth.corpus.languages.rules import STEEP_BYTES, Head, rules
from tilth.corpus.languages.shebang import interpreter
from tilth.corpus.provenance.git_objects import GitObjects

MANUAL = b'.TH LS 1 "May 2024"\n.SH NAME\nls\n'


@pytest.mark.parametrize(
    ("path", "content", "language", "how"),
    [
        ("a/b.txt", b"# -*- mode: ruby -*-\nputs 1\n", "Ruby", "modeline"),
        ("x.unknown", b"a\n" * 50 + b"# vim: set ft=python :\n", "Python", "modeline"),
        ("Makefile", b"all:\n\techo\n", "Makefile", "filename"),
        ("dir/CMakeLists.txt", b"project(x)\n", "CMake", "filename"),
        ("run", b"#!/usr/bin/env python3\nprint(1)\n", "Python", "shebang"),
        ("tool.fcgi", b"#!/usr/bin/ruby -w\nputs 1\n", "Ruby", "shebang"),
        ("tool.cgi", b"#!/usr/bin/perl -w\nprint 1;\n", "Perl", "extension"),  # the shebang alone leaves Pod
        ("main.py", b"print(1)\n", "Python", "extension"),
        ("UPPER.PY", b"print(1)\n", "Python", "extension"),
        ("form.html.erb", b"<p><%= a %></p>\n", "HTML+ERB", "extension"),
        ("layout.unheard", b'<?xml version="1.0"?>\n<a/>\n', "XML", "xml"),
        ("a.h", b"#include <stdio.h>\nint f(void);\n", "C", "heuristics"),
        ("a.h", b"#pragma once\nnamespace a {\n  class B;\n}\n", "C++", "heuristics"),
        ("a.h", b"#import <Foundation/Foundation.h>\n@interface A\n@end\n", "Objective-C", "heuristics"),
        ("a.m", b"% a comment\nfunction y = f(x)\n", "MATLAB", "heuristics"),
        ("ls.1", MANUAL, "Roff Manpage", "heuristics"),
        ("build.1", b"just text\n", "Text", "heuristics"),
        ("a.pl", b":- module(a, []).\n", "Prolog", "heuristics"),
        ("a.t", b"use strict;\nuse Test::More;\n", "Perl", "heuristics"),
        ("names.txt", b"127.0.0.1 localhost\n", "Hosts File", "heuristics"),
        ("ads.txt", b"[Adblock Plus 2.0]\n||example.org^\n", "Adblock Filter List", "heuristics"),
        ("a.sol", b"nothing that tells\n", None, "unknown"),
        ("noise", b"nothing that tells\n", None, "unknown"),
        ("a.py", b"\x7fELF\x00\x00", None, "binary"),
        ("a.py", "print('é')\n".encode("latin-1"), "Python", "extension"),
        ("a.cs", "using System;\n".encode("utf-16"), "C#", "heuristics"),
        ("run", b"\xef\xbb\xbf#!/bin/sh\necho\n", "Shell", "shebang"),
    ],
)
def test_each_strategy_in_its_order(path: str, content: bytes, language: str | None, how: str) -> None:
    assert detect(path, content) == Detected(language, how)


def test_the_manual_page_suffix_leaves_two_languages_to_the_classifier() -> None:
    found = detect("tool.1x.in", b".TH T 1\n.SH NAME\ntool \\- does it\n.SH SYNOPSIS\n.B tool\n.I file\n")
    assert found.how == "classifier"
    assert found.language in ("Roff", "Roff Manpage")


@pytest.mark.parametrize(
    ("name", "content", "language"),
    [
        ("a.cp", b"#include <vector>\nstd::vector<int> v;\nint main() { return v.size(); }\n", "C++"),
        ("a.cp", b"MODULE A;\nIMPORT Out;\nPROCEDURE P*;\nBEGIN Out.Ln; END P;\nEND A.\n", "Component Pascal"),
        ("a.frag", b"uniform sampler2D t;\nvoid main() { gl_FragColor = texture2D(t, vec2(0.0)); }\n", "GLSL"),
        ("a.cfg", b"[section]\nkey = value\n[other]\nname = 1\n", "INI"),
    ],
)
def test_the_classifier_decides_among_what_is_left(name: str, content: bytes, language: str) -> None:
    assert detect(name, content) == Detected(language, "classifier")


def test_an_empty_content_is_told_by_the_name_alone() -> None:
    names = {"__init__.py": "Python", "a.rs": "Rust", "a.php": "PHP", "a.h": "C", "README.md": "Markdown", "x.ts": "TypeScript"}
    assert {name: detect(name, b"").language for name in names} == names
    assert detect("", b"") == Detected(None, "unknown")


def test_a_path_that_is_not_utf8() -> None:
    assert detect(os.fsdecode(b"caf\xe9/\xff.rb"), b"puts 1\n").language == "Ruby"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"// -*- C++ -*-", "C++"),
        (b"; -*-mode:lisp-*-", "lisp"),
        (b"# -*- coding: utf-8; mode: python; tab-width: 4 -*-", "python"),
        (b"# -*- coding: utf-8 -*-", None),
        (b"/* vim: ts=4 */", None),
        (b"# vim: ts=4 ft=sh noet", "sh"),
        (b"# vim: noai : ft =perl", "perl"),
        (b"/* vim: set ts=8 ft=c: */", "c"),
        (b"/* vim: set ts=8 ft=c */", None),
        (b"# vim700: syntax=ruby", "ruby"),
        (b"# vi:ft=tcl", "tcl"),
        (b"flex: ft=sh", None),
        (b" ex:ft=sh", "sh"),
        (b"# vim: titlestring=a:b-c:ft=lua", "lua"),
        (rb"# vim: titlestring=\ ft=lua", None),
        (b"# vim: ft=c++", None),
    ],
)
def test_modelines(line: bytes, said: str | None) -> None:
    assert modeline(line + b"\n") == said


def test_modelines_stand_within_five_lines_of_an_end() -> None:
    mark, lines = b"# vim: ft=sh\n", b"x\n" * 5
    assert modeline(lines[:8] + mark + lines + lines) == "sh"
    assert modeline(lines + lines + mark + lines[:8]) == "sh"
    assert modeline(lines + mark + lines) is None
    assert modeline(b"UseVimball\n" + mark) is None


@pytest.mark.parametrize(
    ("line", "command"),
    [
        (b"#!/bin/sh", "sh"),
        (b"#! /usr/bin/python2.7 -u", "python2"),
        (b"#!/usr/bin/env -S node --harmony", "node"),
        (b"#!/usr/bin/env A=1 B=2 ruby", "ruby"),
        (b"#!/usr/bin/env", None),
        (b"#!", None),
        (b"#!/bin/sh\nexec perl -x", "sh"),
        (b'#!/bin/sh\nexec scala "$0" "$@"', "scala"),
        (b"#!/usr/bin/osascript -l JavaScript", None),
        (b"print 1", None),
    ],
)
def test_shebangs(line: bytes, command: str | None) -> None:
    assert interpreter(line + b"\n") == command


HARD = (b"\n", b" ", b"a", b"a\n", b" \n", b"a(", b"a b(", b"\r", b"/*", b"case a ", b"-*- ", b" vim: a=", b"<meta a", b"{ap ")


@pytest.mark.parametrize("unit", HARD)
def test_no_content_takes_long(unit: bytes) -> None:
    content = unit * ((60 << 10) // len(unit))
    suffixes = [*rules().suffixes_with_rules, ".py", ".unheard"]
    for suffix in suffixes:
        start = time.process_time()
        detect(f"x{suffix}", content)
        assert time.process_time() - start < 1, suffix


def test_what_an_expression_needs_is_in_all_that_it_matches() -> None:
    folder = Path(sysconfig.get_path("stdlib"))
    texts = [path.read_bytes()[:STEEP_BYTES] for path in sorted(folder.glob("*.py"))[:12]]
    texts += [path.read_bytes()[:STEEP_BYTES] for path in sorted(Path(sysconfig.get_path("include")).glob("*.h"))[:12]]
    n_matches = 0
    for test in rules().tests:
        for head in map(Head, texts):
            matches = test.regex.search(head.text) is not None
            n_matches += matches
            assert test.found_in(head) == matches, test.regex.pattern
    assert n_matches > 50


def test_ten_thousand_files_a_second() -> None:
    folder = Path(sysconfig.get_path("stdlib"))
    paths = [
        path
        for pattern in ("*.py", "test/*.py", "idlelib/*.*", "asyncio/*.py", "encodings/*.py")
        for path in folder.glob(pattern)
        if path.is_file()
    ]
    paths += Path(sysconfig.get_path("include")).rglob("*.h")
    files = [(str(path), path.read_bytes()) for path in paths]
    assert len(files) > 1000
    seconds = []
    for _ in range(3):
        start = time.process_time()
        for path, content in files:
            detect(path, content)
        seconds.append(time.process_time() - start)
    assert len(files) / min(seconds) >= 10_000


def _needed(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set")
    return value


def test_samples_that_the_classifier_has_not_seen() -> None:
    """Trained on were the first, third, fifth ... file of every language by path; the others are measured."""
    right = n = 0
    for folder in sorted(Path(_needed("TILTH_LINGUIST_SAMPLES")).iterdir()):
        name = {"Fstar": "F*", "ProC": "Pro*C"}.get(folder.name, folder.name)
        for path in sorted(path for path in folder.rglob("*") if path.is_file())[1::2]:
            right += detect(path.name, path.read_bytes()).language == name
            n += 1
    assert n > 1000
    assert right / n >= 0.96


def test_agreement_with_enry_on_real_repositories() -> None:
    """TILTH_ENRY is the library that benchmarks/languages.py describes, TILTH_REPOSITORIES git directories, `:` between them."""
    enry = ctypes.CDLL(_needed("TILTH_ENRY")).Language
    enry.argtypes, enry.restype = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int), ctypes.c_char_p
    same = n = 0
    for repository in _needed("TILTH_REPOSITORIES").split(":"):
        objects = GitObjects(repository, repository)
        paths = {file.oid: file.path for file in objects.tree()}
        for blob in objects.blobs(paths, 10 << 20):
            path = paths[blob.oid]
            if blob.data is None or (found := detect(path, blob.data)).how == "binary":
                continue
            same += found.language == (enry(os.fsencode(path), blob.data, len(blob.data)).decode() or None)
            n += 1
    assert n > 1000
    assert same / n >= 0.99


def test_the_tables_are_small_and_name_their_source() -> None:
    folder = Path(__file__).parents[2] / "src" / "tilth" / "corpus" / "languages"
    assert sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) < 1_500_000
    notice = (folder / "LICENSE.linguist").read_text()
    assert "Copyright (c) 2017 GitHub, Inc." in notice
    assert rules().version in notice
    listed = subprocess.run(["git", "-C", str(folder), "ls-files"], capture_output=True, text=True, check=True).stdout.split()
    assert "samples" not in {Path(name).parts[0] for name in listed}
