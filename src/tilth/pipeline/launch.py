"""Launches training: a subset becomes token shards once, the trainer runs (or resumes) on them, the result becomes a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilth.artifacts import Artifact, Named, Spec, Store
from tilth.artifacts.atomic import locked
from tilth.artifacts.spec import library_versions
from tilth.errors import RecipeError
from tilth.pipeline.project import Project
from tilth.pipeline.recipe import Train

TOKENS_VERSION = 1
TRAIN_VERSION = 1


@dataclass(frozen=True)
class Launched:
    """A finished run, and whether it was there already."""

    named: Named
    artifact: Artifact
    was_there: bool


def tokenise_subset(store: Store, subset: Named) -> Named:
    """Token shards of both splits of a subset, with the tokenizer of its corpus; made once, as `tokens/<subset>`."""
    from tilth.catalog.trace import subset_documents
    from tilth.tokenize.bpe import Tokenizer
    from tilth.tokenize.shards import write_tokens

    corpus = store.get_named("corpus", subset.meta["corpus"])
    tokenizer_part, pick_part = _tokenizer_of(subset, corpus), subset.one("pick")
    tokenizer_path = store.artifact(tokenizer_part).path / "tokenizer.json"

    def write(split: str, folder: Path) -> dict[str, Any]:
        tokenizer = Tokenizer.open(tokenizer_path)
        return write_tokens(folder, _encoded(subset_documents(store, subset.name), split, tokenizer), tokenizer)

    parts = []
    for split in ("train", "validation"):
        if not store.artifact(pick_part).stats.get(f"n_{split}", 1):
            continue
        inputs = {"pick": pick_part.digest, "tokenizer": tokenizer_part.digest, "corpus": subset.meta["corpus_digest"]}
        spec = Spec(f"tokens.{split}", TOKENS_VERSION, {}, inputs, library_versions(("tokenizers",)))
        parts.append(store.make(spec, lambda folder, split=split: write(split, folder)).part())
    return store.save_named("tokens", subset.name, parts, {"subset": subset.name, "subset_digest": subset.digest})


def train(project: Project, name: str, recipe: Train, on_step: Callable[[Any], None] | None = None) -> Launched:
    """Train `recipe` to its end as `run/<name>`, from where an earlier attempt stopped.

    Under `torchrun` every process calls this: the first prepares and publishes, the others wait for it.
    """
    from tilth.catalog.publish import publish
    from tilth.models.config import ModelConfig
    from tilth.tokenize.shards import TokenSet
    from tilth.trainer.config import TrainConfig
    from tilth.trainer.parallel import first_process_goes_first

    store = project.store
    config = TrainConfig.from_dict(recipe.settings)
    with first_process_goes_first() as is_first:
        subset = store.get_named("subset", recipe.subset)
        tokens = tokenise_subset(store, subset) if is_first else store.get_named("tokens", subset.name)
    token_parts = {split: store.artifact(tokens.one(f"tokens.{split}")) for split in ("train", "validation") if tokens.of(f"tokens.{split}")}
    initial = store.get_named("run", recipe.initial) if recipe.initial else None
    if initial is not None:
        _check_same_tokenizer(store, initial, token_parts["train"])
        model_config = ModelConfig.from_dict(json.loads((store.artifact(initial.one("train")).path / "config.json").read_text()))
    else:
        vocab_size = TokenSet.open(token_parts["train"].path).tokenizer().vocab_size
        model_config = ModelConfig.from_dict({"vocab_size": vocab_size, **(recipe.model or {})})
    spec = _train_spec(model_config, config, token_parts, initial)
    meta = _run_meta(store, name, recipe, config, model_config, initial, subset)
    done = store.find(spec)
    if done is not None:
        return Launched(_save_run(store, name, done, meta), done, was_there=True)
    artifact = _train_and_publish(store, spec, model_config, config, token_parts, initial, on_step)
    with first_process_goes_first() as is_first:
        if is_first:
            _save_run(store, name, artifact, meta)
            publish(store)
    return Launched(store.get_named("run", name), artifact, was_there=False)


def _train_and_publish(
    store: Store, spec: Spec, model_config: Any, config: Any, token_parts: dict[str, Artifact], initial: Named | None, on_step: Any
) -> Artifact:
    from tilth.trainer.loop import train as run_loop
    from tilth.trainer.parallel import first_process_goes_first, is_first_process

    validation = token_parts.get("validation")
    initial_path = store.artifact(initial.one("train")).path if initial else None
    # One attempt at a time: a second `tilth train` of the same run waits here, then finds it done.
    with _only_one(store, spec, enabled=is_first_process()):
        done = store.find(spec)
        if done is not None:
            return done
        work = store.work_folder(spec)
        result = run_loop(
            model_config, config, token_parts["train"].path, validation.path if validation else None, work, initial_path, on_step
        )
        with first_process_goes_first() as is_first:
            if is_first:
                final = _final_folder(work, token_parts["train"].path, result)
                stats = {"steps": config.steps, "start_loss": result.start_loss, "end_loss": result.end_loss}
                store.adopt(spec, final, stats)
                shutil.rmtree(work)
    found = store.find(spec)
    assert found is not None
    return found


def _final_folder(work: Path, tokens: Path, result: Any) -> Path:
    """What of a finished training becomes the run: weights, configuration, tokenizer, losses."""
    import pyarrow as pa

    from tilth.contracts import LOSSES
    from tilth.pipeline.parquet import write_table

    final = work / "final"
    shutil.rmtree(final, ignore_errors=True)
    final.mkdir()
    for name in ("model.safetensors", "config.json"):
        shutil.copy(work / name, final / name)
    shutil.copy(tokens / "tokenizer.json", final / "tokenizer.json")
    lines = [json.loads(line) for line in (work / "metrics.jsonl").read_text().splitlines()]
    rows = [{field: line.get(field) for field in LOSSES.schema.names} for line in lines]
    write_table(final / "losses.parquet", pa.Table.from_pylist(rows, schema=LOSSES.schema), LOSSES)
    return final


def _train_spec(model_config: Any, config: Any, token_parts: dict[str, Artifact], initial: Named | None) -> Spec:
    inputs = {f"tokens.{split}": artifact.digest for split, artifact in token_parts.items()}
    if initial is not None:
        inputs["initial"] = initial.one("train").digest
    params = {"model": model_config.to_dict(), "training": config.to_dict()}
    return Spec("train", TRAIN_VERSION, params, inputs, library_versions(("torch",)))


def _run_meta(
    store: Store, name: str, recipe: Train, config: Any, model_config: Any, initial: Named | None, subset: Named
) -> dict[str, Any]:
    return {
        "subset": subset.name,
        "subset_digest": subset.digest,
        "tokens": subset.name,
        "base": initial.name if initial else None,
        "n_parameters": model_config.n_parameters(),
        "layers": model_config.layers,
        **{key: getattr(config, key) for key in ("steps", "seq_len", "global_batch", "seed", "lr")},
    }


def _save_run(store: Store, name: str, artifact: Artifact, meta: dict[str, Any]) -> Named:
    return store.save_named("run", name, [artifact.part()], {**meta, **artifact.stats})


def _tokenizer_of(subset: Named, corpus: Named) -> Any:
    if not corpus.of("tokenizer"):
        raise RecipeError(f"corpus `{corpus.name}` has no tokenizer", f"subset/{subset.name}", "Give its recipe one: `tokenizer=Bpe(...)`.")
    return corpus.one("tokenizer")


def _check_same_tokenizer(store: Store, initial: Named, tokens: Artifact) -> None:
    old = (store.artifact(initial.one("train")).path / "tokenizer.json").read_bytes()
    if old != (tokens.path / "tokenizer.json").read_bytes():
        fix = "Pick the subset from the corpus that the initial run was trained on."
        raise RecipeError(f"run `{initial.name}` was trained with another tokenizer than this subset's", f"run/{initial.name}", fix)


def _encoded(documents: Iterator[Any], split: str, tokenizer: Any, n_at_once: int = 256) -> Iterator[tuple[bytes, str, int, Any]]:
    waiting: list[Any] = []

    def flush() -> Iterator[tuple[bytes, str, int, Any]]:
        for document, ids in zip(waiting, tokenizer.encode_batch([document.text for document in waiting]), strict=True):
            yield document.doc_id, document.shard, document.row, ids
        waiting.clear()

    for document in documents:
        if document.split == split:
            waiting.append(document)
        if len(waiting) >= n_at_once:
            yield from flush()
    yield from flush()


def _only_one(store: Store, spec: Spec, *, enabled: bool) -> Any:
    import contextlib

    return locked(store.root / "locks" / f"work.{spec.key}") if enabled else contextlib.nullcontext()
