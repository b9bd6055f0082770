"""The layout keeps its promises: the standard library stays itself, files stay small, rooms import lightly."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

MAX_LINES, MAX_KERNEL_LINES = 400, 700
MAX_FUNCTION_LINES, MAX_KERNEL_FUNCTION_LINES = 60, 150
# Every exception is listed by name, with its reason.
LONGER_FUNCTIONS: dict[str, str] = {}
BANNED_NAMES = {"utils.py", "helpers.py", "common.py", "manager.py", "misc.py"}


def run_python(code: str, cwd: Path) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, check=True).stdout.strip()


def source_files(repository: Path) -> list[Path]:
    return sorted((repository / "src" / "tilth").rglob("*.py"))


@pytest.mark.parametrize("folder", [".", "src", "tests"])
def test_tokenize_of_the_standard_library_stays_itself(repository: Path, folder: str) -> None:
    code = "import tokenize, inspect, linecache; inspect.getsource(inspect.getsource); print(tokenize.__file__)"
    assert "site-packages" not in run_python(code, repository / folder)
    assert "tilth" not in Path(run_python(code, repository / folder)).parts


def test_files_and_functions_stay_small(repository: Path) -> None:
    too_long = []
    for path in source_files(repository):
        is_kernel = "kernels" in path.parts
        lines = path.read_text().splitlines()
        if len(lines) > (MAX_KERNEL_LINES if is_kernel else MAX_LINES):
            too_long.append(f"{path}: {len(lines)} lines")
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if (
                    length > (MAX_KERNEL_FUNCTION_LINES if is_kernel else MAX_FUNCTION_LINES)
                    and node.name not in LONGER_FUNCTIONS
                ):
                    too_long.append(f"{path}: {node.name} has {length} lines")
    assert not too_long, "\n".join(too_long)


def test_no_file_is_a_drawer_for_everything(repository: Path) -> None:
    assert not [path for path in source_files(repository) if path.name in BANNED_NAMES]


def test_every_file_says_in_its_first_lines_what_it_promises(repository: Path) -> None:
    silent = [str(path) for path in source_files(repository) if not ast.get_docstring(ast.parse(path.read_text()))]
    assert not silent


def test_public_functions_are_annotated_and_documented(repository: Path) -> None:
    bare = []
    for path in source_files(repository):
        for node in ast.parse(path.read_text()).body:
            if (
                isinstance(node, ast.FunctionDef)
                and not node.name.startswith("_")
                and (node.returns is None or not ast.get_docstring(node))
            ):
                bare.append(f"{path}: {node.name}")
    assert not bare, "\n".join(bare)


HEAVY = ("torch", "triton", "dask", "distributed", "duckdb", "pyarrow", "altair", "numpy", "tokenizers", "resiliparse")


def test_help_is_instant_and_imports_nothing_heavy(repository: Path) -> None:
    code = f"import sys, tilth.cli, tilth; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run_python(code, repository) == "[]"


def test_the_compute_rooms_do_not_import_dask_or_duckdb(repository: Path) -> None:
    code = "import sys, tilth.trainer.loop, tilth.inference.generate; print([m for m in ('dask', 'duckdb') if m in sys.modules])"
    assert run_python(code, repository) == "[]"


def test_long_test_files_start_first(repository: Path, request: pytest.FixtureRequest) -> None:
    conftest = request.config.pluginmanager.get_plugin(str(repository / "tests" / "conftest.py"))
    for name in conftest.LONG_FILES:
        assert (repository / "tests" / name).exists(), f"{name} is gone: mend LONG_FILES in tests/conftest.py"
    names = [
        "artifacts/test_store.py",
        "pipeline/test_build.py",
        "house/test_layout.py",
        "house/test_readme.py",
        "pipeline/test_edits.py",
    ]
    items = [SimpleNamespace(path=repository / "tests" / name) for name in names]
    conftest.pytest_collection_modifyitems(items)
    assert [str(item.path.relative_to(repository / "tests")) for item in items] == [names[i] for i in (3, 1, 4, 0, 2)]
    assert "--no-loadscope-reorder" in (repository / "Makefile").read_text(), "xdist would sort files by their number of tests"
