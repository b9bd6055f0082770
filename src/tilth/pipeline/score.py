"""Scores the user's own files without a project: one output for each input, made whole or not at all, kept while it is true.

`manifests/` in the output folder tells for each input what its output was made of; the same command makes what is not
there or no longer true. As `rpv2` the folder is RedPajama-V2's layout and grows: an input that is new gets the next shard.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tilth.artifacts.atomic import disk_errors, locked, sync_folder, write_atomically
from tilth.artifacts.fingerprints import Fingerprints
from tilth.artifacts.spec import Spec, difference
from tilth.corpus.records import Reject, fingerprint
from tilth.errors import BuildError, RecipeError, SourceError, TilthError, did_you_mean
from tilth.pipeline.interchange import redpajama_v2 as layout
from tilth.pipeline.interchange.redpajama_v2_files import ShardWriter
from tilth.pipeline.progress import progress
from tilth.pipeline.score_inputs import Fields, Input, find_inputs
from tilth.pipeline.score_outputs import SUFFIXES, JsonLinesOutput, ParquetOutput, dumps
from tilth.pipeline.score_signals import Chosen, ScoredBatch, scored

FORMS = (*SUFFIXES, "rpv2")
VERSION = 1  # rises when the same input gives other bytes
SNAPSHOT = "0000-00"  # of texts that are from no snapshot of Common Crawl
MANIFESTS = "manifests"
MOST_SHARDS = 10_000


@dataclass(frozen=True)
class Job:
    """One input with all that decides its output."""

    input: Input
    output: Path
    form: str
    chosen: Chosen
    language: str | None
    place: tuple[str, str, str | None] | None  # as rpv2: snapshot, shard, and the group if the input is of the layout

    @property
    def spec(self) -> Spec:
        """What the output is made of."""
        params = {"as": self.form, "language": self.language, "place": self.place, "input": self.input.params}
        libraries = self.chosen.libraries
        return Spec(f"score {self.input.name}", VERSION, {**params, **self.chosen.params}, self.input.fingerprints, libraries)


@dataclass(frozen=True)
class Made:
    """What became of an input: its counts, `why` it was made (empty if it was there), or the error that kept it from it."""

    name: str
    counts: Mapping[str, int] = field(default_factory=dict)
    why: str = ""
    error: TilthError | None = None
    details: str = ""


@dataclass(frozen=True)
class Scored:
    """All inputs in the order of their names; `n_duplicates` in the whole layout, as rpv2."""

    inputs: Sequence[Made]
    n_duplicates: int | None = None


def score(
    files: Sequence[str], output: str | Path, chosen: Chosen, form: str = "parquet", fields: Fields | None = None,
    n_workers: int = 1, snapshot: str = SNAPSHOT,
) -> Scored:  # fmt: skip
    """Score files, folders, patterns and URLs into the folder `output`; `n_workers` processes share the files.

    Raises SourceError and RecipeError before anything is made, BuildError after all others are made if an input failed.
    """
    if form not in FORMS:
        raise RecipeError(f"there is no form `{form}`", "--as", did_you_mean(form, FORMS))
    if not layout.PATH.search(f"{snapshot}/0000/en_all.json"):
        raise RecipeError(f"`{snapshot}` is no snapshot", "--snapshot", "give a year and a week, as Common Crawl does: 2023-06")
    folder, fields = Path(output), fields or Fields()
    if folder.exists() and not folder.is_dir():
        raise SourceError("this is a file, not a folder to write to", str(folder), "give a folder: `-o DIR`")
    digest = Fingerprints(folder / MANIFESTS, fingerprint)
    inputs = find_inputs(files, fields, folder, digest)
    with disk_errors(folder):
        (folder / MANIFESTS).mkdir(parents=True, exist_ok=True)
    with locked(folder / MANIFESTS / ".lock"):
        digest.save()
        for left in folder.glob(".partial-*"):
            shutil.rmtree(left)
        places = _places(folder, inputs, snapshot) if form == "rpv2" else {}
        jobs = [Job(one, folder, form, chosen, fields.language, places.get(one.name)) for one in inputs]
        made = _run(jobs, n_workers)
        failed = [one for one in made if one.error is not None]
        if failed:
            raise _failure(failed, len(made))
        return Scored(made, _finish_layout(folder) if form == "rpv2" else None)


def make(job: Job) -> Made:
    """Make one output unless it is there and true. Errors are values, so that all of them are reported."""
    try:
        with disk_errors(job.output):
            return _made(job)
    except TilthError as error:
        return Made(job.input.name, error=error)
    except Exception as error:
        what = f"scoring failed: {type(error).__name__}: {error}"
        return Made(job.input.name, error=TilthError(what, job.input.location), details=traceback.format_exc())


def _made(job: Job) -> Made:
    path = manifest_path(job.output, job.input.name)
    old = read_manifest(path)
    spec = json.loads(json.dumps(asdict(job.spec)))
    if old is not None and old["spec"] == spec and _is_whole(job.output, old):
        return Made(job.input.name, old["counts"])
    why = "outputs are gone or changed" if old and old["spec"] == spec else _difference(old, job.spec)
    partial = job.output / f".partial-{hashlib.sha256(job.input.name.encode()).hexdigest()[:16]}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        counts = _write(job, partial)
        files = {str(found.relative_to(partial)): found.stat().st_size for found in sorted(partial.rglob("*")) if found.is_file()}
        # From here on a crash leaves no manifest: what is half replaced is made again.
        path.unlink(missing_ok=True)
        for name in files:
            (job.output / name).parent.mkdir(parents=True, exist_ok=True)
            _sync(partial / name)
            os.replace(partial / name, job.output / name)
        for name in set(old["files"] if old else ()) - set(files):
            (job.output / name).unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, dumps({"spec": spec, "key": job.spec.key, "files": files, "counts": counts, "place": job.place}))
        sync_folder(path.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Made(job.input.name, counts, why)


def _write(job: Job, folder: Path) -> dict[str, int]:
    counts = {"rows": 0, "documents": 0, "rejects": 0, "bytes": 0}
    with _open(job, folder) as write:
        for batch in scored(job.input.rows(), job.chosen, job.language):
            write(batch)
            n_rejects = sum(isinstance(row, Reject) for row in batch.rows)
            counts["rows"] += len(batch.rows)
            counts["rejects"] += n_rejects
            counts["documents"] += len(batch.rows) - n_rejects
            counts["bytes"] += batch.n_bytes
    return counts


@contextlib.contextmanager
def _open(job: Job, folder: Path) -> Iterator[Any]:
    if job.place is not None:
        from tilth.pipeline.interchange.redpajama_v2_rejects import RejectLines

        snapshot, shard, group = job.place
        with ShardWriter(folder, snapshot, shard, group) as files, RejectLines(folder, job.input.name) as rejects:

            def write(batch: ScoredBatch) -> None:
                files.write(batch.documents, batch.texts, batch.signals)
                rejects.write(batch.rows)

            yield write
        return
    path = folder / f"{job.input.name}{SUFFIXES[job.form]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    file = (ParquetOutput if job.form == "parquet" else JsonLinesOutput)(path, job.chosen)
    with contextlib.closing(file):
        yield file.write
