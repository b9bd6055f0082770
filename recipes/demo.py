"""The main job on real input that is already on this machine; copy it and put your own sources in.

tilth build demo
tilth pick clean "is_keeper and ..." --from demo
tilth train demo:base
tilth train demo:tuned
tilth deploy tuned --base base
"""

from pathlib import Path

from tilth import Bpe, Corpus, GitRepository, MinHashParameters, QualityModel, Train, Website
from tilth.corpus import PackageDescriptions, PackageSource
from tilth.corpus.crawling.pydoc_site import allow, pydoc_site

PROJECT = Path(__file__).parents[1]


def corpus(max_pages: int = 200, megabytes: float = 10.0, threshold: float = 0.7, vocab_size: int = 2048) -> Corpus:
    """Python's documentation as a web crawl, this repository's history, installed packages and their descriptions."""
    n_bytes = int(megabytes * 1_000_000)
    sources = [
        Website(
            "web",
            site=pydoc_site,
            allow=allow,
            max_pages=max_pages,
            max_bytes=n_bytes * 4 // 10,
            delay_seconds=0,
            licence="PSF-2.0",
        ),
        PackageSource("packages", max_bytes=n_bytes * 3 // 10),
        PackageDescriptions("readmes", max_bytes=n_bytes * 2 // 10),
    ]
    if (PROJECT / ".git").exists():
        sources.append(GitRepository("git", str(PROJECT), history=True, max_bytes=n_bytes // 10))
    return Corpus(
        sources=sources,
        near_duplicates=MinHashParameters(threshold=threshold),
        tokenizer=Bpe(vocab_size),
        models=[QualityModel(positive="readmes", negative="web")],
    )


def base(subset: str = "clean", steps: int = 340, layers: str = "MMA", d_model: int = 128, seed: int = 0) -> Train:
    """A small hybrid: two Mamba-2 layers and one of attention."""
    model = {"layers": layers, "d_model": d_model, "n_heads": 2, "d_state": 32, "ssm_head_dim": 64}
    return Train(subset=subset, model=model, settings=_settings(steps, lr=4e-3, seed=seed))


def tuned(subset: str = "prose", initial: str = "base", steps: int = 45, seed: int = 1) -> Train:
    """The base, fine-tuned on prose alone."""
    return Train(subset=subset, initial=initial, settings=_settings(steps, lr=1e-3, seed=seed))


def _settings(steps: int, lr: float, seed: int) -> dict:
    return {
        "steps": steps,
        "seq_len": 256,
        "global_batch": 8,
        "lr": lr,
        "warmup_steps": max(steps // 10, 1),
        "checkpoint_every": max(steps // 4, 1),
        "eval_every": max(steps // 4, 1),
        "seed": seed,
    }
