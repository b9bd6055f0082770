"""Evaluates a model on problems: an artifact of samples for each batch, and a name for what they come to."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tilth.artifacts import Artifact, Named, Spec, Store
from tilth.artifacts.atomic import locked
from tilth.artifacts.naming import check_name
from tilth.artifacts.spec import library_versions
from tilth.errors import RecipeError, UserError, did_you_mean
from tilth.pipeline.evaluation import Evaluation
from tilth.pipeline.evaluation_conditions import Conditions
from tilth.pipeline.evaluation_differences import check_comparable, differences, trial_of
from tilth.pipeline.evaluation_results import counts_of, curves_of, scores_of
from tilth.pipeline.evaluation_samples import MEASURED_FILE, FoundModel, Models, Told, Work, sample
from tilth.pipeline.problem_overlap import Searched, as_rows, search_runs
from tilth.pipeline.problem_sets import ProblemSet, problem_set, prompting
from tilth.pipeline.project import Project
from tilth.tokenize.question_form import NEXT_QUESTION

VERSION = 3
RIGHT_CLASSES = ("correct", "right")
MOST_OVERLAPS = 20  # that a name remembers
_NAMED_OVERLAPS = 3  # that a refusal names


def evaluate(project: Project, asked: Evaluation, tell: Told = lambda what: None, on_samples: Told | None = None) -> Named:
    """`prepare`, then `draw`, whose arguments and errors are its own."""
    return draw(project, prepare(project, asked, tell), on_samples)


def prepare(project: Project, asked: Evaluation, tell: Told = lambda what: None) -> Work:
    """Find everything, and refuse what cannot be, before a model is loaded.

    tell: sentences for people. Raises UserError for a run that was trained on some of the problems; NotFoundError, SourceError
    and RecipeError for what is missing or no verifier.
    """
    from tilth.inference.devices import find_device

    store = project.store
    if asked.name is not None:
        check_name(asked.name)
    find_device(asked.device)
    model = _find(store, asked.run)
    verifier = _find_verifier(store, asked.verifier) if asked.verifier else None
    problems = problem_set(asked.problems, asked.limit)
    if problems.n_left_out:
        tell(f"{problems.n_left_out} problems are left out: their right answers cannot be parsed")
    how = prompting(asked.shots, asked.template, problems)
    stops = tuple(dict.fromkeys((*asked.stops, NEXT_QUESTION)))
    for batch in asked.batches:
        asked.solving(batch)
    overlap = _search(store, [one for one in (model, verifier) if one], problems)
    _refuse(overlap, asked, tell)
    conditions = Conditions.of(asked, model.folder)
    against = check_comparable(store, asked.against, problems.digest) if asked.against else None
    if against and (others := conditions.unlike(against)):
        tell(f"seconds and memory also tell of other conditions than those of `{against.name}`: {others}")
    return Work(asked, model, verifier, problems, how, stops, conditions, overlap, against)


def is_drawn(project: Project, work: Work) -> bool:
    """Whether all samples are there from an earlier call."""
    return all(project.store.find(_spec(work, batch)) for batch in work.asked.batches)


def draw(project: Project, work: Work, on_samples: Told | None = None) -> Named:
    """Sample, score and keep it as `evaluation/<name>`; what an earlier attempt finished is not drawn again.

    on_samples: a few words after each request of n samples. Raises TilthError where some failed: the next call asks for them.
    """
    from tilth.catalog.publish import publish

    store, models = project.store, Models(work)
    made = {}
    for batch in work.asked.batches:
        spec = _spec(work, batch)
        with locked(store.root / "locks" / f"evaluate.{spec.key}"):
            made[batch] = store.find(spec) or sample(store, spec, work, models, batch, on_samples)
    named = store.save_named("evaluation", _name(work), [each.part() for each in made.values()], _meta(store, work, made))
    publish(store)
    return named


def _search(store: Store, models: Sequence[FoundModel], problems: ProblemSet) -> Searched:
    """Of models that are no runs of this project nothing is known."""
    overlap = search_runs(store, [one.run.name for one in models if one.run], problems)
    return replace(overlap, unknown=(*(one.label for one in models if one.run is None), *overlap.unknown))


def _refuse(overlap: Searched, asked: Evaluation, tell: Told) -> None:
    if overlap.unknown:
        tell(f"what {', '.join(overlap.unknown)} was trained on is not known here: the problems were not looked for in it")
    if not overlap.overlaps:
        return
    n = len({one.problem for one in overlap.overlaps})
    first = "; ".join(one.in_words for one in overlap.overlaps[:_NAMED_OVERLAPS])
    more = len(overlap.overlaps) - _NAMED_OVERLAPS
    places = f"{first}{f'; and {more} more' if more > 0 else ''}"
    if not asked.contaminated_too:
        fix = "Pick a subset without them and train again; or evaluate all the same with `--contaminated-too`, which is recorded."
        raise UserError(f"{n} of the problems were trained on", places, fix)
    tell(f"evaluated all the same, and recorded: {n} of the problems were trained on: {places}")


def _find(store: Store, name: str) -> FoundModel:
    from tilth.pipeline.foreign_models import find_checkpoint

    folder, _ = find_checkpoint(name)
    if folder == Path(name):
        return FoundModel(folder.resolve().name, folder, _folder_digest(folder), None)
    run = store.get_named("run", name)
    return FoundModel(name, folder, run.one("train").digest, run)


def _folder_digest(folder: Path) -> str:
    """Of the names and bytes of a model folder's own files."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        with open(path, "rb") as file:
            digest.update(path.name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]


