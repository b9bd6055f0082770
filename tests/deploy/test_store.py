"""From disk to memory: what stays, what leaves, and that nothing in use ever does, under threads as well."""

from __future__ import annotations

import random
import shutil
import threading
import weakref
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from tilth.deploy import store as deploy_store
from tilth.deploy.delta import compress
from tilth.deploy.delta_file import save_delta
from tilth.deploy.store import DeltaStore, check_name
from tilth.deploy.tenant import content_digest, tenant_weights
from tilth.errors import DeltaError, NotFoundError

N_DELTAS = 4


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """A tiny base and deltas of the same size over it, d0.safetensors ... and one of another base."""
    folder = tmp_path_factory.mktemp("shelf")
    generator = torch.Generator().manual_seed(0)
    base = {"blocks.0.mlp.out_proj.weight": torch.randn(8, 40, generator=generator), "norm.weight": torch.ones(8)}
    digests = {}
    for i in range(N_DELTAS):
        tuned = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator) for name, tensor in base.items()}
        delta = compress(base, tuned)
        save_delta(folder / f"d{i}.safetensors", delta, delta.base_digest)
        digests[f"d{i}"] = content_digest(delta)
    other = compress(tuned, base)
    save_delta(folder / "other.safetensors", other, other.base_digest)
    size = tenant_weights(delta, base).size_bytes
    return SimpleNamespace(folder=folder, base=base, size=size, digests=digests)


def make(shelf: SimpleNamespace, n: float) -> DeltaStore:
    return DeltaStore(shelf.base, folder=shelf.folder, capacity_bytes=int(n * shelf.size))


def used(store: DeltaStore, *names: str) -> None:
    for name in names:
        store.load(name)


