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
from tilth.corpus.records import fingerprint
from tilth.errors import BuildError, RecipeError, SourceError, TilthError, did_you_mean
from tilth.pipeline.interchange import redpajama_v2 as layout
from tilth.pipeline.progress import progress
from tilth.pipeline.score_inputs import Fields, Input, find_inputs
from tilth.pipeline.score_outputs import SUFFIXES, JsonLinesOutput, LayoutOutput, Output, ParquetOutput, dumps
from tilth.pipeline.score_signals import Chosen, scored

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
    if form == "rpv2" and not set(layout.FAMILIES) <= set(chosen.names):
        raise RecipeError("RedPajama-V2's layout holds its own signals", "--as rpv2", "leave `--signals` out, or say `rpv2`")
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
    settle = layout.settled if job.place is not None else None
    with contextlib.closing(_open(job, folder)) as file:
        for batch in scored(job.input.rows(), job.chosen, job.language, settle):
            file.write(batch)
            n_documents = len(batch.documents)
            counts["rows"] += len(batch.rows)
            counts["rejects"] += len(batch.rows) - n_documents
            counts["documents"] += n_documents
            counts["bytes"] += batch.n_bytes
    return counts


def _open(job: Job, folder: Path) -> Output:
    if job.place is not None:
        return LayoutOutput(folder, job.input.name, *job.place)
    path = folder / f"{job.input.name}{SUFFIXES[job.form]}"
    path.parent.mkdir(parents=True, exist_ok=True)
    return ParquetOutput(path, job.chosen) if job.form == "parquet" else JsonLinesOutput(path, job.chosen)


def _run(jobs: Sequence[Job], n_workers: int) -> list[Made]:
    made: dict[str, Made] = {}
    with progress("score", len(jobs)) as advance:
        for one in _outcomes(jobs, n_workers):
            made[one.name] = one
            advance(one.name)
    return [made[job.input.name] for job in jobs]


def _outcomes(jobs: Sequence[Job], n_workers: int) -> Iterator[Made]:
    if n_workers == 1 or len(jobs) == 1:
        yield from map(make, jobs)
        return
    from distributed import KilledWorker, as_completed

    from tilth.pipeline.execute import local_cluster

    with local_cluster(min(n_workers, len(jobs))) as client:
        # Many small messages, not one large graph: a job holds its word lists.
        names = {client.submit(make, job, pure=False): job.input.name for job in jobs}
        for future in as_completed(list(names)):
            try:
                yield future.result()
            except KilledWorker:
                fix = "The file may need more memory than a worker has: use fewer workers."
                yield Made(names[future], error=TilthError("workers died while scoring this", names[future], fix))


def _failure(failed: Sequence[Made], n_inputs: int) -> BuildError:
    first = failed[0]
    what = f"{len(failed)} of {n_inputs} inputs could not be scored; the others are done. The first: {first.error}"
    fix = "Run the same command again when it is mended: it goes on." + (f"\n{first.details}" if first.details else "")
    return BuildError(what, first.name, fix)


def _places(folder: Path, inputs: Sequence[Input], snapshot: str) -> dict[str, tuple[str, str, str | None]]:
    """Snapshot, shard and group of each input: what its path says if all are of the layout, else the next free shard."""
    told = {one.name: layout.PATH.search(one.location.replace(os.sep, "/")) for one in inputs}
    if all(told.values()):
        places = {name: (match[1], match[2], match[3]) for name, match in told.items() if match}
        if len(set(places.values())) < len(places):
            raise SourceError("two inputs have the same snapshot, shard and name", "score", "score them into different folders")
        return places
    known = {name: tuple(manifest["place"]) for name, manifest in manifests(folder).items() if manifest["place"]}
    taken = {place[1] for place in known.values() if place[0] == snapshot}
    free = (shard for i in range(MOST_SHARDS) if (shard := f"{i:04d}") not in taken)
    found: dict[str, tuple[str, str, str | None]] = {}
    for one in inputs:
        kept = known.get(one.name)
        shard = str(kept[1]) if kept and kept[0] == snapshot and kept[2] is None else next(free, "")
        if not shard:
            raise SourceError(f"a snapshot has at most {MOST_SHARDS} shards", "score", "give the rest another `--snapshot`")
        found[one.name] = (snapshot, shard, None)
    return found


def _finish_layout(folder: Path) -> int:
    """Duplicates and listings over all inputs that the folder holds, unless they are of these very files."""
    from tilth.pipeline.interchange.redpajama_v2_duplicates import write_duplicates, write_listings

    there = manifests(folder)
    shard_ids = sorted(
        name.removeprefix("documents/")
        for manifest in there.values()
        for name in manifest["files"]
        if name.startswith("documents/")
    )
    path = folder / MANIFESTS / "layout.json"
    keys = {name: manifest["key"] for name, manifest in there.items()}
    with disk_errors(folder):
        old = json.loads(path.read_bytes()) if path.is_file() else {}
        wanted = [layout.component_path("duplicates", *shard.removesuffix(".json.gz").split("/")) for shard in shard_ids]
        if old.get("inputs") == keys and all((folder / name).is_file() for name in wanted):
            return int(old["n_duplicates"])
        path.unlink(missing_ok=True)
        n_duplicates = write_duplicates(folder, shard_ids)
        write_listings(folder, shard_ids)
        _remove_others(folder / "duplicates", {folder / name for name in wanted})
        write_atomically(path, dumps({"inputs": keys, "n_duplicates": n_duplicates}))
    return n_duplicates


def _remove_others(folder: Path, wanted: set[Path]) -> None:
    for path in folder.rglob("*.duplicates.parquet"):
        if path not in wanted:
            path.unlink()


def manifest_path(folder: Path, name: str) -> Path:
    """Where an input's manifest lies."""
    return folder / MANIFESTS / "inputs" / f"{name}.json"


def manifests(folder: Path) -> dict[str, dict[str, Any]]:
    """The manifests of an output folder by the names of their inputs."""
    home = folder / MANIFESTS / "inputs"
    found = {str(path.relative_to(home)).removesuffix(".json"): read_manifest(path) for path in sorted(home.rglob("*.json"))}
    return {name: manifest for name, manifest in found.items() if manifest is not None}


def read_manifest(path: Path) -> dict[str, Any] | None:
    """A manifest, or None where there is none that can be read."""
    try:
        found = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    return found if isinstance(found, dict) and {"spec", "key", "files", "counts", "place"} <= found.keys() else None


def _is_whole(folder: Path, manifest: Mapping[str, Any]) -> bool:
    sizes = [(folder / name, size) for name, size in manifest["files"].items()]
    return all(path.is_file() and path.stat().st_size == size for path, size in sizes)


def _difference(old: Mapping[str, Any] | None, spec: Spec) -> str:
    return difference(Spec.from_dict(old["spec"]) if old else None, Spec.from_dict(json.loads(json.dumps(asdict(spec)))))


def _sync(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
