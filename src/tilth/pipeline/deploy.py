"""Deploys a run: its difference from the base in few bits, verified or refused, with a sample from the result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from tilth.artifacts import Artifact, Named, Spec
from tilth.artifacts.spec import library_versions
from tilth.errors import DeltaError, RecipeError
from tilth.pipeline.project import Project
from tilth.pipeline.run_sources import RunSource, sources_of

DEPLOY_VERSION = 4


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
) -> Named:
    """Compress `run` against `base` into `delta/<run>`: the delta's file, and what it costs in loss and bytes.

    codecs and tables are those of `deploy.parse_choice`. It is verified on the run's validation tokens where it has any, and on
    the prompts and answers of the JSONL file `task`. The sample continues `prompt` (or the separator) with the model that base
    and delta give together. Raises RecipeError or DeltaError where `run` did not begin as what `base` now is; DeltaError, and
    publishes nothing, where base + delta loses more than the share max_loss of what the fine-tune gained.
    """
    from tilth.catalog.publish import publish
    from tilth.deploy.choice import parse_choice
    from tilth.deploy.release import deploy as compress
    from tilth.deploy.task import read_task
    from tilth.tokenize.bpe import Tokenizer
    from tilth.tokenize.shards import TokenSet

    store, choice = project.store, parse_choice(codecs, tables)
    tuned_run = store.get_named("run", run)
    tuned, original = _models(project, tuned_run, base)
    # Of a mixture, what the run read most of.
    source = max(sources_of(tuned_run), key=lambda source: source.weight)
    tokens, held_out = (_tokens(project, source, split) for split in ("train", "validation"))
    assert tokens is not None
    params = {
        "choice": asdict(choice), "distill_steps": distill_steps, "max_loss": max_loss, "prompt": prompt,
        "n_sample_tokens": n_sample_tokens, "seed": seed,
    }  # fmt: skip
    inputs = {"run": tuned.digest, "base": original.digest, "tokens": tokens.digest}
    inputs |= {"held_out": held_out.digest} if held_out else {}
    items = read_task(task, Tokenizer.open(original.path / "tokenizer.json")) if task else []
    inputs |= {"task": sha256(task.read_bytes()).hexdigest()} if task else {}
    spec = Spec("deploy", DEPLOY_VERSION, params, inputs, library_versions(("torch", "safetensors")))

    def write(folder: Path) -> dict[str, Any]:
        verification = compress(
            original.path, tuned.path, TokenSet.open(tokens.path), folder, distill_steps=distill_steps,
            seq_len=tuned_run.meta["seq_len"], seed=seed, choice=choice, task=items, max_loss=max_loss,
            held_out=TokenSet.open(held_out.path) if held_out else None,
        )  # fmt: skip
        sample = _sample(folder / "delta.safetensors", original.path, prompt, n_sample_tokens, seed)
        return {"codec": choice.label, **asdict(verification), "sample": sample}

    made = store.make(spec, write)
    parts = [made.part(), tuned.part(), original.part()]
    named = store.save_named("delta", run, parts, {"run": run, "base": base, **made.stats})
    publish(store)
    return named


def _models(project: Project, run: Named, base: str) -> tuple[Artifact, Artifact]:
    """The models of a run and of the base that it began as."""
    tuned, original = (project.store.artifact(named.one("train")) for named in (run, project.store.get_named("run", base)))
    if run.meta.get("base") != base:
        own = run.meta.get("base")
        fix = f"Its base is `{own}`." if own else "A delta needs a fine-tune: a run with `initial`."
        raise RecipeError(f"run `{run.name}` was not fine-tuned from `{base}`", run.label, fix)
    if tuned.spec.inputs.get("initial") != original.digest:
        fix = f"Train `{run.name}` again, from this `{base}`; or train `{base}` as it was then, with the same words."
        raise DeltaError(f"`{base}` was trained anew since `{run.name}` was fine-tuned from it", f"run/{base}", fix)
    return tuned, original


def _tokens(project: Project, source: RunSource, split: str) -> Artifact | None:
    parts = source.named.of(f"tokens.{split}")
    return project.store.artifact(parts[0]) if parts else None


def _sample(delta: Path, base: Path, prompt: str, n_tokens: int, seed: int) -> str:
    from tilth.deploy.delta_file import apply_delta
    from tilth.inference.generate import generate
    from tilth.tokenize.bpe import Tokenizer

    tokenizer = Tokenizer.open(base / "tokenizer.json")
    model = apply_delta(delta, base)
    prompt_ids = [tokenizer.separator_id, *tokenizer.encode(prompt).tolist()]
    ids = generate(model, prompt_ids, n_tokens, temperature=0.8, top_k=40, seed=seed, stop_id=tokenizer.separator_id)
    return prompt + tokenizer.decode(ids)
