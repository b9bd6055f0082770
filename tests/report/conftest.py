"""A store at each stage, its catalog, and the page made from it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tilth.artifacts import Store
from tilth.report import write_report


@pytest.fixture(scope="session")
def sample() -> ModuleType:
    """The module beside this file; with importlib's import mode, tests cannot import it by name."""
    return _beside("sample_store")


@pytest.fixture(scope="session")
def web_sample() -> ModuleType:
    """The module that adds to it what web corpora have."""
    return _beside("web_sample")


@pytest.fixture(scope="session")
def full_store(sample: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with a corpus, two subsets, two runs and a delta."""
    return sample.make_store(tmp_path_factory.mktemp("full") / ".tilth")


@pytest.fixture(scope="session")
def page(full_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on it."""
    return write_report(full_store, tmp_path_factory.mktemp("page") / "deep" / "report.html")


@pytest.fixture(scope="session")
def connection(full_store: Store) -> Iterator[Any]:
    """SQL on it: the other side of every comparison."""
    from tilth.catalog.connect import connect

    with connect(full_store) as opened:
        yield opened


@pytest.fixture(scope="session")
def web_store(sample: ModuleType, web_sample: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store with edits, policies, a mixture and more than forty signals."""
    return web_sample.make_web_store(sample, tmp_path_factory.mktemp("web") / ".tilth")


@pytest.fixture(scope="session")
def web_page(web_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on it."""
    return write_report(web_store, tmp_path_factory.mktemp("web-page") / "report.html")


@pytest.fixture(scope="session")
def web_connection(web_store: Store) -> Iterator[Any]:
    """SQL on it, as the page's panels see it."""
    from tilth.catalog.connect import connect
    from tilth.report.views import add_views

    with connect(web_store) as opened:
        add_views(opened, web_store)
        yield opened


def _beside(name: str) -> ModuleType:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"report_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
