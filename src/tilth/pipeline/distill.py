"""Distils a student from a run in stages, each a run of its own: what cannot be is refused before anything is tokenised."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilth.artifacts import Artifact, Named, Spec, Store
from tilth.artifacts.atomic import locked
from tilth.artifacts.naming import check_name
from tilth.artifacts.spec import library_versions
from tilth.errors import NotFoundError, RecipeError, did_you_mean
from tilth.pipeline.launch import Job, Launched, Told, launch
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import Distill
from tilth.pipeline.run_sources import RunData, run_data, token_inputs
from tilth.trainer.config import OF_LAYERS, OF_TEACHER, TrainConfig

if TYPE_CHECKING:
    from tilth.trainer.world import World

OBJECTIVES = (*OF_TEACHER, "next_token", "answers")
STUDENT_VERSION = 2  # raise it when make_student gives other weights
LOGITS_VERSION = LOSS_VERSION = 2
Watch = Callable[[str, int], AbstractContextManager[Callable[[str], None]]]
"""watch(title, steps) -> a context whose value is called with a few words after each step."""


@dataclass(frozen=True)
class Stage:
    """A finished stage. `teacher_loss`, as the run's `validation_loss`, is on the validation split, where there is one.

    Tokens are inputs over all steps, of the student and the runs that it began from; None where a model was imported.
    """

    launched: Launched
    objective: str
    teacher: str
    teacher_loss: float | None
    n_tokens: int | None
    n_teacher_tokens: int | None

    @property
    def gap(self) -> float | None:
        """How much higher the student's loss is than the teacher's, as a share of that."""
        loss = self.launched.named.meta.get("validation_loss")
        return None if loss is None or not self.teacher_loss else (loss - self.teacher_loss) / self.teacher_loss


@contextlib.contextmanager
def _unwatched(title: str, total: int) -> Iterator[Callable[[str], None]]:
    yield lambda words: None


def distill(
    project: Project,
    name: str,
    recipe: Distill,
    watch: Watch = _unwatched,
    on_start: Told | None = None,
    on_stage: Callable[[Stage], None] | None = None,
) -> list[Stage]:
    """Take a student through all stages of `recipe`, from where an earlier attempt stopped; the last is `run/<name>`.

    A stage that is there already is not made again. `on_stage` gets each as it ends. Under `torchrun` every process calls this.
    Raises NotFoundError for a teacher that is none, RecipeError for what does not fit, and what training raises.
    """
    store = project.store
    configs = [_config(number, settings) for number, settings in enumerate(recipe.stages)]
    _check_names(recipe, [own for own, _ in _named(name, configs)])
    teacher = _run_of(store, "teacher", recipe.teacher)
    origin = _run_of(store, "initial", recipe.initial) if recipe.initial else teacher
    for run in {teacher[0].name: teacher, origin[0].name: origin}.values():
        _check_tokenizers(store, recipe, *run)
    model_config = _student_config(recipe, configs, origin[1], teacher[1])
    student = _make_student(store, recipe, origin[1], model_config)
    data = run_data(store, recipe.subset)
    n_read = 0 if origin is teacher else tokens_read(store, origin[0])
    n_taught, before, initial, found = tokens_read(store, teacher[0]), recipe.initial, student, list[Stage]()
    origins = {run[0].name: run[1].digest for run in (teacher, origin)}
    for number, (own, config) in enumerate(_named(name, configs), 1):
        n_read = None if n_read is None else n_read + config.steps * config.seq_len * config.global_batch
        loss = _teacher_loss(store, teacher[1], config, data)
        meta = {
            "base": recipe.teacher, "initial": before, "origins": origins, "stage": f"{number} of {len(configs)}",
            "teacher_loss": loss, "n_student_tokens": n_read, "n_teacher_tokens": n_taught,
        }  # fmt: skip
        job = Job(config, model_config, data, meta, initial, teacher[1] if config.objective in OF_TEACHER else None)
        job = _with_logits(store, job, recipe, partial(watch, f"teacher of {own}"))
        with watch(f"distill {own}", config.steps) as advance:
            launched = launch(project, own, job, partial(_tell, advance), on_start)
        found.append(Stage(launched, config.objective, recipe.teacher, loss, n_read, n_taught))
        if on_stage:
            on_stage(found[-1])
        before, initial = own, launched.artifact
        origins = {teacher[0].name: teacher[1].digest, own: initial.digest}
    return found


def _tell(advance: Callable[[str], None], line: Mapping[str, Any]) -> None:
    advance(f"loss {line['loss']:.3f}")


def tokens_read(store: Store, run: Named, later: frozenset[str] = frozenset()) -> int | None:
    """How many tokens the steps of a run read, and those of the runs that it began from; None where that is not known.

    It is not where a run took the name of one that it began from: `later` are the names that were followed so far.
    """
    meta, known = run.meta, later | {run.name}
    if "n_student_tokens" in meta:
        n_student: int | None = meta["n_student_tokens"]
        return n_student
    if not meta.get("steps"):
        return None
    if not meta.get("base"):
        n_before: int | None = 0
    else:
        base = store.find_named("run", meta["base"])
        n_before = None if base is None or base.name in known else tokens_read(store, base, known)
    return None if n_before is None else n_before + meta["steps"] * meta["seq_len"] * meta["global_batch"]


def _config(number: int, settings: Mapping[str, Any]) -> TrainConfig:
    """The TrainConfig of a stage."""
    where = f"Distill(stages=...), stage {number + 1}"
    objective = settings.get("objective")
    if objective not in OBJECTIVES:
        given = "has no objective" if objective is None else f"has the objective {objective!r}"
        raise RecipeError(f"stage {number + 1} {given}", where, did_you_mean(str(objective), OBJECTIVES))
    if "cached_logits" in settings:
        raise RecipeError(
            "`cached_logits` is no setting of a stage", where, "Give it to Distill: `Distill(..., cached_logits=64)`."
        )
    try:
        return TrainConfig.from_dict(settings)
    except RecipeError as error:
        raise RecipeError(error.what, f"{where}, {error.where}" if error.where else where, error.fix) from error


def _named(name: str, configs: Sequence[TrainConfig]) -> Iterator[tuple[str, TrainConfig]]:
    """Each config with the name of its run."""
    objectives = [config.objective for config in configs]
    for number, config in enumerate(configs):
        n_before = objectives[:number].count(config.objective)
        own = f"{name}-{config.objective}" + (f"-{n_before + 1}" if n_before else "")
        yield (name if number == len(configs) - 1 else own), config


def _check_names(recipe: Distill, names: Sequence[str]) -> None:
    """All can be names; and none is that of what the student is made of: the same recipe would then mean another teacher."""
    for own in names:
        check_name(own)
    for role, given in (("teacher", recipe.teacher), ("initial", recipe.initial)):
        if given in names:
            what = f"the student would take the name of its {role}, `{given}`"
            raise RecipeError(what, f"Distill({role}=...)", "Give the recipe's function another name.")


def _run_of(store: Store, role: str, name: str) -> tuple[Named, Artifact]:
    try:
        named = store.get_named("run", name)
    except NotFoundError as error:
        raise NotFoundError(f"the {role} `{name}` is no run of this project", f"Distill({role}=...)", error.fix) from error
    return named, store.artifact(named.one("train"))


def _check_tokenizers(store: Store, recipe: Distill, run: Named, model: Artifact) -> None:
    """Refuse subsets whose texts the model would misread, as they are, without their tokens."""
    from tilth.tokenize.bpe import Tokenizer

    own = Tokenizer.open(model.path)
    for name in [recipe.subset] if isinstance(recipe.subset, str) else sorted(recipe.subset):
        parts = store.get_named("subset", name).of("tokenizer")
        difference = own.difference(Tokenizer.open(store.artifact(parts[0]).path)) if parts else "it has none"
        if difference:
            raise RecipeError(
                f"run `{run.name}` was trained with another tokenizer than that of subset `{name}`: {difference}",
                where=f"subset/{name}",
                fix="Pick the subset from a corpus that is built with the tokenizer of the teacher.",
            )


def _student_config(recipe: Distill, configs: Sequence[TrainConfig], origin: Artifact, teacher: Artifact) -> Any:
    """The ModelConfig of the student. Raises RecipeError where it does not fit the teacher, or a stage does not fit it."""
    from tilth.models.config import ModelConfig
    from tilth.models.pattern import parse_pattern
    from tilth.trainer.distill.orientation import check_heads
    from tilth.trainer.distill.student import check_depth, replaced_layers, student_config

    begun, taught = (ModelConfig.from_dict(json.loads((one.path / "config.json").read_text())) for one in (origin, teacher))
    check_depth(taught.pattern, parse_pattern(recipe.layers))
    found = student_config(begun, recipe.layers, recipe.model)
    replaced = replaced_layers(taught, found)
    for config in configs:
        if config.objective not in OF_TEACHER:
            continue
        if config.trains_mixers_only and not replaced:
            what = f"the student has the mixers of its teacher, {taught.layers}: `{config.objective}` has nothing to train"
            raise RecipeError(what, "Distill(layers=...)", "Replace a layer, or leave that stage out.")
        if config.objective not in OF_LAYERS:
            continue
        if odd := next((one.residual for one in (found, taught) if one.residual != "standard"), None):
            fix = "Leave that stage out, or change the residual in a later `Distill(initial=...)`."
            raise RecipeError(f"`{config.objective}` compares layers, which residual={odd!r} runs together", "Distill", fix)
        if config.objective == "orientation":
            check_heads(taught, found, replaced)
    k = recipe.cached_logits
    if isinstance(k, int) and k > taught.vocab_size:
        what = f"the teacher predicts {taught.vocab_size} ids; its {k} likeliest cannot be stored"
        raise RecipeError(what, "Distill(cached_logits=...)", f'Give at most {taught.vocab_size}, or "all".')
    return found


def _make_student(store: Store, recipe: Distill, origin: Artifact, model_config: Any) -> Artifact:
    """The weights that the first stage begins with. Raises RecipeError, naming the layer that does not fit."""
    params = {"model": model_config.to_dict(), "from_attention": recipe.from_attention, "seed": recipe.seed}
    spec = Spec("student", STUDENT_VERSION, params, {"origin": origin.digest}, library_versions(("torch",)))

    def write(folder: Path) -> dict[str, Any]:
        import torch

        from tilth.models.weights import load_model, save_model
        from tilth.trainer.distill.student import make_student

        torch.manual_seed(recipe.seed)
        student = make_student(load_model(origin.path), model_config, recipe.from_attention)
        digest = save_model(folder, student, (origin.path / "tokenizer.json").read_bytes())
        return {"weights_digest": digest, "n_parameters": model_config.n_parameters()}

    return store.make(spec, write)


def _teacher_loss(store: Store, teacher: Artifact, config: TrainConfig, data: RunData) -> float | None:
    """The teacher's loss on what the stage evaluates, in nats; None without a validation split."""
    sources = data.token_sources(store, "validation")
    if not sources:
        return None
    is_compared = config.objective in ("next_token", *OF_TEACHER)  # all of them are evaluated by the next token
    settings = {name: getattr(config, name) for name in ("seq_len", "global_batch", "eval_batches", "precision")}
    settings |= {} if is_compared else {name: getattr(config, name) for name in ("objective", "answers_after")}
    inputs = {"teacher": teacher.digest, **_tokens(store, data, "validation")}
    spec = Spec("teacher_loss", LOSS_VERSION, {**settings, **_mixture(data)}, inputs, library_versions(("torch",)))

    def write(folder: Path) -> dict[str, Any]:
        from tilth.trainer.distill.teacher import validation_loss

        stats = {"loss": validation_loss(teacher.path, config, sources)}
        (folder / "teacher_loss.json").write_text(json.dumps(stats))
        return stats

    loss: float = store.make(spec, write).stats["loss"]
    return loss


