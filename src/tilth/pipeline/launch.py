"""Launches training: subsets become token shards once, the trainer runs (or resumes) on them, the result becomes a run."""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilth.artifacts import Artifact, Named, Spec, Store
from tilth.artifacts.atomic import locked
from tilth.artifacts.spec import library_versions
from tilth.errors import RecipeError
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import Train
from tilth.pipeline.run_sources import RunData, run_data, token_inputs
from tilth.pipeline.tokenise import SPLITS

if TYPE_CHECKING:
    from tilth.trainer.given import Given

log = logging.getLogger(__name__)
DOCUMENT_LOSSES_FILE = "document_losses.parquet"
MEASURED = ("tokens_per_second", "seconds", "resumed_from")  # of an attempt, so not of the artifact
# What a trace needs of a run's settings, and what lists of runs show.
OF_CONFIG = ("steps", "seq_len", "global_batch", "seed", "lr", "objective", "reverse_complement")
TRAIN_VERSION = 4


@dataclass(frozen=True)
class Launched:
    """A finished run, and whether it was there already."""

    named: Named
    artifact: Artifact
    was_there: bool


Told = Callable[[dict[str, Any]], None]


def train(project: Project, name: str, recipe: Train, on_step: Told | None = None, on_start: Told | None = None) -> Launched:
    """Train `recipe` to its end as `run/<name>`, from where an earlier attempt stopped.

    `on_start` gets what the run will cost (see `run_costs`) before anything is trained, `on_step` the metrics of each step.

    Under `torchrun` every process calls this; the store's locks let one of them make what all of them need.
    """
    from tilth.trainer.config import TrainConfig

    store = project.store
    config = TrainConfig.from_dict(recipe.settings)
    data = run_data(store, recipe.subset)
    tokens = next(iter(data.artifacts(store, "train").values()))
    initial = store.artifact(store.get_named("run", recipe.initial).one("train")) if recipe.initial else None
    if initial is not None:
        _check_same_tokenizer(str(recipe.initial), initial, tokens)
    _check_strands(config, tokens)
    model_config = _model_config(recipe, initial, tokens)
    # which of the runs of this name: it may stand for another one tomorrow
    meta: dict[str, Any] = {"base": recipe.initial, "origins": {recipe.initial: initial.digest} if initial else {}}
    if config.objective in ("classify", "conditional"):
        meta["classes"] = sorted(recipe.subset)  # in the order of their numbers, as trainer/classification.py counts them
    return launch(project, name, Job(config, model_config, data, meta, initial), on_step, on_start)


@dataclass(frozen=True)
class Job:
    """A run whose recipe was understood: its TrainConfig and ModelConfig, and what its name says beside what all names do.

    `logits` describes what of the teacher's predictions is stored, `make_logits` gives the artifact: only a run that is not
    there yet asks for it.
    """

    config: Any
    model_config: Any
    data: RunData
    meta: dict[str, Any]
    initial: Artifact | None = None
    teacher: Artifact | None = None
    logits: Spec | None = None
    make_logits: Callable[[], Artifact] | None = None

    def given(self, logits: Artifact | None = None) -> Given:
        """What the trainer is given."""
        from tilth.trainer.given import Given

        return Given(*(one.path if one else None for one in (self.initial, self.teacher, logits)))


def launch(project: Project, name: str, job: Job, on_step: Told | None = None, on_start: Told | None = None) -> Launched:
    """Take `job` to its end as `run/<name>`, or find that it was; see `train`."""
    from tilth.catalog.publish import publish

    store = project.store
    spec = _train_spec(store, job)
    done = store.find(spec)
    was_there = done is not None
    if done is None:
        if on_start:
            on_start(_costs(job))
        done, facts = _run_and_publish(store, spec, job, on_step)
    else:
        facts = _measured_before(store, name, done)
    meta = _run_meta(job)
    parts = [done.part(), *job.data.parts]
    named = store.save_named("run", name, parts, {**meta, **done.stats, **facts})
    publish(store)
    return Launched(named, done, was_there)


def _costs(job: Job) -> dict[str, Any]:
    from tilth.models.weights import load_config
    from tilth.trainer.throughput import run_costs

    second = job.given().second(job.config)
    return run_costs(job.model_config, job.config, load_config(second) if second else None, is_stored=job.logits is not None)


def _measured_before(store: Store, name: str, done: Artifact) -> dict[str, Any]:
    """Speed belongs to an attempt, not to what it made: it stays with the name."""
    earlier = store.find_named("run", name)
    same = earlier is not None and earlier.one("train") == done.part()
    return {key: earlier.meta[key] for key in MEASURED if key in earlier.meta} if earlier and same else {}


def _run_and_publish(store: Store, spec: Spec, job: Job, on_step: Any) -> tuple[Artifact, dict[str, Any]]:
    from tilth.trainer.loop import train as run_loop

    logits = job.make_logits() if job.make_logits else None
    work = store.work_folder(spec)
    train, validation = (job.data.token_sources(store, split) for split in SPLITS)
    result = run_loop(job.model_config, job.config, train, validation, work, job.given(logits), on_step)
    with locked(store.root / "locks" / f"publish.{spec.key}"):
        done = store.find(spec)
        if done is None:
            folder, losses = _final_folder(work)
            stats = {
                **_ends(losses),
                "start_validation_loss": result.start_validation_loss,
                "validation_loss": result.validation_loss,
                "validation_accuracy": result.validation_accuracy,
                "weights_digest": result.weights_digest,
            }
            done = store.adopt(spec, folder, stats)
            store.note_time(spec, result.seconds)
            shutil.rmtree(work)
    return done, {key: getattr(result, key) for key in MEASURED}


