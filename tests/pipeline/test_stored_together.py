"""A teacher's pass is made once, by all processes or by none, whoever else makes the same at the same time."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tilth.artifacts import Artifact, Spec, Store
from tilth.errors import TrainError
from tilth.pipeline.distill import stored_together
from tilth.trainer import world as worlds
from tilth.trainer.world import World

SPEC = Spec("teacher_logits", 1)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def published(store: Store) -> Artifact:
    def write(folder: Path) -> dict[str, Any]:
        (folder / "said").write_text("by another command")
        return {"n": 0}

    return store.make(SPEC, write)


def is_clean(store: Store) -> bool:
    return not (store.root / "work" / SPEC.key).exists()


def test_two_processes_store_and_publish_together(store: Store, tmp_path: Path) -> None:
    script = str(Path(__file__).with_name("run_stored_together.py"))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launcher, script, str(store.root), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    assert [one["written"] for one in found] == [[0], [1]]  # the second call finds what the first made
    made = store.find(SPEC)
    assert made is not None
    assert sorted(path.name for path in made.path.iterdir()) == ["manifest.json", "of-0", "of-1"]
    assert {digest for one in found for digest in one["digests"]} == {made.digest}
    assert is_clean(store)


def test_what_another_command_published_meanwhile_is_taken_and_nothing_left(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = worlds.sole_use

    @contextlib.contextmanager
    def late(work_dir: Path, world: World) -> Iterator[None]:
        published(store)
        with real(work_dir, world):
            yield

    monkeypatch.setattr(worlds, "sole_use", late)
    found = stored_together(store, SPEC, "cpu", must_not)
    assert found == published(store)
    assert is_clean(store)


def must_not(folder: Path, world: World) -> dict[str, Any]:
    raise AssertionError("was made again")


def test_the_first_process_looks_for_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose own look would find it joins the others, who wait for it in the pass."""
    words = iter([None, store.work_folder(SPEC), None])

    class Second(World):
        def from_first(self, make: Callable[[], Any]) -> Any:
            return next(words)

    @contextlib.contextmanager
    def join(device: str) -> Iterator[World]:
        yield Second(1, 2, worlds.pick_device(device))

    monkeypatch.setattr(worlds, "join_world", join)
    made, joined = published(store), []

    def write(folder: Path, world: World) -> dict[str, Any]:
        joined.append(world.rank)
        return {}

    assert stored_together(store, SPEC, "cpu", write) == made
    assert joined == [1]
    assert not list(words)


def test_while_another_command_makes_it_this_one_ends(store: Store) -> None:
    def write(folder: Path, world: World) -> dict[str, Any]:
        with pytest.raises(TrainError, match="another process"):
            stored_together(store, SPEC, "cpu", must_not)
        folder.mkdir()
        return {"n": 1}

    assert stored_together(store, SPEC, "cpu", write).stats == {"n": 1}