def _with_logits(store: Store, job: Job, recipe: Distill, watch: Callable[[int], AbstractContextManager[Any]]) -> Job:
    """The job of a stage, with what its teacher says stored where the recipe asks for it."""
    config, teacher = job.config, job.teacher
    if recipe.cached_logits is None or config.objective != "distillation" or teacher is None:
        return job
    k = None if recipe.cached_logits == "all" else recipe.cached_logits
    names = ("seq_len", "global_batch", "seed", "steps", "reverse_complement", "precision")
    params = {name: getattr(config, name) for name in names}
    params |= {"k": k, **_mixture(job.data)} | ({} if k is None else {"temperature": config.temperature})
    inputs = {"teacher": teacher.digest, **_tokens(store, job.data, "train")}
    spec = Spec("teacher_logits", LOGITS_VERSION, params, inputs, library_versions(("torch",)))

    def read(folder: Path, world: World) -> dict[str, Any]:
        from tilth.trainer.distill.teacher_pass import write_logits

        sources = job.data.token_sources(store, "train")
        with watch(config.steps) as advance:
            header = write_logits(
                teacher.path, config, sources, folder, world, k, lambda step: advance("reading what the student will read")
            )
        return {"k": k, "n_bytes": header.bytes_of_run()}

    return replace(job, logits=spec, make_logits=lambda: stored_together(store, spec, config.device, read))


