"""Several licences in one file: texts among others, names, exceptions, choices; and no GPL that a permissive text could hide."""

from __future__ import annotations

import time

import pytest

from tilth.corpus.provenance.licence_claims import Found, header_claims, licence_file_claims
from tilth.corpus.provenance.licence_names import debian_expression
from tilth.corpus.provenance.normal_text import normal_text
from tilth.corpus.provenance.spdx_expressions import UNKNOWN, strictness
from tilth.corpus.provenance.spdx_passages import RUN, run_hashes, spdx_passages

MIT = """Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation
files (the "Software"), to deal in the Software without restriction, including without limitation the rights to use, copy,
modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software
is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES
OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE
LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN
CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
X11 = (
    MIT
    + """
Except as contained in this notice, the name of the X Consortium shall not be used in advertising or otherwise to promote the
sale, use or other dealings in this Software without prior written authorization from the X Consortium.
"""
)
BSD_HEAD = """Redistribution and use in source and binary forms, with or without modification, are permitted provided that the following
conditions are met:

  * Redistributions of source code must retain the above copyright notice, this list of conditions and the following disclaimer.
  * Redistributions in binary form must reproduce the above copyright notice, this list of conditions and the following disclaimer
    in the documentation and/or other materials provided with the distribution.
"""
BSD_NAMES = """  * Neither the name of Plough Works Incorporated nor the names of its contributors may be used to endorse or promote products
    derived from this software without specific prior written permission.