def _final_folder(work: Path) -> tuple[Path, list[float]]:
    """What of a finished training becomes the run: weights, configuration, tokenizer, losses (those of steps are returned)."""
    import pyarrow as pa

    from tilth.contracts import LOSSES
    from tilth.pipeline.parquet import write_table
    from tilth.tokenize.text_ends import CONFIG_FILE as TEXT_ENDS_FILE

    final = work / "final"
    shutil.rmtree(final, ignore_errors=True)
    final.mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json", TEXT_ENDS_FILE, DOCUMENT_LOSSES_FILE):
        if (work / name).exists():
            shutil.copy(work / name, final / name)
    lines = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    rows = [{field: line.get(field) for field in LOSSES.schema.names} for line in lines]
    write_table(final / "losses.parquet", pa.Table.from_pylist(rows, schema=LOSSES.schema), LOSSES)
    return final, [row["loss"] for row in rows]


def _ends(losses: list[float]) -> dict[str, float]:
    """Where the loss began and ended: means over a twentieth of the steps, since one batch is noise."""
    finite = [loss for loss in losses if math.isfinite(loss)]  # a skipped step may have had none
    n = max(1, len(finite) // 20)
    return {"start_loss": sum(finite[:n]) / n, "end_loss": sum(finite[-n:]) / n}


def _model_config(recipe: Train, initial: Artifact | None, tokens: Artifact) -> Any:
    from tilth.models.config import ModelConfig
    from tilth.models.presets import with_preset
    from tilth.tokenize.bpe import Tokenizer

    if initial is not None:
        return _changed_config(json.loads((initial.path / "config.json").read_text()), recipe.model or {})
    tokenizer = Tokenizer.open(tokens.path)
    settings = with_preset({"vocab_size": tokenizer.vocab_size, **(recipe.model or {})})
    if settings.get("complement") == "tokenizer" or (settings.get("rcps") and settings.get("complement") is None):
        if tokenizer.complement is None:
            fix = "Build the corpus with `tokenizer=Nucleotides()`, or give the model its `complement`."
            raise RecipeError("the tokenizer of the subset knows no complement of its tokens", "Train(model=...)", fix)
        # an id beyond the tokenizer's, such as that of a class, pairs with itself
        settings["complement"] = (*tokenizer.complement, *range(tokenizer.vocab_size, settings["vocab_size"]))
    if tokenizer.complement is None and settings.get("complement") is not None:
        fix = "Build the corpus with `tokenizer=Nucleotides()`."
        raise RecipeError("this model is for DNA, and the subset's tokenizer for text", "Train(model=...)", fix)
    return ModelConfig.from_dict(settings)


def _changed_config(initial: dict[str, Any], changes: Mapping[str, Any]) -> Any:
    from tilth.models.config import ModelConfig
    from tilth.trainer.initial import CHANGEABLE

    if others := sorted(set(changes) - set(CHANGEABLE)):
        what = f"the initial run has a model already; `{others[0]}` cannot be another"
        raise RecipeError(what, "Train(model=...)", f"With `initial`, give no more than {', '.join(CHANGEABLE)}.")
    settings = {**initial, **changes}
    if initial["complement"] is not None and "complement" not in changes:
        settings["complement"] = (*initial["complement"], *range(initial["vocab_size"], settings["vocab_size"]))
    return ModelConfig.from_dict(settings)


def _check_strands(config: Any, tokens: Artifact) -> None:
    from tilth.tokenize.bpe import Tokenizer

    if config.reverse_complement and Tokenizer.open(tokens.path).complement is None:
        fix = "Leave it out, or build the corpus with `tokenizer=Nucleotides()`."
        raise RecipeError("only DNA can be read from its other strand", "TrainConfig.reverse_complement", fix)


def _train_spec(store: Store, job: Job) -> Spec:
    config, data = job.config, job.data
    # The table of document losses names subsets, and so does a mixture's order of them.
    inputs = token_inputs(store, data, with_names=data.is_mixed or config.document_losses)
    for name, given in (("initial", job.initial), ("teacher", job.teacher)):
        if given is not None:
            inputs[name] = given.digest
    params = {"model": job.model_config.to_dict(), "training": config.read_settings()}
    if data.is_mixed:
        params["mixture"] = data.sequences_of_block()
    if job.logits is not None:
        inputs["teacher_logits"] = job.logits.key
    return Spec("train", TRAIN_VERSION, params, inputs, library_versions(("torch",)))


def _run_meta(job: Job) -> dict[str, Any]:
    return {
        **job.data.meta(),
        "n_parameters": job.model_config.n_parameters(),
        "layers": job.model_config.layers,
        **{key: getattr(job.config, key) for key in OF_CONFIG},
        **job.meta,
    }


def _check_same_tokenizer(name: str, initial: Artifact, tokens: Artifact) -> None:
    """Refuse other ids. A fine-tune may learn another token that ends or begins a text, as a chat does: that is told."""
    from tilth.tokenize.bpe import Tokenizer

    own, new = (Tokenizer.open(each.path) for each in (initial, tokens))
    difference = own.difference(new)
    if own.digest != new.digest:
        fix = "Pick the subset from the corpus that the initial run was trained on."
        what = f"run `{name}` was trained with another tokenizer than this subset's: {difference}"
        raise RecipeError(what, f"run/{name}", fix)
    if difference:
        log.warning("run `%s`: %s, which is learnt anew", name, difference)
