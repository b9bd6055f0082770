"""What every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real files that TILTH_TEST_DATA points to; the test is skipped where there is none."""
    folder = os.environ.get("TILTH_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("TILTH_TEST_DATA does not point to the test data")
    return Path(folder)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout that these tests are part of."""
    return REPOSITORY
