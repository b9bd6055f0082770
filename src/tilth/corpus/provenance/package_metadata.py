"""Licences in what packages say of themselves: npm, Python, Cargo, Maven, RubyGems, Composer. Go's modules state none."""

from __future__ import annotations

import configparser
import json
import re
import tomllib
from collections.abc import Callable, Iterable
from typing import Any
from xml.etree import ElementTree

from tilth.corpus.provenance.licence_claims import Found
from tilth.corpus.provenance.licence_texts import recognise_notice
from tilth.corpus.provenance.normal_text import normal_text
from tilth.corpus.provenance.spdx_expressions import UNKNOWN, normalise_expression

VERSION = "1"
CLASSIFIER = "License :: "
CLASSIFIERS = {
    "OSI Approved :: MIT License": "MIT",
    "OSI Approved :: MIT No Attribution License (MIT-0)": "MIT-0",
    "OSI Approved :: Apache Software License": "Apache-2.0",
    "OSI Approved :: ISC License (ISCL)": "ISC",
    "OSI Approved :: Python Software Foundation License": "PSF-2.0",
    "OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "OSI Approved :: Mozilla Public License 1.1 (MPL 1.1)": "MPL-1.1",
    "OSI Approved :: The Unlicense (Unlicense)": "Unlicense",
    "OSI Approved :: zlib/libpng License": "Zlib",
    "OSI Approved :: Boost Software License 1.0 (BSL-1.0)": "BSL-1.0",
    "OSI Approved :: Eclipse Public License 2.0 (EPL-2.0)": "EPL-2.0",
    "OSI Approved :: GNU General Public License (GPL)": "GPL-1.0-or-later",
    "OSI Approved :: GNU General Public License v2 (GPLv2)": "GPL-2.0-only",
    "OSI Approved :: GNU General Public License v2 or later (GPLv2+)": "GPL-2.0-or-later",
    "OSI Approved :: GNU General Public License v3 (GPLv3)": "GPL-3.0-only",
    "OSI Approved :: GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "OSI Approved :: GNU Lesser General Public License v2 (LGPLv2)": "LGPL-2.0-only",
    "OSI Approved :: GNU Lesser General Public License v2 or later (LGPLv2+)": "LGPL-2.0-or-later",
    "OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)": "LGPL-3.0-only",
    "OSI Approved :: GNU Lesser General Public License v3 or later (LGPLv3+)": "LGPL-3.0-or-later",
    "OSI Approved :: GNU Affero General Public License v3": "AGPL-3.0-only",
    "OSI Approved :: GNU Affero General Public License v3 or later (AGPLv3+)": "AGPL-3.0-or-later",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
}
# Names that are no SPDX expression and yet mean one licence.
NAMES = {
    "mit license": "MIT", "the mit license": "MIT", "mit licence": "MIT", "expat": "MIT", "apache 2 0": "Apache-2.0",
    "apache 2": "Apache-2.0", "apache license 2 0": "Apache-2.0", "apache license version 2 0": "Apache-2.0",
    "the apache license version 2 0": "Apache-2.0", "the apache software license version 2 0": "Apache-2.0",
    "asl 2 0": "Apache-2.0", "apache software license 2 0": "Apache-2.0", "bsd 3 clause": "BSD-3-Clause",
    "bsd 3 clause license": "BSD-3-Clause", "new bsd license": "BSD-3-Clause", "new bsd": "BSD-3-Clause",
    "bsd 2 clause": "BSD-2-Clause", "simplified bsd": "BSD-2-Clause", "bsd 2 clause license": "BSD-2-Clause",
    "isc license": "ISC", "mpl 2 0": "MPL-2.0", "mozilla public license 2 0": "MPL-2.0",
    "eclipse public license v1 0": "EPL-1.0", "eclipse public license 1 0": "EPL-1.0",
    "eclipse public license v2 0": "EPL-2.0", "eclipse public license v 2 0": "EPL-2.0",
    "eclipse public license 2 0": "EPL-2.0", "cddl": "CDDL-1.0", "public domain": "LicenseRef-public-domain",
    "psf": "PSF-2.0",
}  # fmt: skip
GEM = re.compile(r"\.licenses?\s*=\s*(\[[^\]]*\]|%w\[[^\]]*\]|['\"][^'\"]*['\"](?:\.freeze)?)")
QUOTED = re.compile(r"['\"]([^'\"]+)['\"]")
GEM_LICENCES = re.compile(r"^licenses:\n((?:- [^\n]*\n)+)", re.MULTILINE)


def is_metadata_path(path: str) -> bool:
    """Whether a file is one of the descriptions of a package that are read here."""
    return _reader(path) is not None


