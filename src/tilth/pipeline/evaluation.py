"""What is asked of an evaluation: whom, on which problems, and how samples are drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tilth.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from tilth.evaluate.solving import Solving

DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is asked of whom: a run or a model's folder, problems (`problem_set`), and how samples are drawn.

    batches: a sweep, each measured by itself. shots: FILE:K; template: with `{question}`; stops: strings that end a sample, as
    NEXT_QUESTION always does, behind which no answer is looked for.
    memory_bytes caps the states of the engine. verifier: a run of classes, or RUN:CLASS. contaminated_too: also where the run
    was trained on some of the problems. against: an evaluation of the same problems to be compared with. dtype: of DTYPES, that
    of the model's weights (None: as stored), while the verifier's stay, so that the same text has the same score everywhere.
    Raises UserError for another dtype.
    """

    run: str
    problems: str
    n: int = 16
    batches: tuple[int, ...] = (64,)
    max_tokens: int = 512
    temperature: float = 0.8
    top_p: float = 1.0
    seed: int = 0
    at_once: int | None = None
    limit: int | None = None
    shots: str | None = None
    template: str | None = None
    stops: tuple[str, ...] = ()
    verifier: str | None = None
    stops_when_decided: bool = False
    contaminated_too: bool = False
    against: str | None = None
    uses_cache: bool = False
    memory_bytes: int | None = None
    device: str = "cpu"
    dtype: str | None = None
    n_threads: int | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if self.dtype is not None and self.dtype not in DTYPES:
            raise UserError(f"a model is not evaluated in `{self.dtype}`", "--dtype", did_you_mean(self.dtype, DTYPES))

    def solving(self, batch: int) -> Solving:
        """How one batch is drawn. Raises UserError for numbers that cannot be."""
        from tilth.evaluate.solving import Solving
        from tilth.inference.sampling import Sampling

        return Solving(
            n=self.n,
            batch=batch,
            max_tokens=self.max_tokens,
            sampling=Sampling(temperature=self.temperature, top_p=self.top_p),
            seed=self.seed,
            at_once=self.at_once,
            stops_when_decided=self.stops_when_decided,
            uses_cache=self.uses_cache,
        )

    def params(self) -> dict[str, Any]:
        """What decides what is drawn of a model, and what that takes: in the samples' key, and told by the evaluation's name."""
        return {name: getattr(self, name) for name in _PARAMS}


_PARAMS = ("n", "max_tokens", "temperature", "top_p", "seed", "at_once", "stops_when_decided", "uses_cache", "memory_bytes")
