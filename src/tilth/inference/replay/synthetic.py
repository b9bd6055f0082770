"""Made traces in the shapes of public ones: sessions that come at random, read what was said so far, and think between turns.

Three workloads, each by the statistics that are published of its source; lengths are drawn, tokens are drawn, nothing is text:
- lmsys: chats of many short turns. Every prompt begins with the same scaffold of its template, and repeats all turns before.
- sharegpt: the same with longer answers.
- swebench: agents that read, act and observe. Sessions share a long instruction, and some share their issue (several tries);
  all observations but the last five are collapsed to one line, so a prompt departs from the one before where a collapse begins.

Sessions arrive as a Poisson process. A person types the next message at 90 words a minute; a program answers after an exponential
gap. Turns are heavy-tailed (log-normal), as sessions are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tilth.errors import UserError, did_you_mean
from tilth.inference.replay.request import TraceRequest

TOKENS_PER_WORD = 1.33
TYPED_WORDS_PER_MINUTE = 90
WRITTEN_TOKENS_PER_SECOND = 50
VOCABULARY = 32_000
KEPT_OBSERVATIONS = 5


@dataclass(frozen=True)
class Lengths:
    """A log-normal number of at least `least` and at most `most`: its median, and the sigma of its logarithm."""

    median: float
    sigma: float
    least: int = 1
    most: int = 100_000

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """n of them, int64."""
        drawn = self.median * np.exp(self.sigma * rng.standard_normal(n))
        return np.clip(np.rint(drawn), self.least, self.most).astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class Workload:
    """asked: what a person types, or an observation; answered: what the model writes; opening: the first message.

    scaffold: tokens that every prompt begins with. An agent collapses what it observed to n_collapsed tokens, waits gap_seconds
    (the mean) for its tool, and one in `tries` sessions brings a new issue.
    """

    n_sessions: int
    scaffold: int
    turns: Lengths
    opening: Lengths
    asked: Lengths
    answered: Lengths
    is_agent: bool = False
    gap_seconds: float = 7.5
    n_collapsed: int = 12
    tries: int = 1


WORKLOADS = {
    "lmsys": Workload(
        n_sessions=100, scaffold=40, turns=Lengths(11.5, 0.5, 2, 40), opening=Lengths(45, 0.9, 4, 1500),
        asked=Lengths(40, 0.9, 3, 1500), answered=Lengths(180, 0.7, 5, 1000),
    ),
    "sharegpt": Workload(
        n_sessions=100, scaffold=40, turns=Lengths(13.5, 0.5, 2, 50), opening=Lengths(60, 1.0, 4, 3000),
        asked=Lengths(55, 1.0, 3, 3000), answered=Lengths(290, 0.6, 5, 1200),
    ),
    "swebench": Workload(
        n_sessions=30, scaffold=4100, turns=Lengths(25, 0.45, 5, 60), opening=Lengths(450, 0.6, 60, 3000),
        asked=Lengths(580, 0.9, 20, 4000), answered=Lengths(110, 0.5, 20, 600), is_agent=True, tries=2,
    ),
}  # fmt: skip


def synthetic_trace(
    name: str, sessions_per_second: float = 0.5, seed: int = 0, n_sessions: int | None = None, gap_seconds: float | None = None
) -> list[TraceRequest]:
    """The requests of WORKLOADS[name] by arrival: the same for the same arguments. Raises UserError for an unknown name."""
    if name not in WORKLOADS:
        raise UserError(f"there is no synthetic trace `{name}`", "--synthetic", did_you_mean(name, WORKLOADS))
    if not 0 < sessions_per_second < 1e6:
        raise UserError(f"{sessions_per_second} sessions a second cannot come", "--sessions-per-second", "Give more than 0.")
    workload = WORKLOADS[name]
    n_sessions = n_sessions or workload.n_sessions
    rng = np.random.default_rng([seed, sorted(WORKLOADS).index(name)])
    starts = np.cumsum(rng.exponential(1 / sessions_per_second, n_sessions))
    scaffold_N = _tokens(rng, workload.scaffold)
    issues = [_tokens(rng, n) for n in workload.opening.draw(rng, -(-n_sessions // workload.tries))]
    gap = workload.gap_seconds if gap_seconds is None else gap_seconds
    requests = []
    for start, which in zip(starts, rng.permutation(n_sessions) // workload.tries, strict=True):
        session = _Session(workload, np.concatenate([scaffold_N, issues[which]]), float(start), gap)
        requests += session.requests(rng)
    return sorted(requests, key=lambda request: request.arrival)


class _Session:
    """One conversation: (asked, answered) so far, and the clock."""

    def __init__(self, workload: Workload, opening_N: np.ndarray, start: float, gap_seconds: float) -> None:
        self.workload, self.opening_N, self.now, self.gap_seconds = workload, opening_N, start, gap_seconds
        self.turns: list[tuple[np.ndarray, np.ndarray]] = []

    def requests(self, rng: np.random.Generator) -> list[TraceRequest]:
        """All turns, one after the other."""
        n_turns = int(self.workload.turns.draw(rng, 1)[0])
        asked, answered = self.workload.asked.draw(rng, n_turns), self.workload.answered.draw(rng, n_turns)
        collapsed_N = np.full(self.workload.n_collapsed, VOCABULARY, dtype=np.int32)
        made = []
        for k in range(n_turns):
            asked_N = _tokens(rng, int(asked[k]) if k else 0)
            if k:
                self.now += self._pause(rng, len(asked_N))
            output_M = _tokens(rng, int(answered[k]))
            made.append(TraceRequest(self.now, self._prompt(asked_N, collapsed_N), output_M))
            self.turns.append((asked_N, output_M))
            self.now += len(output_M) / WRITTEN_TOKENS_PER_SECOND
        return made

    def _pause(self, rng: np.random.Generator, n_asked: int) -> float:
        if self.workload.is_agent:
            return float(rng.exponential(self.gap_seconds))
        return n_asked / TOKENS_PER_WORD / TYPED_WORDS_PER_MINUTE * 60

    def _prompt(self, asked_N: np.ndarray, collapsed_N: np.ndarray) -> np.ndarray:
        n_old = max(0, len(self.turns) + 1 - KEPT_OBSERVATIONS) if self.workload.is_agent else 0
        pieces = [self.opening_N]
        for k, (earlier_N, output_M) in enumerate(self.turns):
            # the issue itself is no observation: turn 0 has none
            pieces += [collapsed_N if 0 < k < n_old else earlier_N, output_M]
        return np.concatenate([*pieces, asked_N])


def _tokens(rng: np.random.Generator, n: int) -> np.ndarray:
    return rng.integers(0, VOCABULARY, n, dtype=np.int32)
