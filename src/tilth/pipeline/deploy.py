"""Deploys a run: its difference from the base as one bit per weight, verified, with a sample from the result."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tilth.artifacts import Named, Spec
from tilth.artifacts.spec import library_versions
from tilth.errors import DeltaError, RecipeError
from tilth.pipeline.project import Project
from tilth.pipeline.run_sources import sources_of

DEPLOY_VERSION = 3


def deploy(
    project: Project, run: str, base: str, *, distill_steps: int = 60, prompt: str = "", n_sample_tokens: int = 48, seed: int = 0
) -> Named:
    """Compress `run` against `base` into `delta/<run>`: a BitDelta file and what it costs in loss and bytes.

    The sample continues `prompt` (or the separator) with the model that base and delta give together.
    Raises RecipeError or DeltaError where `run` did not begin as what `base` now is.
    """
    from tilth.catalog.publish import publish
    from tilth.deploy.release import deploy as compress
    from tilth.tokenize.shards import TokenSet

    store = project.store
    tuned_run, base_run = store.get_named("run", run), store.get_named("run", base)
    if tuned_run.meta.get("base") != base:
        fix = (
            f"Its base is `{tuned_run.meta['base']}`."
            if tuned_run.meta.get("base")
            else "A delta needs a fine-tune: a run with `initial`."
        )
        raise RecipeError(f"run `{run}` was not fine-tuned from `{base}`", f"run/{run}", fix)
    tuned, original = store.artifact(tuned_run.one("train")), store.artifact(base_run.one("train"))
    if tuned.spec.inputs.get("initial") != original.digest:
        fix = f"Train `{run}` again, from this `{base}`; or train `{base}` as it was then, with the same words."
        raise DeltaError(f"`{base}` was trained anew since `{run}` was fine-tuned from it", f"run/{base}", fix)
    # Of a mixture, what the run read most of.
    source = max(sources_of(tuned_run), key=lambda source: source.weight)
    tokens = store.artifact(source.named.one("tokens.train"))
    params = {"distill_steps": distill_steps, "prompt": prompt, "n_sample_tokens": n_sample_tokens, "seed": seed}
    inputs = {"run": tuned.digest, "base": original.digest, "tokens": tokens.digest}
    spec = Spec("deploy", DEPLOY_VERSION, params, inputs, library_versions(("torch", "safetensors")))

    def write(folder: Path) -> dict[str, Any]:
        verification = compress(
            original.path, tuned.path, TokenSet.open(tokens.path), folder, distill_steps=distill_steps,
            seq_len=tuned_run.meta["seq_len"], seed=seed,
        )  # fmt: skip
        sample = _sample(folder / "delta.safetensors", original.path, prompt, n_sample_tokens, seed)
        return {**asdict(verification), "sample": sample}

    made = store.make(spec, write)
    parts = [made.part(), tuned.part(), original.part()]
    named = store.save_named("delta", run, parts, {"run": run, "base": base, **made.stats})
    publish(store)
    return named


def _sample(delta: Path, base: Path, prompt: str, n_tokens: int, seed: int) -> str:
    from tilth.deploy.delta_file import apply_delta
    from tilth.inference.generate import generate
    from tilth.tokenize.bpe import Tokenizer

    tokenizer = Tokenizer.open(base / "tokenizer.json")
    model = apply_delta(delta, base)
    prompt_ids = [tokenizer.separator_id, *tokenizer.encode(prompt).tolist()]
    ids = generate(model, prompt_ids, n_tokens, temperature=0.8, top_k=40, seed=seed, stop_id=tokenizer.separator_id)
    return prompt + tokenizer.decode(ids)
