"""solve: problems through the engine, many samples of each, with the second at which each could be used.

A request asks for several samples of one problem: its prompt is read once, and each sample goes on from a copy of the states.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from tilth.errors import TilthError, UserError
from tilth.evaluate.answers import canonical, extract
from tilth.evaluate.problems import Problem
from tilth.evaluate.prompting import Coder, Prompting
from tilth.evaluate.samples import REFUSED, Sample
from tilth.evaluate.votes import is_decided
from tilth.inference.engine.requests import (
    BranchFinished,
    Event,
    FinishReason,
    NewToken,
    OnEvent,
    QueueFullError,
    Request,
    RequestFinished,
)
from tilth.inference.sampling import Sampling
from tilth.inference.stopping import Stopping

DUPLICATE = "duplicate"
"""Why a sample ended that could only have said what another one says; it is counted with that one's text and no tokens."""


class Engine(Protocol):
    """What is asked of an engine; `inference.engine.engine.Engine` is one, driven here by hand."""

    def submit(self, request: Request, on_event: OnEvent) -> int:
        """Queue a request; returns its number. Raises UserError for one that it cannot hold."""

    def cancel(self, request_id: int, branch: int | None = None, *, is_done: bool = False) -> None:
        """End a request or a branch of it; is_done: it has said all that was wanted."""

    def step(self) -> bool:
        """One iteration; False when there was nothing to do."""


Scorer = Callable[[str, Sequence[str]], Sequence[float]]
"""A question and different texts that answer it -> for each the probability that it is right."""


