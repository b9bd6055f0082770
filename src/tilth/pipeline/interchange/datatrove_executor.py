"""Runs an unchanged list of datatrove's pipeline steps on Dask, with datatrove's own logs, statistics and completion files.

A task counts as done when its completion file is there, which datatrove writes after everything else of it; so the same
call goes on where it was stopped, under this executor or under datatrove's own, whatever was killed.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import threading
import traceback
from collections.abc import Iterator, Sequence
from copy import copy, deepcopy
from typing import Any

from tilth.errors import BackendError, BuildError, RecipeError
from tilth.pipeline.execute import local_cluster

try:
    from datatrove.executor.base import PipelineExecutor  # type: ignore[import-not-found, unused-ignore]
    from datatrove.utils.logging import logger  # type: ignore[import-not-found, unused-ignore]
    from datatrove.utils.stats import PipelineStats  # type: ignore[import-not-found, unused-ignore]
except ImportError as error:
    raise RecipeError(
        f"datatrove cannot be imported: {error}", "DaskExecutor", "pip install datatrove==0.10.1 'xxhash<4'"
    ) from error

# A task's log takes over the process's logger: two at once would write into each other's.
_ONE_AT_A_TIME = threading.Lock()


class DaskExecutor(PipelineExecutor):  # type: ignore[misc, unused-ignore]
    """Like datatrove's LocalPipelineExecutor, with `client` in the place of a pool of processes.

    `client` is a Dask client, or the address of a scheduler whose workers see the same files; without one, `workers`
    processes on this machine run the tasks (1: this process does, -1: one for each task). `depends` is an executor
    that runs first where it has not. `logging_dir` keeps what makes a rerun go on: name one.
    """

    def __init__(
        self,
        pipeline: Sequence[Any],
        tasks: int = 1,
        workers: int = 1,
        logging_dir: Any = None,
        client: Any = None,
        depends: PipelineExecutor | None = None,
        skip_completed: bool = True,
        randomize_start_duration: int = 0,
    ) -> None:
        if tasks < 1 or workers == 0 or workers < -1:
            raise RecipeError("`tasks` and `workers` are at least 1", "DaskExecutor", "workers=-1 is one for each task")
        super().__init__(list(pipeline), logging_dir, skip_completed, randomize_start_duration)
        self.tasks = tasks
        self.workers = tasks if workers == -1 else workers
        self.client = client
        self.depends = depends

    @property
    def world_size(self) -> int:
        """The number of tasks."""
        return self.tasks

    def get_distributed_env(self, node_rank: int = -1) -> Any:
        """What datatrove tells a step of where it runs, in environment variables."""
        unknown = dict.fromkeys(("cpus_per_task", "mem_per_cpu", "gpus_on_node"), "-1")
        told = {"node_ips": "localhost", "executor": "DASK", **unknown}
        return {f"datatrove_{name}": value for name, value in told.items()}

    def run(self) -> Any:
        """Run the tasks that are not completed; returns the statistics of all tasks, those of earlier runs included.

        Raises BuildError if tasks failed, once all others have run.
        """
        if self.depends is not None and self.depends.get_incomplete_ranks(skip_completed=True):
            self.depends.run()
        ranks = self.get_incomplete_ranks()
        if len(ranks) < self.tasks:
            logger.info(f"{self.tasks - len(ranks)} of {self.tasks} tasks are completed already")
        earlier = [rank for rank in range(self.tasks) if rank not in set(ranks)]
        found = {rank: self._saved_stats(rank) for rank in earlier}
        failed: dict[int, str] = {}
        if ranks:
            self._plain().save_executor_as_json()
        for rank, stats, error in self._outcomes(ranks):
            if error:
                failed[rank] = error
            else:
                found[rank] = stats
                logger.info(f"{len(found)}/{self.tasks} tasks completed")
        if failed:
            raise _failure(failed, self.tasks)
        merged = sum((found[rank] for rank in sorted(found)), start=PipelineStats())
        if ranks or not self.logging_dir.isfile("stats.json"):
            with self.logging_dir.open("stats.json", "wt") as file:
                merged.save_to_disk(file)
        logger.success(merged.get_repr(f"All {self.tasks} tasks"))
        return merged

    def _outcomes(self, ranks: Sequence[int]) -> Iterator[tuple[int, Any, str]]:
        plain = self._plain()
        if self.client is None and (self.workers == 1 or len(ranks) <= 1):
            for rank in ranks:
                yield run_task(plain, rank)
            return
        from distributed import KilledWorker, as_completed

        with self._client(len(ranks)) as client:
            futures = {client.submit(run_task, plain, rank, pure=False): rank for rank in ranks}
            try:
                for future in as_completed(list(futures)):
                    try:
                        yield future.result()
                    except KilledWorker as error:
                        yield futures[future], None, f"the workers that ran it died: {error}"
            except BaseException:
                client.cancel(list(futures))
                raise

    @contextlib.contextmanager
    def _client(self, n_tasks: int) -> Iterator[Any]:
        if self.client is None:
            with local_cluster(min(self.workers, n_tasks)) as client:
                yield client
        elif isinstance(self.client, str):
            from distributed import Client

            try:
                client = Client(self.client, timeout=10)
            except (OSError, TimeoutError, ValueError) as error:
                fix = "Start one with `dask scheduler`, or leave `client` out."
                raise BackendError(f"no Dask scheduler answers: {error}", self.client, fix) from error
            with client:
                yield client
        else:
            yield self.client

    def _plain(self) -> DaskExecutor:
        """This executor without what stays on this machine."""
        plain = copy(self)
        plain.client = plain.depends = None
        return plain

    def _saved_stats(self, rank: int) -> Any:
        """The statistics of a task that an earlier run completed; none where its file is gone."""
        try:
            with self.logging_dir.open(f"stats/{rank:05d}.json", "rt") as file:
                return PipelineStats.from_json(json.load(file))
        except (FileNotFoundError, ValueError):
            logger.warning(f"the statistics of task {rank} are gone: they are not in the sums")
            return PipelineStats()


def run_task(executor: DaskExecutor, rank: int) -> tuple[int, Any, str]:
    """(rank, its statistics, the traceback if it failed); runs wherever Dask puts it."""
    own = copy(executor)
    own.pipeline = deepcopy(executor.pipeline)  # steps count and keep state; a rank must not see another's
    try:
        with _ONE_AT_A_TIME, _may_have_children():
            return rank, own._run_for_rank(rank), ""
    except Exception:
        return rank, None, traceback.format_exc()


@contextlib.contextmanager
def _may_have_children() -> Iterator[None]:
    """Let steps start processes, as datatrove's extractors do for each text's time limit.

    Dask's workers are daemons, which may not; an extractor would then drop every document and only warn.
    """
    config: dict[str, Any] = multiprocessing.current_process()._config  # type: ignore[attr-defined]
    before = config.get("daemon")
    config["daemon"] = False
    try:
        yield
    finally:
        if before is None:
            del config["daemon"]
        else:
            config["daemon"] = before


def _failure(failed: dict[int, str], n_tasks: int) -> BuildError:
    rank, error = min(failed.items())
    what = f"{len(failed)} of {n_tasks} tasks failed; the others are completed. The first: {error.strip().splitlines()[-1]}"
    return BuildError(what, f"task {rank}", f"Run it again when it is mended: it goes on.\n{error}")