"""
BSD_TAIL = """
THIS SOFTWARE IS PROVIDED BY PLOUGH WORKS INCORPORATED "AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT LIMITED
TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR A PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL PLOUGH WORKS
INCORPORATED BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL, SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE, DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED
AND ON ANY THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT (INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY
WAY OUT OF THE USE OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE.
"""
BSD_2, BSD_3 = BSD_HEAD + BSD_TAIL, BSD_HEAD + BSD_NAMES + BSD_TAIL
ZLIB = """This software is provided 'as-is', without any express or implied warranty. In no event will the authors be held liable for any
damages arising from the use of this software.

Permission is granted to anyone to use this software for any purpose, including commercial applications, and to alter it and
redistribute it freely, subject to the following restrictions:

1. The origin of this software must not be misrepresented; you must not claim that you wrote the original software. If you use this
   software in a product, an acknowledgment in the product documentation would be appreciated but is not required.
2. Altered source versions must be plainly marked as such, and must not be misrepresented as being the original software.
3. This notice may not be removed or altered from any source distribution.
"""
GPL_NOTICE = """This library is free software; you can redistribute it and/or modify it under the terms of the GNU General Public License as
published by the Free Software Foundation; either version 2, or (at your option) any later version.
"""
CLASSPATH = """Linking this library statically or dynamically with other modules is making a combined work based on this library. Thus, the
terms and conditions of the GNU General Public License cover the whole combination.
"""
TRI = """The contents of this file are subject to the Mozilla Public License Version 1.1. Alternatively, the contents of this file may be
used under the terms of either the GNU General Public License Version 2 or later (the "GPL"), or the GNU Lesser General Public
License Version 2.1 or later (the "LGPL").
"""


def names(text: str) -> list[str]:
    return [found.spdx for found in licence_file_claims(text)]


def lines_of(found: Found, text: str) -> str:
    return "\n".join(text.split("\n")[found.first_line - 1 : found.last_line])


def test_every_text_of_a_bundle_is_found_where_it_stands() -> None:
    bundle = "".join(
        f"\n{name}\n{'-' * 20}\nCopyright (c) 20{i} Owner {i}. All rights reserved.\n\n{text}"
        for i, (name, text) in enumerate({"one": MIT, "two": BSD_3, "three": ZLIB, "four": X11, "five": MIT}.items(), 10)
    )
    found = licence_file_claims("Third-party notices\n" + bundle)
    assert [one.spdx for one in found] == ["MIT", "BSD-3-Clause", "Zlib", "X11"]
    for one, text in zip(found, (MIT, BSD_3, ZLIB, X11), strict=True):
        assert one.tool == "spdx passage"
        assert 0.95 < one.score <= 1
        assert lines_of(one, "Third-party notices\n" + bundle) == text.rstrip("\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BSD_2, "BSD-2-Clause"),
        (BSD_3, "BSD-3-Clause"),
        (MIT, "MIT"),
        (X11, "X11"),
        (MIT.split("The above")[0] + MIT[-480:], "MIT-0"),
    ],
)
def test_near_twins_are_told_apart_whoever_is_named(text: str, expected: str) -> None:
    assert names(f"Plough\n\nCopyright 2020 A\n\n{text}\nand more words behind it that say nothing\n") == [expected]


@pytest.mark.parametrize("wrap", ["{}", "<!-- {} -->", "// {}", " * {}", "dnl {}", "REM {}"])
def test_comments_hide_nothing(wrap: str) -> None:
    commented = "".join(wrap.format(line) + "\n" for line in (MIT + GPL_NOTICE).split("\n"))
    assert names(commented) == ["MIT", "GPL-2.0-or-later"]
    assert [found.spdx for found in header_claims(commented)] == ["MIT", "GPL-2.0-or-later"]


@pytest.mark.parametrize("text", [MIT, X11, BSD_2, BSD_3, ZLIB])
@pytest.mark.parametrize("place", [0.0, 0.2, 0.5, 0.8, 1.0])
@pytest.mark.parametrize("sentence", ["The folder `rye` is under the GNU GPL, version 2.", "Parts: GPLv3+.", GPL_NOTICE])
def test_no_permissive_text_hides_a_word_of_the_gpl(text: str, place: float, sentence: str) -> None:
    words = text.split(" ")
    at = int(place * len(words))
    mixed = " ".join([*words[:at], f"\n{sentence}\n", *words[at:]])
    assert max(strictness(found.spdx) for found in licence_file_claims(mixed)) >= 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (GPL_NOTICE + "\n" + CLASSPATH, ["GPL-2.0-or-later WITH Classpath-exception-2.0"]),
        (MIT + "\n" + GPL_NOTICE + "with the Classpath exception\n", ["MIT", "GPL-2.0-or-later WITH Classpath-exception-2.0"]),
        (GPL_NOTICE + "\n" + MIT + "\n" + CLASSPATH, ["GPL-2.0-or-later WITH Classpath-exception-2.0", "MIT"]),
        ("Apache License 2.0 with LLVM exceptions\n", ["Apache-2.0 WITH LLVM-exception"]),
        ("SPDX-License-Identifier: GPL-3.0-or-later WITH GCC-exception-3.1\n", ["GPL-3.0-or-later WITH GCC-exception-3.1"]),
        ("This has a Classpath exception, and no licence.\n", [UNKNOWN]),
    ],
)
def test_an_exception_goes_with_its_licence(text: str, expected: list[str]) -> None:
    assert names(text) == expected


def test_a_choice_does_not_reach_beyond_the_notice_that_offers_it() -> None:
    apart = "Licensed under the Apache License, Version 2.0.\n" + MIT + BSD_3 + TRI
    assert names(apart) == ["Apache-2.0", "MIT", "BSD-3-Clause", "GPL-2.0-or-later OR LGPL-2.1-or-later OR MPL-1.1"]
    assert strictness(names(apart)[-1]) == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Icons by Mark: CC-BY-3.0; text: Creative Commons Attribution-ShareAlike 4.0", ["CC-BY-3.0", "CC-BY-SA-4.0"]),
        ("It is in the public domain.", ["LicenseRef-public-domain"]),
        ("It is not in the public domain.", [UNKNOWN]),
        ("under the BSD license", ["BSD-3-Clause"]),
        ("The BSD License\n\n" + BSD_2, ["BSD-2-Clause"]),
        ("under the zlib license or the MPL 1.1", ["Zlib", "MPL-1.1"]),
        ("GNU Free Documentation License, Version 1.2 or any later version; see GFDL-1.2", ["GFDL-1.2-or-later"]),
        ("GPL-2 or later; the full text of the GNU General Public License version 3 is elsewhere", ["GPL-2.0-or-later"]),
    ],
)
def test_licences_that_are_named_only(text: str, expected: list[str]) -> None:
    assert sorted(names(text)) == sorted(expected)


@pytest.mark.parametrize(
    "beside",
    [
        "The files in `cuda/` are under the vendor's End User License Agreement.",
        "You may not redistribute, rent or lease the firmware.",
        "This is proprietary and confidential.",
    ],
)
def test_terms_of_another_kind_beside_a_permissive_text_are_unknown(beside: str) -> None:
    text = f"{MIT}\n{beside}\n"
    assert names(text) == ["MIT", UNKNOWN]
    unknown = licence_file_claims(text)[-1]
    assert beside in lines_of(unknown, text)
    assert (unknown.score, strictness(unknown.spdx)) == (0.0, 5)
    assert names(GPL_NOTICE + beside) == ["GPL-2.0-or-later"]


def test_a_long_text_that_only_names_a_permissive_licence_stays_unknown() -> None:
    assert names("Our terms. " + "Whoever reads this agrees to all of it. " * 30 + "Parts are in the public domain.") == [
        "LicenseRef-public-domain",
        UNKNOWN,
    ]


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("GPL-2+", "GPL-2.0-or-later"), ("LGPL-2.1", "LGPL-2.1-only"), ("Expat", "MIT"), ("BSD-3-clause", "BSD-3-Clause"),
        ("GPL-2+ or Artistic", "GPL-2.0-or-later OR Artistic-1.0-Perl"), ("public-domain", "LicenseRef-public-domain"),
        ("GPL-3+ with autoconf exception", "GPL-3.0-or-later"), ("GFDL-1.3+", "GFDL-1.3-or-later"), ("other-1", None),
        ("GPL-3.0-or-later WITH GCC-exception-3.1", "GPL-3.0-or-later WITH GCC-exception-3.1"),
    ],
)  # fmt: skip
def test_fields_of_debian(field: str, expected: str | None) -> None:
    assert debian_expression(field) == expected
    found = licence_file_claims(f"Format: copyright-format/1.0/\n\nFiles: *\nCopyright: 2020 A\nLicense: {field}\n")
    assert [one.spdx for one in found if one.tool == "debian field"] == ([expected] if expected else [])


def test_the_time_grows_with_the_length_alone() -> None:
    bundle = (MIT + BSD_3 + ZLIB + X11) * 60  # 24,000 words and some are a block
    started = time.process_time()
    found = licence_file_claims(bundle + "\n" + BSD_2)
    assert time.process_time() - started < 20
    assert [one.spdx for one in found] == ["MIT", "BSD-3-Clause", "Zlib", "X11", "BSD-2-Clause"]
    assert lines_of(found[-1], bundle + "\n" + BSD_2) == BSD_2.rstrip("\n")


def test_runs_of_words() -> None:
    words = normal_text(MIT).words.split(" ")
    runs = run_hashes(words)
    assert len(runs) == len(words) - RUN + 1
    assert len(run_hashes(words[: RUN - 1])) == 0
    assert runs[5] == run_hashes(words[5 : 5 + RUN])[0]
    assert spdx_passages().find(["never", "heard", "of", "such", "a", "thing"]) == []
    assert [one.spdx for one in spdx_passages().find(words)] == ["MIT"]
