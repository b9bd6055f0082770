"""Draws the samples of an evaluation, kept request by request: whatever is killed goes on where it was."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tilth.artifacts import Artifact, Named, Spec, Store
from tilth.artifacts.atomic import write_atomically
from tilth.contracts import SAMPLES
from tilth.errors import TilthError
from tilth.pipeline.evaluation import Evaluation
from tilth.pipeline.evaluation_conditions import Conditions
from tilth.pipeline.evaluation_results import counts_of, read_samples
from tilth.pipeline.parquet import Writer, write_table
from tilth.pipeline.problem_overlap import Searched
from tilth.pipeline.problem_sets import ProblemSet

if TYPE_CHECKING:
    from tilth.evaluate.problems import Problem
    from tilth.evaluate.prompting import Prompting
    from tilth.evaluate.samples import Sample
    from tilth.evaluate.solving import Scorer
    from tilth.models.decoder import Decoder

MEASURED_FILE, SAMPLES_FILE = "measured.json", "samples.parquet"
_PROGRESS_FILE = "progress.json"
Told = Callable[[str], None]


@dataclass(frozen=True)
class FoundModel:
    """A model folder, what tells its bytes from others, and its run, where it is one."""

    label: str
    folder: Path
    digest: str
    run: Named | None
    right_class: int | None = None  # of a verifier: the number of the class of right solutions


@dataclass(frozen=True)
class Work:
    """All that was found before anything is drawn; against: what the other evaluation's name stood for then."""

    asked: Evaluation
    model: FoundModel
    verifier: FoundModel | None
    problems: ProblemSet
    prompting: Prompting
    stops: tuple[str, ...]
    conditions: Conditions
    overlap: Searched
    against: Named | None

    @property
    def n_requests(self) -> int:
        """How many there are of all batches together."""
        widths = [self.asked.solving(batch) for batch in set(self.asked.batches)]
        return sum(len(self.problems.problems) * (1 if how.is_greedy else -(-how.n // how.width)) for how in widths)


class Models:
    """The model of an evaluation and its verifier, opened when the first batch needs them and there for the others."""

    def __init__(self, work: Work) -> None:
        self._work = work

    @cached_property
    def model(self) -> Decoder:
        """The one that is evaluated."""
        from tilth.evaluate.engines import open_model

        return open_model(self._work.model.folder, self._work.asked.device, self._work.asked.dtype)

    @cached_property
    def scorer(self) -> Scorer | None:
        """What the verifier says; None without one."""
        from tilth.evaluate.engines import open_model
        from tilth.evaluate.prompting import Coder
        from tilth.evaluate.verifier import Verifier

        found = self._work.verifier
        if found is None:
            return None
        assert found.right_class is not None
        seq_len = found.run.meta.get("seq_len") if found.run else None
        model, tokenizer = open_model(found.folder, self._work.asked.device), Coder.open(found.folder).tokenizer
        return Verifier(model, tokenizer, found.right_class, seq_len).score


def sample(store: Store, spec: Spec, work: Work, models: Models, batch: int, on_samples: Told | None) -> Artifact:
    """Draw what is missing, a file for each request; then one file of all becomes the artifact.

    Raises TilthError where a sample failed: what did not stays for the next attempt. What was refused would be so again.
    """
    folder = store.work_folder(spec)
    parts = folder / "parts"
    parts.mkdir(exist_ok=True)
    for leftover in parts.glob(".*"):
        leftover.unlink()
    progress = _Progress(folder / _PROGRESS_FILE)
    kept = list(_kept(parts))
    _draw(work, models, batch, parts, kept, progress, on_samples)
    kept.clear()
    order = {problem.id: place for place, problem in enumerate(work.problems.problems)}
    final = folder / "final"
    shutil.rmtree(final, ignore_errors=True)
    final.mkdir()
    counts = _join(parts, final / SAMPLES_FILE, len(order))
    (final / MEASURED_FILE).write_text(json.dumps({**progress.values, "device": work.conditions.device}))
    if counts["n_error"] + counts["n_refused"] == counts["n_samples"]:
        shutil.rmtree(folder)
        raise TilthError("every sample failed", work.model.label, f"The first said: {counts['error']}")
    if counts["n_error"]:
        what = f"{counts['n_error']:,} of {counts['n_samples']:,} samples failed, the first with: {counts['error']}"
        raise TilthError(what, f"{work.model.label}, batch {batch}", "The same command again asks for them and keeps all others.")
    made = store.adopt(spec, final, {key: counts[key] for key in ("n_samples", "n_tokens", "n_refused", "n_unparsed")})
    store.note_time(spec, counts["seconds"])
    shutil.rmtree(folder)
    return made


def _kept(parts: Path) -> Iterator[Sample]:
    """What earlier attempts finished; a request that failed is asked again."""
    for path in sorted(parts.glob("*.parquet")):
        samples = list(read_samples(path))
        if any(sample.finish_reason == "error" for sample in samples):
            path.unlink()
        else:
            yield from samples


class _Progress:
    """What no request tells: how often the work was begun, and the most bytes of weights and states over all attempts."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.n_attempts, self.memory_bytes = 0, 0
        if path.exists():
            before = json.loads(path.read_text())
            self.n_attempts, self.memory_bytes = before["n_attempts"], before["memory_bytes"]
        self.n_attempts += 1
        self.note(0)

    def note(self, memory_bytes: int) -> None:
        """So many bytes were in use."""
        self.memory_bytes = max(self.memory_bytes, memory_bytes)
        write_atomically(self._path, json.dumps(self.values).encode())

    @property
    def values(self) -> dict[str, int]:
        """As they are kept."""
        return {"n_attempts": self.n_attempts, "memory_bytes": self.memory_bytes}


def _draw(
    work: Work, models: Models, batch: int, parts: Path, kept: Sequence[Sample], progress: _Progress, on_samples: Told | None
) -> None:
    """Solve what `kept` does not hold.

    Seconds go on from the last that was kept: a request that a kill broke off is drawn anew and takes its time again, so a
    run that was broken off is never told to be faster than one that was not.
    """
    from tilth.evaluate.engines import longest_prompt, make_engine
    from tilth.evaluate.prompting import Coder
    from tilth.evaluate.solving import solve
    from tilth.inference.devices import current_device, find_device

    how = work.asked.solving(batch)
    places = {problem.id: place for place, problem in enumerate(work.problems.problems)}
    if on_samples:
        for problem, _ in sorted({(sample.problem, 0 if how.is_greedy else sample.branch // how.width) for sample in kept}):
            on_samples(f"batch {batch}: problem {problem}, kept")
    with _threads(work.conditions.n_threads), current_device(find_device(work.asked.device)):
        model, scorer = models.model, models.scorer
        coder = Coder.open(work.model.folder, work.stops)
        texts = [work.prompting.text(problem.question) for problem in work.problems.problems]
        engine = make_engine(model, how, longest_prompt(coder, texts), work.asked.memory_bytes)
        engine.warm_up(coder.encode(texts[0]), how)
        if scorer is not None:
            scorer(work.problems.problems[0].question, [""])
        before = max((sample.finished for sample in kept), default=0.0)
        asked = work.problems.problems
        for samples in solve(engine, coder, work.prompting, asked, how, scorer=scorer, kept=kept, seconds_before=before):
            first = samples[0]
            place = places[first.problem]
            _write(parts / f"{first.branch:06d}-{place:08d}.parquet", asked[place], samples, batch)
            progress.note(engine.weight_bytes + engine.most_bytes)
            if on_samples:
                on_samples(f"batch {batch}: problem {first.problem}")


@contextlib.contextmanager
def _threads(wanted: int) -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _write(path: Path, problem: Problem, samples: Sequence[Sample], batch: int) -> None:
    """One request, whole or not at all."""
    about = {"question": problem.question, "reference": problem.answer, "batch": batch}
    rows = [{**vars(one), **about, "is_correct": one.is_correct if one.is_complete else None} for one in samples]
    partial = path.with_name(f".{path.name}")
    write_table(partial, pa.Table.from_pylist(rows, schema=SAMPLES.schema), SAMPLES)
    os.replace(partial, path)


def _join(parts: Path, out: Path, n_problems: int) -> dict[str, Any]:
    """All requests in one file, problem by problem, a row group each; what they come to as counts."""
    import pyarrow.parquet as pq

    from tilth.evaluate.samples import REFUSED

    by_problem: dict[str, list[Path]] = {}
    for path in sorted(parts.glob("*.parquet")):
        by_problem.setdefault(path.stem.partition("-")[2], []).append(path)
    if len(by_problem) != n_problems:
        raise TilthError(f"samples of {len(by_problem)} problems are there, and not of {n_problems}", str(parts))
    error = ""
    with Writer(out, SAMPLES) as writer:
        for place in sorted(by_problem):
            table = pa.concat_tables([pq.read_table(path, schema=SAMPLES.schema) for path in by_problem[place]])
            writer.write(table)
            if not error:
                rows = table.select(["finish_reason", "text"]).to_pylist()
                error = next((row["text"] for row in rows if row["finish_reason"] in ("error", REFUSED)), "")
    return {**counts_of(read_samples(out)), "error": error}