def metadata_claims(path: str, text: str) -> list[Found]:
    """The licence that a package states; one that is not understood is LicenseRef-unknown, none is none."""
    read = _reader(path)
    if read is None:
        return []
    tool = "*.gemspec" if path.endswith(".gemspec") else path.rpartition("/")[2]
    try:
        stated = [one for one in read(text.removeprefix("\ufeff")) if isinstance(one, str) and one.strip()]
    except (ValueError, TypeError, AttributeError, configparser.Error, ElementTree.ParseError, RecursionError):
        return []  # a template, broken, or another file of that name: it describes no package
    found = []
    for one in dict.fromkeys(stated):
        line = text.count("\n", 0, max(0, text.find(one))) + 1
        spdx = stated_licence(one)
        found.append(Found(spdx, 0.0 if spdx == UNKNOWN else 1.0, tool, VERSION, line, line))
    return found


def stated_licence(text: str) -> str:
    """A licence as people name it in such files: an SPDX expression, Cargo's `MIT/Apache-2.0`, a classifier, a common name."""
    if text.startswith(CLASSIFIER):
        return CLASSIFIERS.get(text.removeprefix(CLASSIFIER), UNKNOWN)
    spdx = normalise_expression(text) or normalise_expression(re.sub(r"\s*/\s*", " OR ", text))
    if spdx is not None:
        return spdx
    normal = normal_text(text).words
    noticed = recognise_notice(f"licensed under {normal}")
    return NAMES.get(normal) or (noticed[0].spdx if len(noticed) == 1 else UNKNOWN)


def _reader(path: str) -> Callable[[str], Iterable[Any]] | None:
    name = path.rpartition("/")[2]
    return _gemspec if name.endswith(".gemspec") else _READERS.get(name)


def _npm(text: str) -> list[Any]:
    """npm: `license`, once an object with `type`, once a list `licenses` of which one may be chosen."""
    data = json.loads(text)
    given = data.get("license", data.get("licenses")) if isinstance(data, dict) else None
    several = given if isinstance(given, list) else [given]
    stated = [one.get("type") if isinstance(one, dict) else one for one in several]
    names = [one for one in stated if isinstance(one, str) and not one.upper().startswith("SEE LICEN")]
    return [" OR ".join(names)] if len(names) > 1 else names


def _composer(text: str) -> list[Any]:
    """Composer: a name, or a list of which one may be chosen."""
    given = json.loads(text).get("license")
    names = [one for one in (given if isinstance(given, list) else [given]) if isinstance(one, str)]
    return [" OR ".join(names)] if len(names) > 1 else names


def _pyproject(text: str) -> list[Any]:
    data = tomllib.loads(text)
    project = data.get("project") or data.get("tool", {}).get("poetry") or {}
    given = project.get("license")
    given = given.get("text") if isinstance(given, dict) else given
    if isinstance(given, str) and len(given) < 200:
        return [given]
    return [one for one in project.get("classifiers", []) if one.startswith(CLASSIFIER) and not one.endswith(":: OSI Approved")]


def _setup_cfg(text: str) -> list[Any]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.read_string(text)
    lines = parser.get("metadata", "classifiers", fallback=parser.get("metadata", "classifier", fallback="")).splitlines()
    classified = [line.strip() for line in lines if line.strip().startswith(CLASSIFIER)]
    return classified or [parser.get("metadata", "license", fallback=None)]


def _cargo(text: str) -> list[Any]:
    given = tomllib.loads(text).get("package", {}).get("license")
    return [given] if isinstance(given, str) else []


def _maven(text: str) -> list[Any]:
    root = ElementTree.fromstring(text)
    space = root.tag[: root.tag.index("}") + 1] if root.tag.startswith("{") else ""
    names = [element.text for element in root.findall(f"{space}licenses/{space}license/{space}name")]
    known = [stated_licence(name) for name in names if name]
    # Maven's own words: several licences are a choice
    return [" OR ".join(known)] if len(known) > 1 and UNKNOWN not in known else names


def _gemspec(text: str) -> list[Any]:
    match = GEM.search(text)
    if match is None:
        return []
    names = match[1][3:-1].split() if match[1].startswith("%w") else QUOTED.findall(match[1])
    return [" OR ".join(names)] if len(names) > 1 else names


def gem_field(text: str, name: str) -> str:
    """A field of the YAML that a gem holds (metadata.gz), at the top or one level below; empty if it is not there."""
    match = re.search(rf"^(?:  )?{name}: *+(?!!)(['\"]?)([^'\"\n]*)\1$", text, re.MULTILINE)
    return match[2].strip() if match else ""


def _gem(text: str) -> list[Any]:
    """The YAML of a gem: a list of which one may be chosen."""
    match = GEM_LICENCES.search(text)
    names = [line[2:].strip("'\" ") for line in match[1].splitlines()] if match else []
    return [" OR ".join(names)] if len(names) > 1 else names


_READERS: dict[str, Callable[[str], Iterable[Any]]] = {
    "package.json": _npm, "composer.json": _composer, "pyproject.toml": _pyproject, "setup.cfg": _setup_cfg,
    "Cargo.toml": _cargo, "pom.xml": _maven, "metadata.gz": _gem,
}  # fmt: skip
METADATA_TOOLS = frozenset({*_READERS, "*.gemspec"})
