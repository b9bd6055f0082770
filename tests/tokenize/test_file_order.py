"""What files import, and orders that put it before them."""

from __future__ import annotations

import pytest

from tilth.tokenize.code_form import CodeForm
from tilth.tokenize.file_order import file_order
from tilth.tokenize.imports import imported_files

REPOSITORIES = {
    "python": {
        "src/field/__init__.py": "",
        "src/field/soil.py": "import os, re as r\nfrom .water import (\n    rain,  # wet\n    river as flow,\n)\n",
        "src/field/water/__init__.py": "from . import rain\n",
        "src/field/water/rain.py": "'''no import'''\n",
        "src/field/tools.py": "import field.soil as s, json\n",
        "tests/test_soil.py": "from field import soil\nimport field.water.rain\nfrom absent import soil\n",
    },
    "script": {
        "app/main.ts": "import { a } from './lib/a.js'\nexport * from \"./lib\"\nimport x from 'react'\n",
        "app/lib/a.ts": "const b = require('../b')\n",
        "app/lib/index.tsx": "import('./a')\n",
        "app/b.jsx": "import './style.css'\n",
    },
    "java": {
        "main/java/org/farm/Barn.java": "package org.farm;\nimport java.util.List;\n",
        "main/java/org/farm/tools/Hoe.java": "import org.farm.Barn;\nimport static org.farm.Barn.open;\n",
        "test/java/org/farm/BarnTest.java": "import org.farm.tools.*;\nimport org.farm.Barn.Door;\n",
    },
    "go": {
        "go.mod": "module forge.example/farm\n\ngo 1.20\n",
        "cmd/main.go": 'package main\n\nimport (\n\t"fmt"\n\tb "forge.example/farm/barn"\n)\n',
        "barn/barn.go": 'package barn\n\nimport "forge.example/farm/soil"\n',
        "barn/barn_test.go": 'package barn\n\nimport "forge.example/farm/barn"\n',
        "soil/soil.go": "package soil\n",
    },
    "c": {
        "include/farm/soil.h": "#pragma once\n",
        "src/soil.c": '#include <stdio.h>\n#include <farm/soil.h>\n#include "own.h"\n',
        "src/own.h": "",
        "deep/er/x.cpp": '#  include "only_one.hpp"\n',
        "far/only_one.hpp": "",
    },
}
IMPORTED = {
    "python": {
        "src/field/soil.py": {"src/field/water/rain.py", "src/field/water/__init__.py"},
        "src/field/water/__init__.py": {"src/field/water/rain.py"},
        "src/field/tools.py": {"src/field/soil.py"},
        "tests/test_soil.py": {"src/field/soil.py", "src/field/water/rain.py"},
    },
    "script": {
        "app/main.ts": {"app/lib/a.ts", "app/lib/index.tsx"},
        "app/lib/a.ts": {"app/b.jsx"},
        "app/lib/index.tsx": {"app/lib/a.ts"},
    },
    "java": {
        "main/java/org/farm/tools/Hoe.java": {"main/java/org/farm/Barn.java"},
        "test/java/org/farm/BarnTest.java": {"main/java/org/farm/tools/Hoe.java", "main/java/org/farm/Barn.java"},
    },
    "go": {
        "cmd/main.go": {"barn/barn.go"},
        "barn/barn.go": {"soil/soil.go"},
        "barn/barn_test.go": {"barn/barn.go"},
    },
    "c": {"src/soil.c": {"include/farm/soil.h", "src/own.h"}, "deep/er/x.cpp": {"far/only_one.hpp"}},
}


@pytest.mark.parametrize("language", REPOSITORIES)
def test_imports_are_resolved_within_the_repository(language: str) -> None:
    files = REPOSITORIES[language]
    paths = list(files)
    found = imported_files(paths, list(files.values()))
    assert {paths[place]: {paths[other] for other in others} for place, others in found.items()} == IMPORTED[language]


@pytest.mark.parametrize("language", REPOSITORIES)
def test_what_is_imported_comes_first(language: str) -> None:
    files = REPOSITORIES[language]
    paths = list(files)
    order = file_order(paths, list(files.values()), CodeForm(order="dependency"), "o")
    assert sorted(order) == list(range(len(paths)))
    at = {paths[place]: number for number, place in enumerate(order)}
    assert all(at[other] < at[path] for path, others in IMPORTED[language].items() for other in others)


def test_cycles_are_broken_in_the_same_place_always() -> None:
    files = {
        "a.py": "import b", "b.py": "import c", "c.py": "import a, d", "d.py": "", "e.py": "import a", "f.py": "import f",
    }  # fmt: skip
    orders = set()
    for names in (sorted(files), sorted(files, reverse=True)):
        order = file_order(names, [files[name] for name in names], CodeForm(order="dependency"), "o")
        orders.add(tuple(names[place] for place in order))
    assert orders == {("d.py", "c.py", "b.py", "a.py", "e.py", "f.py")}


def test_a_long_chain_needs_no_stack() -> None:
    n = 5_000
    paths = [f"m{i:05d}.py" for i in range(n)]
    texts = [f"import m{i + 1:05d}\n" for i in range(n)]
    assert file_order(paths, texts, CodeForm(order="dependency"), "o") == list(range(n))[::-1]


def test_path_and_random_order() -> None:
    paths = [f"{i}.py" for i in range(9, -1, -1)]
    texts = [""] * 10
    assert file_order(paths, texts, CodeForm(order="path"), "o") == list(range(10))[::-1]
    first, again, other, copy = (
        file_order(paths, texts, CodeForm(seed=seed), origin, number)
        for seed, origin, number in ((0, "o", 0), (0, "o", 0), (0, "p", 0), (0, "o", 1))
    )
    assert first == again
    assert first not in (other, copy, list(range(10)))
    assert sorted(first) == list(range(10))


def test_a_go_module_without_go_mod_goes_by_its_origin() -> None:
    paths, texts = ["main.go", "barn/b.go"], ['package main\n\nimport "forge.example/o/farm/barn"\n', "package barn\n"]
    assert imported_files(paths, texts, "https://forge.example/o/farm.git") == {0: [1]}
