"""What every test may ask for."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).parents[1]
# Triton reads this while it is imported: without a GPU its kernels run in the interpreter, on CPU tensors.
if not Path("/dev/nvidiactl").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")
# Several processes of several threads share few cores here: a thread of OpenMP that spins while it waits keeps the one it waits for
# from running, and a training step takes five times as long. Inherited by all that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# A run must not fail by a draw that no change made; TILTH_HYPOTHESIS=random looks further.
settings.register_profile("random", deadline=None)
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile(os.environ.get("TILTH_HYPOTHESIS", "repeatable"))
# Files of minutes, or folders of them: one that starts last would run alone, while the other processes wait.
LONG_FILES = ("house/test_readme.py", "pipeline/", "trainer/", "report/test_browser.py", "kernels/", "deploy/", "inference/")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first, in the order of LONG_FILES; the order inside a file stays."""

    def rank(item: pytest.Item) -> int:
        path = item.path.relative_to(REPOSITORY / "tests").as_posix()
        return next((i for i, long in enumerate(LONG_FILES) if path.startswith(long)), len(LONG_FILES))

    items.sort(key=rank)


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


@pytest.fixture(scope="session")
def gharchive() -> ModuleType:
    """The module beside this file that makes events of GHArchive; with importlib's import mode, tests cannot import it by name."""
    spec = importlib.util.spec_from_file_location("gharchive_events", REPOSITORY / "tests" / "gharchive_events.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# torch is imported by the tests that ask for it: the data rooms' tests run without it.
@pytest.fixture(scope="session")
def one_thread() -> Iterator[None]:
    """Tensors of a small model: a second thread only waits, and waits long where others use the machine."""
    import torch

    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def fixed_seed() -> Iterator[None]:
    """The same random weights and tokens in every run, and none of them left to the next test."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(7)
        yield


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """make(layers, **changes): a small decoder with random weights that are large enough for an error to show."""
    import torch

    from tilth.models.config import ModelConfig
    from tilth.models.decoder import Decoder

    def make(layers: str = "MMA", *, scale: float = 3.0, **changes: Any) -> Decoder:
        sizes: dict[str, Any] = {
            "vocab_size": 43,
            "d_model": 32,
            "n_heads": 4,
            "n_kv_heads": 2,
            "d_ff": 48,
            "d_state": 8,
            "ssm_head_dim": 16,
            "chunk_size": 8,
        }
        model = Decoder(ModelConfig(layers=layers, **(sizes | changes)))
        with torch.no_grad():
            # at initialisation the layers hardly change the stream, and a leak would hide below 1e-6
            for name, weight in model.named_parameters():
                if name.endswith("proj.weight"):
                    weight.mul_(scale)
        return model

    return make
