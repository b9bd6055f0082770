"""Runs the nodes of a graph that are not made yet: in this process, on local workers, or on an existing Dask scheduler."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pyarrow as pa

from tilth.artifacts import Part, Store
from tilth.errors import BackendError, RecipeError, TilthError
from tilth.pipeline.graph import Node

RECIPE_MODULE = "tilth_recipe_"  # how the modules of recipes are named
OnDone = Callable[["Outcome"], None]


@dataclass(frozen=True)
class Outcome:
    """What became of a node: a part, or why there is none. Errors are values, so that all of them are reported."""

    node_id: str
    part: Part | None
    stats: Mapping[str, Any]
    error: TilthError | None = None
    details: str = ""  # traceback of an unexpected error
    skipped: bool = False  # something it needs has failed


def run_node(root: str, node: Node, needed: list[Outcome]) -> Outcome:
    """Make one node's output (or find it made); runs wherever Dask puts it."""
    if any(outcome.part is None for outcome in needed):
        return Outcome(node.id, None, {}, skipped=True)
    store = Store(root)
    parts = {outcome.node_id: outcome.part for outcome in needed if outcome.part}
    try:
        inputs = {name: store.artifact(part) for name, part in parts.items()}
        made = store.make(node.spec(parts), lambda folder: node.step.run(inputs, folder, node.params, node.work))
    except TilthError as error:
        return Outcome(node.id, None, {}, error=error)
    except Exception as error:
        wrapped = TilthError(f"`{node.step.name}` failed: {type(error).__name__}: {error}", where=node.id)
        return Outcome(node.id, None, {}, error=wrapped, details=traceback.format_exc())
    finally:
        give_back_memory()
    return Outcome(node.id, made.part(), made.stats)


def give_back_memory() -> None:
    """Return what Arrow and glibc keep for later: the next node is of another kind, and what is kept adds up over a build."""
    pa.default_memory_pool().release_unused()
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def run_packed(root: str, packed: bytes, needed: list[Outcome]) -> Outcome:
    """Like `run_node`, for a node that came from another process."""
    import cloudpickle  # type: ignore[import-untyped, unused-ignore]

    return run_node(root, cloudpickle.loads(packed), needed)


def _packed(node: Node) -> bytes:
    """A node for another process, which cannot import what the recipe defines: that goes along by its code."""
    import cloudpickle  # type: ignore[import-untyped, unused-ignore]

    recipes = [module for name, module in sys.modules.items() if name.startswith(RECIPE_MODULE)]
    for module in recipes:
        cloudpickle.register_pickle_by_value(module)
    try:
        return bytes(cloudpickle.dumps(node))
    except Exception as error:
        what = f"`{node.step.name}` cannot be sent to another process: {error}"
        raise RecipeError(what, node.id, "Run it with `--workers 1`, or keep open files and locks out of the recipe.") from error
    finally:
        for module in recipes:
            cloudpickle.unregister_pickle_by_value(module)


def run_in_process(store: Store, nodes: list[Node], on_done: OnDone) -> dict[str, Outcome]:
    """Run the nodes one after the other, in their order, in which each follows what it needs."""
    outcomes: dict[str, Outcome] = {}
    for node in nodes:
        outcomes[node.id] = run_node(str(store.root), node, [outcomes[need] for need in node.needs])
        on_done(outcomes[node.id])
    return outcomes


def run_on_client(client: Any, store: Store, nodes: list[Node], on_done: OnDone) -> dict[str, Outcome]:
    """Run the nodes on a Dask cluster; a lost worker's tasks go to the others."""
    from distributed import KilledWorker, as_completed

    futures: dict[str, Any] = {}
    # Dask must not merge two builds' tasks by name: the store does that, by content.
    build = uuid.uuid4().hex[:8]
    for node in nodes:
        needed = [futures[need] for need in node.needs]
        futures[node.id] = client.submit(run_packed, str(store.root), _packed(node), needed, key=f"{node.id} {build}", pure=False)
    names = {future.key: node_id for node_id, future in futures.items()}
    outcomes: dict[str, Outcome] = {}
    try:
        for future in as_completed(list(futures.values())):
            node_id = names[future.key]
            try:
                outcomes[node_id] = future.result()
            except KilledWorker:
                fix = "The shard may need more memory than a worker has: start fewer workers, or make the shards smaller."
                outcomes[node_id] = Outcome(
                    node_id, None, {}, TilthError("workers died while making this", where=node_id, fix=fix)
                )
            on_done(outcomes[node_id])
    except BaseException:
        client.cancel(list(futures.values()))
        raise
    return outcomes


@contextlib.contextmanager
def local_cluster(n_workers: int) -> Iterator[Any]:
    """A Dask client with `n_workers` processes of one thread each on this machine."""
    from distributed import Client, LocalCluster

    with _deaf_children():
        cluster = LocalCluster(
            n_workers=n_workers, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0", silence_logs=50
        )
    with cluster, Client(cluster) as client:
        yield client


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Threads and processes that start meanwhile never see Ctrl-C: a terminal sends it to all, and this one stops the others."""
    # It would unblock the signal when it starts, so it has to be there before.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def existing_cluster(address: str, store: Store) -> Iterator[Any]:
    """A client of the scheduler at `address`, once it is sure that every worker sees this very store.

    Raises BackendError if the scheduler does not answer or a worker cannot reach the store.
    """
    from distributed import Client

    try:
        client = Client(address, timeout=10)
    except (OSError, TimeoutError, ValueError) as error:
        fix = "Start one with `dask scheduler`, or leave `--scheduler` out."
        raise BackendError(f"no Dask scheduler answers: {error}", where=address, fix=fix) from error
    with client:
        _check_shared(client, store, address)
        yield client


def _check_shared(client: Any, store: Store, address: str) -> None:
    token = uuid.uuid4().hex
    probe = store.root / f"probe-{token}"
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.write_text(token)
    try:
        seen = client.run(_sees, str(probe), token)
    finally:
        probe.unlink()
    if not seen:
        raise BackendError("the scheduler has no workers", where=address, fix=f"Start some: `dask worker {address}`.")
    blind = sorted(worker for worker, sees in seen.items() if not sees)
    if blind:
        fix = "Put the project on a file system that every worker mounts at the same path."
        raise BackendError(f"{len(blind)} of {len(seen)} workers cannot see the store {store.root}", where=blind[0], fix=fix)


def _sees(path: str, token: str) -> bool:
    try:
        return Path(path).read_text() == token
    except OSError:
        return False