def _find_verifier(store: Store, name: str) -> FoundModel:
    """RUN or RUN:CLASS. Raises RecipeError where it is not known which of its classes is that of right solutions."""
    whole = (Path(name) / "config.json").is_file() or ":" not in name
    found = _find(store, name if whole else name.rpartition(":")[0])
    classes = list(found.run.meta.get("classes") or []) if found.run else []
    wanted = None if whole else name.rpartition(":")[2]
    right = [one for one in classes if (one == wanted if wanted else one in RIGHT_CLASSES)]
    if len(right) == 1:
        return replace(found, right_class=classes.index(right[0]))
    if wanted and wanted.isdigit() and not classes:
        return replace(found, right_class=int(wanted))
    what = f"which class of `{found.label}` is that of right solutions?"
    fix = f"Name it: `--verifier {found.label}:CLASS`. {did_you_mean(wanted or '', classes)}"
    raise RecipeError(what, f"its classes: {', '.join(classes) or 'not known here'}", fix)


def _spec(work: Work, batch: int) -> Spec:
    asked = work.asked
    params = {
        **asked.params(),
        "batch": batch,
        "prompt": work.prompting.text("{question}"),
        "stops": list(work.stops),
        "class": work.verifier.right_class if work.verifier else None,
        # None: as stored, which the model's digest tells
        "dtype": asked.dtype,
        # seconds are those of a machine
        "device": work.conditions.device,
        "n_threads": work.conditions.n_threads,
    }
    inputs = {"model": work.model.digest, "problems": work.problems.digest}
    if work.verifier:
        inputs["verifier"] = work.verifier.digest
    # sympy says which answers are equal
    libraries = library_versions(("torch", "tokenizers", "sympy"))
    return Spec("samples", VERSION, params, inputs, libraries, shard=f"batch {batch}")


def _meta(store: Store, work: Work, made: Mapping[int, Artifact]) -> dict[str, Any]:
    asked, ids = work.asked, [problem.id for problem in work.problems.problems]
    has_verifier, stopped = work.verifier is not None, asked.stops_when_decided
    trials, results = [], []
    for batch, artifact in made.items():
        trials.append(trial_of(artifact, work.model.label, ids))
        table = trials[-1].table
        counts = counts_of(sample for row in table.rows for sample in row)
        measured = json.loads((artifact.path / MEASURED_FILE).read_text())
        speed = {"tokens_per_second": counts["n_tokens"] / counts["seconds"] if counts["seconds"] else None}
        results.append({"batch": batch, **counts, **speed, **measured, **scores_of(table, asked.n, has_verifier, stopped)})
    best = min(results, key=lambda one: one["seconds"])
    return {
        "run": work.model.label,
        "problems": work.problems.name,
        "problems_digest": work.problems.digest,
        "n_problems": len(ids),
        "n_left_out": work.problems.n_left_out,
        **asked.params(),
        **work.conditions.told(),
        "verifier": asked.verifier,
        "prompt": work.prompting.text("{question}")[-2000:],
        "contamination": _contamination(work.overlap),
        "overlaps": as_rows(work.overlap.overlaps, MOST_OVERLAPS),
        **{key: best[key] for key in ("batch", "seconds", "tokens_per_second")},
        "pass_at_1": _last(best, "coverage", 1),
        "pass_at_n": _last(best, "coverage", asked.n),
        "majority": _last(best, "majority", asked.n),
        "best_of_n": _last(best, "best_of", asked.n),
        "results": results,
        "curves": curves_of(trials, has_verifier, stopped),
        "difference": differences(store, trials, work.against) if work.against else None,
    }


def _last(result: Mapping[str, Any], name: str, k: int) -> float | None:
    return next((one["mean"] for one in result.get(name, ()) if one["k"] == k), None)


def _contamination(overlap: Searched) -> str:
    """`none found`, `not known of teacher`, or what was found and evaluated all the same."""
    if overlap.overlaps:
        return f"{len({one.problem for one in overlap.overlaps})} problems were trained on"
    return f"not known of {', '.join(overlap.unknown)}" if overlap.unknown else "none found"


def _name(work: Work) -> str:
    if work.asked.name:
        return work.asked.name
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", f"{work.model.label}-{work.problems.name}").strip("_-")
    return (name if name[:1].isalpha() else f"on-{name}")[:64].rstrip("_-")