@dataclass(frozen=True, kw_only=True)
class Solving:
    """n samples of each problem, at most `batch` in the making at once, each of at most max_tokens tokens.

    at_once samples of a problem are one request (None: all n, as far as batch has room); the further ones come after all other
    problems had theirs, and read the prompt anew. Sample i of a problem draws with a seed made from `seed` and the problem's
    id, plus i: what it says depends neither on batch, nor on at_once, nor on the order of problems, as far as the engine's
    logits do not (`Engine`). stops_when_decided: what no vote can change any more is cancelled. Raises UserError.
    """

    n: int = 16
    batch: int = 64
    max_tokens: int = 512
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.8))
    seed: int = 0
    at_once: int | None = None
    stops_when_decided: bool = False
    uses_cache: bool = False

    def __post_init__(self) -> None:
        for name in ("n", "batch", "max_tokens", "at_once"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UserError(f"{name} is {value}", where=f"Solving.{name}", fix="use at least 1")

    @property
    def is_greedy(self) -> bool:
        """Whether all samples of a problem are the same: one is drawn, and the others are its duplicates."""
        return self.sampling.temperature == 0 or self.sampling.top_k == 1

    @property
    def width(self) -> int:
        """Samples of a request."""
        return 1 if self.is_greedy else min(self.n, self.batch, self.at_once or self.n)


def seed_of(seed: int, problem: str) -> int:
    """The seed of a problem's first sample: 62 bits of a hash, for others count on from it."""
    digest = hashlib.sha256(f"{seed}/{problem}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def solve(
    engine: Engine,
    coder: Coder,
    prompting: Prompting,
    problems: Sequence[Problem],
    how: Solving,
    *,
    scorer: Scorer | None = None,
    kept: Iterable[Sample] = (),
    seconds_before: float = 0.0,
    now: Callable[[], float] = time.monotonic,
) -> Iterator[list[Sample]]:
    """Yield the samples of each request once all of them have ended and are scored; what was yielded is forgotten here.

    Seconds count from the first call on, prefill, scoring, tails and what the caller does with the samples included, after
    seconds_before. `kept` are whole requests of an earlier attempt, which are not drawn again. A problem that the engine
    cannot take gets samples that end with REFUSED, one that it fails on with "error", and others go on. Raises TilthError where
    the engine stalls.
    """
    return _Run(engine, coder, prompting, how, scorer, seconds_before, now).samples(problems, kept)


@dataclass(eq=False)
class _Vote:
    """The answers of a problem so far."""

    problem: Problem
    reference: str | None
    n_left: int
    counts: Counter[str] = field(default_factory=Counter)
    is_decided: bool = False


@dataclass(eq=False)
class _Group:
    """One request: samples first, first + 1, ... of a problem. number is the engine's, None while it is not handed in."""

    vote: _Vote
    first: int
    n: int
    number: int | None = None
    started: float = 0.0
    ids: list[list[int]] = field(default_factory=list)
    samples: dict[int, Sample] = field(default_factory=dict)
    has_ended: bool = False

    @property
    def n_rows(self) -> int:
        """Samples that are still in the making."""
        return self.n - len(self.samples)


class _Run:
    def __init__(
        self,
        engine: Engine,
        coder: Coder,
        prompting: Prompting,
        how: Solving,
        scorer: Scorer | None,
        seconds_before: float,
        now: Callable[[], float],
    ) -> None:
        self._engine, self._coder, self._prompting, self._how, self._scorer = engine, coder, prompting, how, scorer
        self._seconds_before, self._now, self._began = seconds_before, now, now()
        self._running: list[_Group] = []
        self._events: deque[tuple[_Group, Event]] = deque()
        self._stopping = Stopping(stop_ids=coder.end_ids)

    @property
    def seconds(self) -> float:
        """Since the start, with those of earlier attempts."""
        return self._seconds_before + self._now() - self._began

    def samples(self, problems: Sequence[Problem], kept: Iterable[Sample]) -> Iterator[list[Sample]]:
        waiting = self._groups(problems, kept)
        while waiting or self._running:
            # one more than there is room for: the engine begins it as soon as rows are free
            while waiting and sum(group.n_rows for group in self._running) <= self._how.batch:
                self._begin(waiting.popleft())
            has_worked = self._engine.step() if self._is_in_engine() else True
            has_news = bool(self._events)
            while self._events:
                self._hear(*self._events.popleft())
            if not (has_worked or has_news):
                raise TilthError("the engine does nothing with the requests that it has", fix="give it more memory")
            for group in [group for group in self._running if group.has_ended]:
                self._running.remove(group)
                yield self._finished(group)

    def _is_in_engine(self) -> bool:
        return any(not group.has_ended for group in self._running)

    def _groups(self, problems: Sequence[Problem], kept: Iterable[Sample]) -> deque[_Group]:
        """All that is to be asked, a request of each problem before the second of any."""
        how = self._how
        votes = {each.id: _Vote(each, canonical(each.answer), how.n) for each in problems}
        done = set()
        for sample in kept:
            done.add((sample.problem, sample.branch))
            self._count(votes[sample.problem], sample)
        firsts = range(0, 1 if how.is_greedy else how.n, how.width)
        return deque(
            _Group(vote, first, min(how.width, how.n - first))
            for first in firsts
            for vote in votes.values()
            if (vote.problem.id, first) not in done
        )

    def _begin(self, group: _Group) -> None:
        how, problem = self._how, group.vote.problem
        group.started, group.ids = self.seconds, [[] for _ in range(group.n)]
        self._running.append(group)
        if group.vote.is_decided:
            self._give_up(group, FinishReason.CANCELLED.value)
            return
        request = Request(
            prompt_ids=self._coder.encode(self._prompting.text(problem.question)),
            max_tokens=how.max_tokens,
            n=group.n,
            sampling=how.sampling,
            stopping=self._stopping,
            seed=seed_of(how.seed, problem.id) + group.first,
            uses_cache=how.uses_cache,
        )
        try:
            group.number = self._engine.submit(request, partial(self._leave, group))
        except QueueFullError as error:
            self._give_up(group, FinishReason.ERROR.value, error.what)
        except UserError as error:
            self._give_up(group, REFUSED, error.what)

    def _leave(self, group: _Group, event: Event) -> None:
        self._events.append((group, event))

    def _give_up(self, group: _Group, reason: str, text: str = "") -> None:
        for branch in range(group.n):
            self._end(group, branch, reason, text)
        group.has_ended = True

    def _hear(self, group: _Group, event: Event) -> None:
        if isinstance(event, NewToken):
            ids = group.ids[event.branch]
            ids.append(event.token_id)
            if group.number is not None and self._coder.has_stopped(ids):
                self._engine.cancel(group.number, event.branch, is_done=True)
        elif isinstance(event, BranchFinished):
            text = event.message if event.reason is FinishReason.ERROR else self._coder.decode(group.ids[event.branch])
            self._end(group, event.branch, event.reason.value, text)
        elif isinstance(event, RequestFinished):
            group.has_ended = True

    def _end(self, group: _Group, branch: int, reason: str, text: str) -> None:
        """A sample has ended: read its answer, count it, and give up what this decides."""
        ids = group.ids[branch]
        is_cut = reason == FinishReason.LENGTH.value and not (ids and self._coder.has_stopped(ids))
        said = extract(text, is_cut) if reason in (FinishReason.STOP.value, FinishReason.LENGTH.value) else None
        answer = None if said is None else canonical(said)
        sample = Sample(
            problem=group.vote.problem.id,
            branch=group.first + branch,
            text=text,
            answer=answer,
            is_correct=answer is not None and answer == group.vote.reference,
            n_tokens=len(ids),
            finish_reason=reason,
            started=group.started,
            finished=self.seconds,
        )
        group.samples[branch] = sample
        self._count(group.vote, sample)
        if group.vote.is_decided:
            for each in self._running:
                if each.vote is group.vote and each.number is not None:
                    self._engine.cancel(each.number)

    def _count(self, vote: _Vote, sample: Sample) -> None:
        # what failed is asked again by whoever draws the rest, and may vote then
        vote.n_left -= sample.finish_reason != FinishReason.ERROR.value
        if sample.answer is not None:
            vote.counts[sample.answer] += 1
        vote.is_decided = self._how.stops_when_decided and is_decided(vote.counts, vote.n_left)

    def _finished(self, group: _Group) -> list[Sample]:
        """The samples of a request by branch, scored, and with their duplicates."""
        samples = [group.samples[branch] for branch in range(group.n)]
        if self._scorer is not None:
            samples = self._scored(group.vote.problem, samples, self._scorer)
        if self._how.is_greedy and samples[0].is_complete:
            copies = (replace(samples[0], branch=i, n_tokens=0, finish_reason=DUPLICATE) for i in range(1, self._how.n))
            return [*samples, *copies]
        if self._how.is_greedy:
            return [replace(samples[0], branch=i, n_tokens=samples[0].n_tokens if i == 0 else 0) for i in range(self._how.n)]
        return samples

    def _scored(self, problem: Problem, samples: list[Sample], scorer: Scorer) -> list[Sample]:
        """Each different text is scored once; none of them could be chosen before."""
        texts = list(dict.fromkeys(sample.text for sample in samples if sample.is_complete))
        if not texts:
            return samples
        scores = dict(zip(texts, scorer(problem.question, texts), strict=True))
        finished = self.seconds
        return [
            replace(sample, score=float(scores[sample.text]), finished=finished) if sample.is_complete else sample
            for sample in samples
        ]