def stored_together(store: Store, spec: Spec, device: str, write: Callable[[Path, World], Mapping[str, Any]]) -> Artifact:
    """The predictions of `spec`: those that are there, or what `write(folder, world)` of all processes makes; each calls this.

    What a kill leaves is taken up by the next call. Raises TrainError while another command makes the same.
    """
    from tilth.trainer.world import join_world, sole_use

    with join_world(device) as world:
        # The first process looks, for all of them: another command may publish between two looks.
        if done := world.from_first(lambda: store.find(spec)):
            return done
        work = world.from_first(lambda: store.work_folder(spec))
        with sole_use(work, world):
            is_there = world.from_first(lambda: store.find(spec)) is not None
            stats = {} if is_there else write(work / "logits", world)
            # Not by the first alone: the others would give it up after minutes, and the digest of terabytes takes longer.
            with locked(store.root / "locks" / f"publish.{spec.key}"):
                done = store.find(spec) or store.adopt(spec, work / "logits", stats)
                shutil.rmtree(work, ignore_errors=True)
        return done


def _tokens(store: Store, data: RunData, split: str) -> dict[str, str]:
    return {
        name: digest for name, digest in token_inputs(store, data, with_names=data.is_mixed).items() if f"tokens.{split}" in name
    }


def _mixture(data: RunData) -> dict[str, Any]:
    return {"mixture": data.sequences_of_block()} if data.is_mixed else {}