def test_a_delta_is_read_once_and_is_what_the_file_says(shelf: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    n_reads = []
    load_delta = deploy_store.load_delta
    monkeypatch.setattr(deploy_store, "load_delta", lambda path: n_reads.append(path) or load_delta(path))
    store = make(shelf, 2)
    first = store.acquire("d1")
    assert first.digest == shelf.digests["d1"]
    assert store.acquire("d1") is first
    assert len(n_reads) == 1
    assert store.used_bytes == first.size_bytes == shelf.size
    assert store.names() == ["d0", "d1", "d2", "d3", "other"]


def test_the_longest_unused_leaves_first(shelf: SimpleNamespace) -> None:
    store = make(shelf, 2)
    used(store, "d0", "d1", "d0", "d2")
    assert store.in_memory() == ["d0", "d2"]
    used(store, "d3")
    assert store.in_memory() == ["d2", "d3"]
    assert store.used_bytes == 2 * shelf.size


def test_what_is_in_use_stays(shelf: SimpleNamespace) -> None:
    store = make(shelf, 2)
    kept = store.acquire("d0")
    used(store, "d1", "d2")
    assert store.in_memory() == ["d0", "d2"]
    store.acquire("d2")
    with pytest.raises(DeltaError, match="no room for delta `d3`"):
        store.acquire("d3")
    assert store.in_memory() == ["d0", "d2"]
    store.release("d0")
    assert store.acquire("d0") is kept
    store.release("d0")
    used(store, "d3")
    assert store.in_memory() == ["d2", "d3"]


def test_what_was_acquired_is_counted_and_held_once(shelf: SimpleNamespace) -> None:
    store = make(shelf, 1)
    weights = store.acquire("d0")
    term = weakref.ref(weights.products["blocks.0.mlp.out_proj.weight"][0])
    del weights  # as an engine does once it has a copy
    assert term() is None
    assert store.used_bytes == shelf.size
    with pytest.raises(DeltaError, match="no room for delta `d1`"):
        store.acquire("d1")
    # a second engine gets it from disk; the count goes with the last of the two
    assert store.acquire("d0").digest == shelf.digests["d0"]
    assert store.used_bytes == shelf.size
    store.release("d0")
    assert store.used_bytes == shelf.size
    store.release("d0")
    assert (store.in_memory(), store.used_bytes) == ([], 0)
    store.unload("d0")
    store.load("d1")


def test_a_second_reading_that_fails_leaves_the_first_counted(shelf: SimpleNamespace, tmp_path: Path) -> None:
    path = Path(shutil.copy(shelf.folder / "d0.safetensors", tmp_path))
    store = DeltaStore(shelf.base, folder=tmp_path, capacity_bytes=shelf.size)
    store.acquire("d0")
    path.write_bytes(b"")
    with pytest.raises(DeltaError, match="damaged"):
        store.acquire("d0")
    assert store.used_bytes == shelf.size
    store.release("d0")
    assert store.used_bytes == 0


def test_one_that_never_fits_is_refused(shelf: SimpleNamespace) -> None:
    with pytest.raises(DeltaError, match="no room"):
        make(shelf, 0.9).acquire("d0")


def test_releasing_more_often_than_acquired_is_an_error(shelf: SimpleNamespace) -> None:
    store = make(shelf, 2)
    with pytest.raises(DeltaError, match="more often"):
        store.release("d0")
    used(store, "d0")
    with pytest.raises(DeltaError, match="more often"):
        store.release("d0")


@pytest.mark.parametrize("name", ["../d0", "/etc/passwd", "a/b", "", ".", "..", "a..b", "d0\n", "-x", "a\\b", "x" * 101, "é"])
def test_names_that_climb_are_refused(shelf: SimpleNamespace, name: str) -> None:
    for call in (make(shelf, 2).acquire, make(shelf, 2).load, check_name):
        with pytest.raises(DeltaError, match="no name of a delta"):
            call(name)
    with pytest.raises(DeltaError, match="no name of a delta"):
        DeltaStore(shelf.base, files={name: shelf.folder / "d0.safetensors"}, capacity_bytes=1)


def test_failures_leave_nothing_behind(shelf: SimpleNamespace, tmp_path: Path) -> None:
    store = make(shelf, 2)
    with pytest.raises(DeltaError, match="another base"):
        store.acquire("other")
    with pytest.raises(NotFoundError, match="Did you mean `d0`"):
        store.acquire("d00")
    data = (shelf.folder / "d0.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[:-1])
    with pytest.raises(DeltaError, match="damaged"):
        store.load("cut", tmp_path / "cut.safetensors")
    assert "cut" not in store.names()
    assert (store.in_memory(), store.used_bytes) == ([], 0)
    # the same name works once its file does
    (tmp_path / "cut.safetensors").write_bytes(data)
    assert store.load("cut", tmp_path / "cut.safetensors").digest == shelf.digests["d0"]
    assert store.in_memory() == ["cut"]


def test_load_and_unload_at_run_time(shelf: SimpleNamespace, tmp_path: Path) -> None:
    store = DeltaStore(shelf.base, capacity_bytes=10 * shelf.size)
    assert store.names() == []
    store.load("mine", shelf.folder / "d2.safetensors")
    assert store.acquire("mine").digest == shelf.digests["d2"]
    with pytest.raises(DeltaError, match="in use"):
        store.unload("mine")
    with pytest.raises(DeltaError, match="in use"):
        store.load("mine", shelf.folder / "d3.safetensors")
    store.release("mine")
    with pytest.raises(DeltaError, match="there already"):
        store.load("mine", shelf.folder / "d3.safetensors")
    store.unload("mine")
    assert (store.names(), store.used_bytes) == ([], 0)
    with pytest.raises(NotFoundError):
        store.unload("mine")
    with pytest.raises(NotFoundError):
        store.acquire("mine")


def test_a_folder_of_what_deploy_writes_is_found(shelf: SimpleNamespace, tmp_path: Path) -> None:
    (tmp_path / "tuned").mkdir()
    shutil.copy(shelf.folder / "d1.safetensors", tmp_path / "tuned/delta.safetensors")
    store = DeltaStore(shelf.base, folder=tmp_path, capacity_bytes=shelf.size)
    assert store.names() == ["tuned"]
    assert store.acquire("tuned").digest == shelf.digests["d1"]


def test_threads_share_one_copy_and_the_cap_holds(shelf: SimpleNamespace) -> None:
    # three threads hold one delta each, so there is always room
    store = make(shelf, 3)
    problems: list[str] = []

    def work(seed: int) -> None:
        try:
            ask(seed)
        except DeltaError as error:
            problems.append(str(error))

    def ask(seed: int) -> None:
        chosen = random.Random(seed)
        for _ in range(60):
            name = chosen.choice(sorted(shelf.digests))
            weights = store.acquire(name)
            if weights.digest != shelf.digests[name] or store.acquire(name) is not weights:
                problems.append(f"{name} changed while it was in use")
            if store.used_bytes > 3 * shelf.size:
                problems.append("over the cap")
            store.release(name)
            store.release(name)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    assert store.used_bytes == shelf.size * len(store.in_memory())
    for name in store.in_memory():
        store.unload(name)
    assert store.used_bytes == 0
