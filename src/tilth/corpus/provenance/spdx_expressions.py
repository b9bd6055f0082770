"""SPDX expressions: their spelling, the licences in them, and how much they ask of who passes the work on."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from tilth.errors import SourceError

UNKNOWN = "LicenseRef-unknown"

# How much a licence asks of who passes the work on. What nobody here knows asks the most.
STRICTNESS = (
    (3, "BSD-Protection"),
    (5, "BSD-3-Clause-No-Military-License BSD-*-Non-Commercial*"),
    (0, "CC0-1.0 Unlicense 0BSD MIT-0 WTFPL PDDL-1.0 blessing FSFUL CC-PDDC"),
    (0, "LicenseRef-public-domain* LicenseRef-scancode-public-domain"),
    (1, "MIT MIT-* BSD-* Apache-* ISC ISC-* Zlib zlib-* BSL-1.0 PSF-2.0 Python-2.0 Python-2.0.* CNRI-* HPND HPND-* NCSA X11"),
    (1, "PostgreSQL AFL-* CC-BY-1.0 CC-BY-2.* CC-BY-3.* CC-BY-4.* BlueOak-* MulanPSL-* libtiff OpenSSL curl bzip2-* NTP OFL-1.1"),
    (1, "Artistic-2.0 ImageMagick FTL UPL-1.0 Unicode-* ECL-* EFL-* FSFAP FSFULLR Beerware Fair TCL W3C* Xnet IJG Info-ZIP"),
    (1, "X11-* Libpng libpng-2.0 ICU PHP-3.* Zend-2.0 ZPL-2.* SGI-B-2.0 SSH-* Spencer-* OLDAP-2.8 Adobe-2006 CECILL-B MS-PL"),
    (2, "LGPL-* MPL-* EPL-* CDDL-* EUPL-* CC-BY-SA-* CPL-* IPL-* Artistic-1.0 Artistic-1.0-* OSL-* MS-RL CECILL-C LPPL-* APSL-*"),
    (3, "GPL-* CECILL-1.* CECILL-2.* GFDL-* Sleepycat QPL-*"),
    (4, "AGPL-* SSPL-1.0 RPL-*"),
)
STRICTEST = 5


@cache
def _licensing() -> Any:
    from license_expression import get_spdx_licensing

    return get_spdx_licensing()


@cache
def normalise_expression(text: str) -> str | None:
    """An SPDX expression in SPDX's spelling; None if it is not one. `LicenseRef-` names are allowed."""
    from license_expression import ExpressionError, ExpressionParseError

    try:
        parsed = _licensing().parse(text.strip())
        if parsed is None:
            return None
        unknown = [str(key) for key in _licensing().unknown_license_keys(parsed)]
    except (ExpressionError, ExpressionParseError, ValueError, AttributeError):
        return None
    return str(parsed) if all(re.fullmatch(r"(?:DocumentRef-.*:)?LicenseRef-[A-Za-z0-9.-]+", key) for key in unknown) else None


def declared_licence(expression: str | None, where: str) -> str | None:
    """What a recipe declares for a whole source, in SPDX's spelling. Raises SourceError if it is no SPDX expression."""
    normal = normalise_expression(expression) if expression else None
    if expression and normal is None:
        raise SourceError(f"`{expression}` is not an SPDX expression", where, "for example CC-BY-SA-4.0, or LicenseRef-my-terms")
    return normal


@cache
def strictness(expression: str) -> int:
    """0 (no conditions) to 5 (unknown). `OR` is a choice and counts as its least strict side, `AND` as its strictest."""
    normal = normalise_expression(expression)
    return STRICTEST if normal is None else _strictness(_licensing().parse(normal))


def _strictness(node: Any) -> int:
    operator = getattr(node, "operator", "").strip()
    if operator in ("OR", "AND"):
        return (min if operator == "OR" else max)(_strictness(part) for part in node.args)
    key = str(getattr(node, "license_symbol", node).key)
    return next((level for level, names in STRICTNESS if any(fnmatchcase(key, name) for name in names.split())), STRICTEST)


@cache
def licences_in(expression: str) -> frozenset[str]:
    """The licences that an expression names, without their exceptions; empty if it is not one."""
    normal = normalise_expression(expression)
    if normal is None:
        return frozenset()
    return frozenset(str(symbol.key) for symbol in _licensing().license_symbols(normal, unique=True, decompose=True))


def covers(expression: str, spdx: str) -> bool:
    """Whether an expression speaks of every licence of another one; of a version `-only` and `-or-later` are one."""
    return {family(name) for name in licences_in(spdx)} <= {family(name) for name in licences_in(expression)}


def family(name: str) -> str:
    """GPL-2.0-only and GPL-2.0-or-later are GPL-2.0."""
    return name.removesuffix("-only").removesuffix("-or-later")
