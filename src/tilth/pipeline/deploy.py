"""Deploys a run: its difference from the base in few bits, verified or refused, with a sample from the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilth.artifacts import Artifact, Named, Spec
from tilth.artifacts.spec import library_versions
from tilth.errors import DeltaError, RecipeError
from tilth.pipeline.project import Project
from tilth.pipeline.run_sources import RunSource, sources_of

if TYPE_CHECKING:
    from tilth.deploy.token_batches import TokenBatch

DEPLOY_VERSION = 5


def deploy(
    project: Project,
    run: str,
    base: str,
    *,
    codecs: Sequence[str] = (),
    tables: str = "auto",
    distill_steps: int = 60,
    max_loss: float = 0.25,
    task: Path | None = None,
    prompt: str = "",
    n_sample_tokens: int = 48,
    seed: int = 0,
    on_step: Callable[[int, float], None] | None = None,
) -> Named:
    """Compress `run` against `base` into `delta/<run>`: the delta's file, and what it costs in loss and bytes.

    codecs and tables are those of `deploy.parse_choice`. It is verified on the run's validation tokens where it has any, and on
    the prompts and answers of the JSONL file `task`. The sample continues `prompt` (or nothing) with the model that base
    and delta give together. on_step(step, error of its logits) while it distils. Raises RecipeError or DeltaError where `run`
    did not begin as what `base` now is; DeltaError, and publishes nothing, where base + delta loses more than the share max_loss
    of what the fine-tune gained.
    """
    from tilth.catalog.publish import publish
    from tilth.deploy.acceptance import check_max_loss
    from tilth.deploy.choice import parse_choice
    from tilth.deploy.release import deploy as compress
    from tilth.tokenize.shards import TokenSet

    check_max_loss(max_loss)
    store, choice = project.store, parse_choice(codecs, tables)
    tuned_run = store.get_named("run", run)
    tuned, original = _models(project, tuned_run, base)
    # Of a mixture, what the run read most of.
    source = max(sources_of(tuned_run), key=lambda source: source.weight)
    tokens, held_out = (_tokens(project, source, split) for split in ("train", "validation"))
    assert tokens
    params = {
        "choice": asdict(choice), "distill_steps": distill_steps, "max_loss": max_loss, "prompt": prompt,
        "n_sample_tokens": n_sample_tokens, "seed": seed,
    }  # fmt: skip
    read = {"run": tuned, "base": original, "tokens": tokens, "held_out": held_out}
    inputs = {name: artifact.digest for name, artifact in read.items() if artifact}
    items, digests = _read_task(task, original)
    spec = Spec("deploy", DEPLOY_VERSION, params, inputs | digests, library_versions(("torch", "safetensors")))

    def write(folder: Path) -> dict[str, Any]:
        verification = compress(
            original.path, tuned.path, TokenSet.open(tokens.path), folder, distill_steps=distill_steps,
            seq_len=tuned_run.meta["seq_len"], seed=seed, choice=choice, task=items, max_loss=max_loss,
            held_out=TokenSet.open(held_out.path) if held_out else None, on_step=on_step,
        )  # fmt: skip
        sample = _sample(folder / "delta.safetensors", original.path, prompt, n_sample_tokens, seed)
        return {"codec": choice.label, **asdict(verification), "sample": sample}

    made = store.make(spec, write)
    meta = {"run": run, "base": base, **made.stats}
    named = store.save_named("delta", run, [made.part(), tuned.part(), original.part()], meta)
    publish(store)
    return named


def _models(project: Project, run: Named, base: str) -> tuple[Artifact, Artifact]:
    """The models of a run and of the base that it began as."""
    tuned, original = (project.store.artifact(named.one("train")) for named in (run, project.store.get_named("run", base)))
    if run.meta.get("base") != base:
        own = run.meta.get("base")
        fix = f"Its base is `{own}`." if own else "A delta needs a fine-tune: a run with `initial`."
        raise RecipeError(f"run `{run.name}` was not fine-tuned from `{base}`", run.label, fix)
    if "stage" in run.meta:
        fix = "Export it with `tilth export-hf`, or compress a fine-tune of it: a run with `initial`."
        raise RecipeError(f"`{run.name}` is a student of `{base}`, so other weights and no change of them", run.label, fix)
    if tuned.spec.inputs.get("initial") != original.digest:
        fix = f"Train `{run.name}` again, from this `{base}`; or train `{base}` as it was then, with the same words."
        raise DeltaError(f"`{base}` was trained anew since `{run.name}` was fine-tuned from it", f"run/{base}", fix)
    return tuned, original


def _read_task(path: Path | None, base: Artifact) -> tuple[list[TokenBatch], dict[str, str]]:
    """The prompts and answers of a file, and what tells it from others."""
    from tilth.deploy.task import read_task
    from tilth.tokenize.bpe import Tokenizer

    if path is None:
        return [], {}
    return read_task(path, Tokenizer.open(base.path / "tokenizer.json")), {"task": sha256(path.read_bytes()).hexdigest()}


def _tokens(project: Project, source: RunSource, split: str) -> Artifact | None:
    parts = source.named.of(f"tokens.{split}")
    return project.store.artifact(parts[0]) if parts else None


def _sample(delta: Path, base: Path, prompt: str, n_tokens: int, seed: int) -> str:
    from tilth.deploy.delta_file import apply_delta
    from tilth.inference.generate import generate
    from tilth.tokenize.bpe import Tokenizer

    tokenizer = Tokenizer.open(base / "tokenizer.json")
    model = apply_delta(delta, base)
    prompt_ids = [tokenizer.begin_id, *tokenizer.encode(prompt).tolist()]
    ids = generate(model, prompt_ids, n_tokens, temperature=0.8, top_k=40, seed=seed, stop_id=tokenizer.separator_id)
    return prompt + tokenizer.decode(ids)
