"""A small teacher on text and arithmetic, a pure and a hybrid student of it, and which answers more in the same time.

The control is the teacher itself, trained for as many more steps as a student was: what a student gains must be more than that.

tilth new reasoners --recipe distill && cd reasoners
python recipes/distill.py                   all of it; a second time only what has changed
python recipes/distill.py steps=40 n_problems=8 samples=4 seed=1

or verb by verb:

tilth build distill
tilth pick lessons "is_keeper and n_tokens >= 8" --from distill --validation 0.02
tilth train distill:teacher
tilth distill distill:hybrid
tilth distill distill:pure
tilth train distill:control
how="--problems arithmetic:n=60,n_steps=3 --n 32 --at-once 4 --max-tokens 64"
tilth evaluate teacher $how --name reason-teacher
tilth evaluate hybrid $how --name reason-hybrid --against reason-teacher
tilth evaluate pure $how --name reason-pure --against reason-teacher
tilth evaluate control $how --name reason-control --against reason-hybrid
tilth sql "select evaluation, avg(is_correct::int) as correct, max(finished) as seconds from samples group by evaluation"
tilth report
"""

import sys

from tilth import Bpe, Corpus, Train
from tilth.cli.typed import typed
from tilth.corpus import PackageDescriptions, Questions
from tilth.corpus.questions.arithmetic import Arithmetic
from tilth.pipeline.recipe import Distill

N_STEPS = 3
STUDENTS = {"hybrid": "DDAD", "pure": "DDDD"}


def corpus(n: int = 40_000, megabytes: float = 1.0, vocab_size: int = 320) -> Corpus:
    """Sums with their steps, and what the packages installed here say about themselves."""
    sums = Questions("sums", Arithmetic(n=n, n_steps=(1, N_STEPS)))
    readmes = PackageDescriptions("readmes", max_bytes=int(megabytes * 1_000_000))
    return Corpus(sources=[sums, readmes], tokenizer=Bpe(vocab_size))


def teacher(subset: str = "lessons", steps: int = 1000, d_model: int = 128, seed: int = 0) -> Train:
    """A transformer."""
    model = {"layers": "A*4", "d_model": d_model, "n_heads": 4}
    return Train(subset=subset, model=model, settings=_settings("next_token", steps, lr=4e-3, seed=seed))


def hybrid(subset: str = "lessons", steps: int = 1000, seed: int = 1) -> Distill:
    """A student that keeps one attention layer of four."""
    return Distill(subset=subset, teacher="teacher", layers=STUDENTS["hybrid"], stages=_stages(steps, seed))


def pure(subset: str = "lessons", steps: int = 1000, seed: int = 1) -> Distill:
    """A student without attention."""
    return Distill(subset=subset, teacher="teacher", layers=STUDENTS["pure"], stages=_stages(steps, seed))


def control(subset: str = "lessons", steps: int = 1000, seed: int = 1) -> Train:
    """The teacher, for as many steps more as a student has in all."""
    n_steps = sum(stage["steps"] for stage in _stages(steps, seed))
    return Train(subset=subset, initial="teacher", settings=_settings("next_token", n_steps, lr=2e-3, seed=seed))


def _stages(steps: int, seed: int) -> list[dict]:
    """MOHAWK's three, in a third of the teacher's `steps`; new mixers take long to warm up, or they first become worse."""
    shares = {"orientation": (0.03, 3e-3, 4), "alignment": (0.07, 6e-3, 4), "distillation": (0.23, 2e-3, 20)}
    return [_settings(own, max(1, int(share * steps)), lr, seed, part) for own, (share, lr, part) in shares.items()]


def _settings(objective: str, steps: int, lr: float, seed: int, warmup_part: int = 20) -> dict:
    return {
        "objective": objective,
        "steps": steps,
        "seq_len": 128,
        "global_batch": 32,
        "lr": lr,
        "warmup_steps": steps // warmup_part,
        "checkpoint_every": max(steps // 2, 1),
        "eval_every": max(steps // 2, 1),
        "seed": seed,
    }


def main(
    steps: str = "1000", n_problems: str = "60", samples: str = "32", n: str = "40000", megabytes: str = "1.0", seed: str = "0"
) -> None:
    """All of it, verb by verb, as a user would type it; the students and the control are trained with the seed behind `seed`."""
    later = f"seed={int(seed) + 1}"
    typed("build", "distill", f"n={n}", f"megabytes={megabytes}")
    typed("pick", "lessons", "is_keeper and n_tokens >= 8", "--from", "distill", "--validation", "0.02")
    typed("train", "distill:teacher", f"steps={steps}", f"seed={seed}")
    for student in STUDENTS:
        typed("distill", f"distill:{student}", f"steps={steps}", later)
    typed("train", "distill:control", f"steps={steps}", later)
    problems = f"arithmetic:n={n_problems},n_steps={N_STEPS}"
    for run, other in {"teacher": None, **dict.fromkeys(STUDENTS, "teacher"), "control": "hybrid"}.items():
        against = ["--against", f"reason-{other}"] if other else []
        # four samples of every problem, then the next four: what a second more buys for all of them
        drawn = ["--n", samples, "--at-once", "4", "--max-tokens", "64"]
        typed("evaluate", run, "--problems", problems, *drawn, "--name", f"reason-{run}", *against)
    typed("sql", "select evaluation, avg(is_correct::int) as correct, max(finished) as seconds from samples group by evaluation")
    typed("report")


if __name__ == "__main__":
    try:
        main(**dict(word.split("=", 1) for word in sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
