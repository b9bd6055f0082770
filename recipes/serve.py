"""A small base, two fine-tunes of it as one-bit deltas, and one server that answers as all three.

python recipes/serve.py                   all of it, in a project: some minutes on two cores; a second time only what has changed
python recipes/serve.py megabytes=1 base_steps=60 tuned_steps=20

or verb by verb:

tilth build serve
tilth pick everything "is_keeper and n_tokens >= 32" --from serve --validation 0.1
tilth pick prose "is_keeper and n_tokens >= 32 and source = 'readmes'" --from serve --validation 0.1
tilth pick python "is_keeper and n_tokens >= 32 and source = 'packages'" --from serve --validation 0.1
tilth train serve:base
tilth train serve:prose
tilth train serve:python
tilth deploy prose --base base
tilth deploy python --base base
tilth serve base
"""

import json
import shlex
import subprocess
import sys
import time

from tilth import Bpe, Corpus, Train
from tilth.cli.typed import typed
from tilth.corpus import PackageDescriptions, PackageSource

TENANTS = {"prose": "readmes", "python": "packages"}
INSTRUCTIONS = """\
# Notes for whoever continues this text

This is about a Python package. Keep to the style of what is given: prose goes on as prose, code as code. Name functions and
modules as the package does, use its licence and its words, and write complete sentences with a full stop at their end.

"""
QUESTIONS = ["This package provides", "To install it,", "import os\n", "def main("]


def corpus(megabytes: float = 4.0, vocab_size: int = 2048) -> Corpus:
    """The packages that are installed here, and what they say about themselves."""
    n_bytes = int(megabytes * 1_000_000)
    sources = [PackageSource("packages", max_bytes=n_bytes // 2), PackageDescriptions("readmes", max_bytes=n_bytes // 2)]
    return Corpus(sources=sources, tokenizer=Bpe(vocab_size))


def base(subset: str = "everything", steps: int = 240, layers: str = "MMA", d_model: int = 128, seed: int = 0) -> Train:
    """A hybrid that has read both."""
    model = {"layers": layers, "d_model": d_model, "n_heads": 2, "d_state": 32, "ssm_head_dim": 64}
    return Train(subset=subset, model=model, settings=_settings(steps, lr=4e-3, seed=seed))


def prose(subset: str = "prose", initial: str = "base", steps: int = 60, seed: int = 1) -> Train:
    """The base, fine-tuned on descriptions."""
    return Train(subset=subset, initial=initial, settings=_settings(steps, lr=1e-3, seed=seed))


def python(subset: str = "python", initial: str = "base", steps: int = 60, seed: int = 1) -> Train:
    """The base, fine-tuned on code."""
    return Train(subset=subset, initial=initial, settings=_settings(steps, lr=1e-3, seed=seed))


def _settings(steps: int, lr: float, seed: int) -> dict:
    return {
        "steps": steps,
        "seq_len": 256,
        "global_batch": 8,
        "lr": lr,
        "warmup_steps": max(steps // 10, 1),
        "checkpoint_every": max(steps // 2, 1),
        "eval_every": max(steps // 2, 1),
        "seed": seed,
    }


def make(megabytes: str, base_steps: str, tuned_steps: str) -> None:
    """Everything up to the deltas, verb by verb, as a user would type it."""
    typed("build", "serve", f"megabytes={megabytes}")
    clean = "is_keeper and n_tokens >= 32"
    subsets = {"everything": clean} | {tenant: f"{clean} and source = '{source}'" for tenant, source in TENANTS.items()}
    for subset, predicate in subsets.items():
        typed("pick", subset, predicate, "--from", "serve", "--validation", "0.1")
    typed("train", "serve:base", f"steps={base_steps}")
    for tenant in TENANTS:
        typed("train", f"serve:{tenant}", f"steps={tuned_steps}")
        typed("deploy", tenant, "--base", "base")


def serve() -> tuple[subprocess.Popen, str]:
    """A server of the base and all deltas of it, on a free port; returns the process and its address."""
    command = [sys.executable, "-m", "tilth", "serve", "base", "--port", "0", "--admin-port", "0", "--json"]
    print(f"\n$ {shlex.join(['tilth', *command[3:]])}", flush=True)
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    ready = server.stdout.readline()
    if not ready:
        sys.exit(server.wait() or 1)
    return server, json.loads(ready)["url"]


def ask(url: str) -> None:
    """Ask every model the same questions under the same instructions with the `openai` client, and each for a second turn."""
    from openai import OpenAI

    client = OpenAI(base_url=url, api_key="none", max_retries=0)
    names = [model.id for model in client.models.list()]
    print(f"\nmodels: {', '.join(names)}")
    n_prompt = n_cached = 0
    for name in names:
        for question in QUESTIONS:
            prompt = INSTRUCTIONS + question
            for turn in (1, 2):
                started = time.perf_counter()
                answer = client.completions.create(model=name, prompt=prompt, max_tokens=24, temperature=0.7, seed=7)
                milliseconds = 1000 * (time.perf_counter() - started)
                usage, text = answer.usage, answer.choices[0].text
                cached = usage.prompt_tokens_details.cached_tokens
                n_prompt, n_cached = n_prompt + usage.prompt_tokens, n_cached + cached
                print(f"{name}, turn {turn}: {usage.prompt_tokens} tokens, {cached} cached, {milliseconds:.0f} ms: {text!r}")
                prompt += text + "\n"
    print(f"\n{n_cached} of {n_prompt} prompt tokens came from the cache: a hit rate of {n_cached / n_prompt:.1%}")


def main(megabytes: str = "4.0", base_steps: str = "240", tuned_steps: str = "60") -> None:
    """Make all, serve it, ask, and stop the server."""
    make(megabytes, base_steps, tuned_steps)
    server, url = serve()
    try:
        ask(url)
    finally:
        server.terminate()
        server.wait(30)


if __name__ == "__main__":
    try:
        main(**dict(word.split("=", 1) for word in sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
