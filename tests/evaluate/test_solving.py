"""Solving: the same samples whatever shares a batch with what; votes, duplicates, failures; seconds that leave nothing out."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tilth.errors import TilthError, UserError
from tilth.evaluate.engines import MeasuredEngine, longest_prompt, make_engine
from tilth.evaluate.problems import Problem
from tilth.evaluate.prompting import Coder, Prompting, Shot
from tilth.evaluate.samples import Sample, arranged
from tilth.evaluate.solving import DUPLICATE, Solving, seed_of, solve
from tilth.evaluate.votes import majority
from tilth.inference.engine.requests import BranchFinished, FinishReason, MissReason, NewToken, OnEvent, Request, RequestFinished
from tilth.inference.sampling import Sampling
from tilth.models.decoder import Decoder
from tilth.tokenize.bpe import SEPARATOR, Tokenizer, train_bpe

PROBLEMS = [Problem(f"p{i}", f"{i} + {i}", str(2 * i)) for i in range(6)]
GREEDY = Sampling()


@pytest.fixture(autouse=True)
def _repeatable(one_thread: None, fixed_seed: None) -> None:
    pass


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer(train_bpe(["Question: 1 + 2\nAnswer: #### 3\n" * 3], 270), SEPARATOR)


@pytest.fixture(scope="module")
def coder(tokenizer: Tokenizer) -> Coder:
    return Coder(tokenizer, (tokenizer.separator_id,), (tokenizer.separator_id,))


class Clock:
    """A second passes with each look, so whatever is looked at later has a later second."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        self.seconds += 0.001
        return self.seconds


@dataclass
class Script:
    """An engine that says what it is told: says(seed) gives the text of the branch that draws with it; a token an iteration."""

    coder: Coder
    says: Callable[[int], str | None]  # None: the engine fails on it
    clock: Clock
    room: int = 1000
    most_rows: int = 0  # handed in and not ended
    seconds_a_step: float = 1.0
    requests: list[Request] = field(default_factory=list)
    _rows: dict[tuple[int, int], deque[int]] = field(default_factory=dict)
    _said: Counter[tuple[int, int]] = field(default_factory=Counter)
    _listeners: dict[int, OnEvent] = field(default_factory=dict)
    _given_up: set[tuple[int, int | None, bool]] = field(default_factory=set)

    def submit(self, request: Request, on_event: OnEvent) -> int:
        number = len(self.requests)
        self.requests.append(request)
        self._listeners[number] = on_event
        for branch in range(request.n):
            text = self.says(request.seed + branch)
            ids = [-1] if text is None else [*self.coder.tokenizer.encode(text).tolist(), *self.coder.end_ids]
            self._rows[number, branch] = deque(ids)
        return number

    def cancel(self, request_id: int, branch: int | None = None, *, is_done: bool = False) -> None:
        self._given_up.add((request_id, branch, is_done))

    def step(self) -> bool:
        self.clock.seconds += self.seconds_a_step
        for number, branch, is_done in self._given_up:
            for row in [row for row in self._rows if row[0] == number and branch in (None, row[1])]:
                self._end(row, FinishReason.STOP if is_done else FinishReason.CANCELLED)
        self._given_up.clear()
        self.most_rows = max(self.most_rows, len(self._rows))
        has_worked = bool(self._rows)
        for row in list(self._rows)[: self.room]:
            token = self._rows[row].popleft()
            if token == -1:
                self._end(row, FinishReason.ERROR, "ArithmeticError: none")
            elif token in self.coder.end_ids:
                self._end(row, FinishReason.STOP)
            else:
                self._listeners[row[0]](NewToken(row[1], token))
                self._said[row] += 1
                if self._said[row] == self.requests[row[0]].max_tokens:
                    self._end(row, FinishReason.LENGTH)
        return has_worked

    def _end(self, row: tuple[int, int], reason: FinishReason, message: str = "") -> None:
        del self._rows[row]
        listener = self._listeners[row[0]]
        listener(BranchFinished(row[1], reason, message))
        if not any(other[0] == row[0] for other in self._rows):
            listener(RequestFinished(0, 0, 0, MissReason.OFF))


def says(answers: dict[str, Sequence[str | None]], seed: int = 0) -> Callable[[int], str | None]:
    """What each branch of each problem says; the longer, the later it ends."""
    texts = {seed_of(seed, problem) + i: text for problem, row in answers.items() for i, text in enumerate(row)}
    return texts.__getitem__


def drawn(script: Script, problems: Sequence[Problem], how: Solving, **more: Any) -> list[Sample]:
    found = solve(script, script.coder, Prompting(), problems, how, now=script.clock, **more)
    return [sample for samples in found for sample in samples]


def by_problem(samples: Sequence[Sample]) -> dict[tuple[str, int], tuple[str, str | None, int, str]]:
    return {(each.problem, each.branch): (each.text, each.answer, each.n_tokens, each.finish_reason) for each in samples}


# -- the engine itself --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Decoder], tokenizer: Tokenizer) -> Decoder:
    import torch

    torch.manual_seed(3)
    return make_model("MMA", vocab_size=tokenizer.vocab_size).eval()


def sampled(model: Decoder, coder: Coder, problems: Sequence[Problem], how: Solving) -> list[Sample]:
    engine = make_engine(model, how, longest_prompt(coder, [Prompting().text(one.question) for one in problems]))
    return [sample for samples in solve(engine, coder, Prompting(), problems, how) for sample in samples]


def test_samples_depend_neither_on_the_batch_nor_on_the_order(model: Decoder, coder: Coder) -> None:
    how = {"n": 5, "max_tokens": 6, "sampling": Sampling(temperature=1.0), "seed": 5}
    whole = by_problem(sampled(model, coder, PROBLEMS, Solving(batch=64, **how)))
    assert len(whole) == 30
    assert len({text for text, *_ in whole.values()}) > 25, "chances differ by problem and by branch"
    assert by_problem(sampled(model, coder, PROBLEMS, Solving(batch=4, **how))) == whole
    assert by_problem(sampled(model, coder, PROBLEMS, Solving(batch=7, at_once=2, **how))) == whole
    shuffled = random.Random(1).sample(PROBLEMS, len(PROBLEMS))
    assert by_problem(sampled(model, coder, shuffled, Solving(batch=64, **how))) == whole
    assert by_problem(sampled(model, coder, PROBLEMS[:2], Solving(batch=64, **how))).items() <= whole.items()
    assert by_problem(sampled(model, coder, PROBLEMS, Solving(batch=64, **{**how, "seed": 6}))) != whole


def test_more_samples_begin_with_the_fewer(model: Decoder, coder: Coder) -> None:
    few, many = (by_problem(sampled(model, coder, PROBLEMS[:2], Solving(n=n, batch=8, max_tokens=8))) for n in (2, 5))
    assert few.items() <= many.items()


def test_a_greedy_sample_is_drawn_once(model: Decoder, coder: Coder) -> None:
    how = Solving(n=4, batch=8, max_tokens=8, sampling=GREEDY)
    engine = make_engine(model, how, 60)
    samples = [each for group in solve(engine, coder, Prompting(), PROBLEMS[:3], how) for each in group]
    assert len(samples) == 12
    for problem in PROBLEMS[:3]:
        first, *others = (each for each in samples if each.problem == problem.id)
        assert first.finish_reason != DUPLICATE
        assert first.n_tokens > 0
        assert [(each.text, each.answer, each.is_correct, each.finished) for each in others] == [
            (first.text, first.answer, first.is_correct, first.finished)
        ] * 3
        assert {(each.finish_reason, each.n_tokens) for each in others} == {(DUPLICATE, 0)}
    assert engine._engine.stats().n_new_tokens[None] == sum(each.n_tokens for each in samples)


@pytest.mark.parametrize("layers", ["MMA", "MM", "AA"])
def test_the_room_is_enough_and_no_more_than_was_promised(make_model: Callable[..., Decoder], coder: Coder, layers: str) -> None:
    """Nothing is preempted, and the most bytes in use stay within what was computed."""
    model = make_model(layers, vocab_size=coder.tokenizer.vocab_size)
    for n, batch in ((6, 6), (2, 5), (5, 2)):
        how = Solving(n=n, batch=batch, max_tokens=10, sampling=Sampling(temperature=1.5))
        engine = make_engine(model, how, 30)
        engine.warm_up(coder.encode("1"), how)
        assert engine.most_bytes == 0
        samples = [each for group in solve(engine, coder, Prompting(), PROBLEMS[:3], how) for each in group]
        assert len(samples) == 3 * n
        stats = engine._engine.stats()
        assert stats.n_preempted == 0
        assert 0 < engine.most_bytes <= engine.limits.capacity_bytes
        assert engine.weight_bytes == sum(weight.nbytes for weight in model.parameters())


def test_less_memory_than_one_request_needs_fails_by_name_and_loses_nobody_else(model: Decoder, coder: Coder) -> None:
    how = Solving(n=2, batch=2, max_tokens=8)
    long = Problem("long", "1 + " * 200, "1")
    engine = make_engine(model, how, 60)
    samples = [each for group in solve(engine, coder, Prompting(), [PROBLEMS[0], long, PROBLEMS[1]], how) for each in group]
    failed = [each for each in samples if each.problem == "long"]
    assert [(each.finish_reason, each.n_tokens, each.is_complete) for each in failed] == [("refused", 0, False)] * 2
    assert "tokens" in failed[0].text
    assert all(each.is_complete for each in samples if each.problem != "long")


def test_an_engine_that_stalls_is_told_of(coder: Coder) -> None:
    class Idle(Script):
        def step(self) -> bool:
            return False

    with pytest.raises(TilthError, match="does nothing"):
        drawn(Idle(coder, lambda seed: "1", Clock()), PROBLEMS, Solving(n=2))


# -- votes --------------------------------------------------------------------------------------------------------------


def test_a_decided_majority_is_the_full_one_and_what_is_cancelled_is_neither_right_nor_wrong(coder: Coder) -> None:
    chance = random.Random(4)
    problems = [Problem(f"q{i}", f"{i} + 1", "2") for i in range(40)]
    texts = {
        problem.id: [f"{'so ' * chance.randrange(9)}#### {chance.choice(['2', '2', '3', '4', 'none?'])}" for _ in range(9)]
        for problem in problems
    }
    for at_once in (9, 4, 1):
        full = drawn(Script(coder, says(texts), Clock()), problems, Solving(n=9, batch=30, at_once=at_once))
        less = drawn(
            Script(coder, says(texts), Clock()), problems, Solving(n=9, batch=30, at_once=at_once, stops_when_decided=True)
        )
        assert {(each.problem, each.branch) for each in less} == {(each.problem, each.branch) for each in full}
        cancelled = [each for each in less if each.finish_reason == "cancelled"]
        assert len(cancelled) > 20
        assert {(each.answer, each.is_correct, each.is_complete) for each in cancelled} == {(None, False, False)}
        assert sum(each.n_tokens for each in less) < sum(each.n_tokens for each in full)
        for problem in problems:
            all_of, some = ([each for each in rows if each.problem == problem.id] for rows in (full, less))
            assert majority([each for each in some if each.is_complete]) == majority(all_of)
        by_place = by_problem(full)
        assert all(
            by_problem([each])[each.problem, each.branch] == by_place[each.problem, each.branch]
            for each in less
            if each.is_complete
        )


def test_votes_of_samples_that_were_kept_count(coder: Coder) -> None:
    texts = {"p1": ["#### 2"] * 6}
    how = Solving(n=6, batch=2, stops_when_decided=True)
    script = Script(coder, says(texts), Clock())
    found = solve(script, coder, Prompting(), PROBLEMS[1:2], how, now=script.clock)
    kept = [*next(found), *next(found)]
    again = Script(coder, says(texts), Clock())
    rest = drawn(again, PROBLEMS[1:2], how, kept=kept)
    assert [(each.branch, each.finish_reason) for each in rest] == [(4, "cancelled"), (5, "cancelled")]
    assert not again.requests


def test_answers_that_cannot_be_read_do_not_vote_and_are_wrong(coder: Coder) -> None:
    texts = {"p1": ["#### 2", "two", "####", "#### (1 + ", "\\boxed{2}", "#### 3"]}
    samples = drawn(Script(coder, says(texts), Clock()), PROBLEMS[1:2], Solving(n=6))
    assert [each.answer for each in samples] == ["2", None, None, None, "2", "3"]
    assert [each.is_correct for each in samples] == [True, False, False, False, True, False]
    assert all(each.is_complete for each in samples)


@pytest.mark.parametrize(
    ("text", "said", "wanted"),
    [
        ("It is\n#### 15", "It is\n#### 1", None),  # 15 was coming
        ("#### 15\nIt is 15", "#### 15\nIt is 1", "15"),
        ("#### 7\nNo.\n#### 15", "#### 7\nNo.\n#### 1", "7"),
        ("\\boxed{15}.", "\\boxed{15}", "15"),
        ("#### 15\nQuestion: 2", "#### 15", "15"),  # the last token that there was room for completes the stop string
    ],
)
def test_a_sample_that_is_cut_within_its_answer_has_none(coder: Coder, text: str, said: str, wanted: str | None) -> None:
    n_tokens = len(coder.tokenizer.encode(said if "Question" not in text else f"{said}\nQuestion:"))
    (sample,) = drawn(Script(coder, says({"p1": [text]}), Clock()), PROBLEMS[1:2], Solving(n=1, max_tokens=n_tokens))
    assert (sample.text, sample.finish_reason, sample.answer) == (said, "length", wanted)


# -- what goes wrong, and what ends early -------------------------------------------------------------------------------


def test_one_that_fails_loses_nobody_else(coder: Coder) -> None:
    texts: dict[str, Sequence[str | None]] = {one.id: ["#### 4", None, "#### 5"] for one in PROBLEMS}
    samples = drawn(Script(coder, says(texts), Clock()), PROBLEMS, Solving(n=3, batch=3))
    assert len(samples) == 18
    assert [each.finish_reason for each in samples] == ["stop", "error", "stop"] * 6
    failed = [each for each in samples if each.finish_reason == "error"]
    assert {each.text for each in failed} == {"ArithmeticError: none"}
    table = arranged(samples, [one.id for one in PROBLEMS])
    assert table.n_complete_P.tolist() == [2] * 6


def test_what_failed_may_yet_vote(coder: Coder) -> None:
    """Two votes to none with one to come are decided, unless the one that failed counts as well: it may draw level."""
    texts: dict[str, Sequence[str | None]] = {"p1": ["#### 4", None, "#### 4", "#### 5 and a long way to it"]}
    samples = drawn(Script(coder, says(texts), Clock()), PROBLEMS[1:2], Solving(n=4, stops_when_decided=True))
    assert [each.finish_reason for each in samples] == ["stop", "error", "stop", "stop"]


def test_a_stop_string_ends_a_sample_and_is_left_out(coder: Coder) -> None:
    texts = {"p1": ["#### 2\nQuestion: what else?", "#### 2 Question: no", "\nQuestion", "\nQuestion:"]}
    script = Script(coder, says(texts), Clock())
    samples = drawn(script, PROBLEMS[1:2], Solving(n=4))
    assert [each.text for each in samples] == ["#### 2", "#### 2 Question: no", "\nQuestion", ""]
    n_tokens = [
        len(coder.tokenizer.encode(text)) for text in ("#### 2\nQuestion:", "#### 2 Question: no", "\nQuestion", "\nQuestion:")
    ]
    assert [each.n_tokens for each in samples] == n_tokens
    assert {each.finish_reason for each in samples} == {"stop"}


@pytest.mark.parametrize("stop", ["\nQ", "é", "日本", "x y ", ":"])
def test_a_stop_string_is_seen_with_its_last_token_whatever_the_tokens_are(tokenizer: Tokenizer, stop: str) -> None:
    coder = Coder(tokenizer, (), (tokenizer.separator_id,), (stop,))
    chance = random.Random(7)
    for _ in range(60):
        text = "".join(chance.choice(["é", "日", "本", "x", " y", " ", "\n", "Q", ":", stop]) for _ in range(30))
        ids = tokenizer.encode(text).tolist()
        told = next((i for i in range(1, len(ids) + 1) if coder.has_stopped(ids[:i])), None)
        first = next((i for i in range(1, len(ids) + 1) if stop in tokenizer.decode(ids[:i])), None)
        assert told == first


# -- seconds ------------------------------------------------------------------------------------------------------------


def test_seconds_count_waiting_scoring_and_the_tail(coder: Coder) -> None:
    texts = {one.id: ["a #### 4", "so so so so so #### 4"] for one in PROBLEMS[:3]}
    clock = Clock()

    def scorer(question: str, texts: Sequence[str]) -> list[float]:
        clock.seconds += 50
        return [0.5] * len(texts)

    alone = drawn(Script(coder, says(texts), Clock()), PROBLEMS[:3], Solving(n=2, batch=2))
    scored = drawn(Script(coder, says(texts), clock), PROBLEMS[:3], Solving(n=2, batch=2), scorer=scorer)
    n_steps = [[len(coder.tokenizer.encode(text)) + 1 for text in texts[one.id]] for one in PROBLEMS[:3]]
    assert [int(each.finished) for each in alone[:2]] == n_steps[0]
    assert alone[1].finished > alone[0].finished
    # the two samples of a request can be chosen once both are scored, 50 seconds after the second ended
    assert scored[0].finished == scored[1].finished == pytest.approx(alone[1].finished + 50, abs=0.1)
    assert scored[-1].finished > 150
    assert all(each.started <= each.finished for each in scored)
    assert scored[-1].started < scored[2].finished, "the next request waits in the engine while one is drawn"


def test_seconds_of_an_earlier_attempt_are_kept(coder: Coder) -> None:
    texts = {one.id: ["#### 4"] for one in PROBLEMS[:2]}
    first, second = (
        drawn(Script(coder, says(texts), Clock()), PROBLEMS[:2], Solving(n=1), seconds_before=t) for t in (0.0, 70.0)
    )
    assert [each.finished - 70 for each in second] == pytest.approx([each.finished for each in first])


def test_what_the_caller_does_meanwhile_is_counted(coder: Coder) -> None:
    texts = {one.id: ["#### 4"] for one in PROBLEMS[:2]}
    script = Script(coder, says(texts), Clock(), room=1)

    def slowly() -> Iterator[Sample]:
        for samples in solve(script, coder, Prompting(), PROBLEMS[:2], Solving(n=1, batch=1), now=script.clock):
            yield from samples
            script.clock.seconds += 1000

    first, second = slowly()
    assert second.finished > 1000 > first.finished


# -- bounds and scores --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "batch", "at_once"), [(5, 4, None), (3, 10, None), (8, 8, 3), (1, 1, None), (16, 5, 2)])
def test_never_more_rows_than_the_batch_and_its_next_request(coder: Coder, n: int, batch: int, at_once: int | None) -> None:
    chance = random.Random(2)
    texts = {one.id: ["so " * chance.randrange(12) + "#### 4" for _ in range(n)] for one in PROBLEMS}
    how = Solving(n=n, batch=batch, at_once=at_once)
    script = Script(coder, says(texts), Clock())
    samples = drawn(script, PROBLEMS, how)
    assert len({(each.problem, each.branch) for each in samples}) == len(samples) == 6 * n
    assert max(request.n for request in script.requests) <= batch
    assert script.most_rows <= batch + how.width
    if at_once is None and n <= batch:
        assert [request.n for request in script.requests] == [n] * 6, "one request a problem: its prompt is read once"
    assert len({request.prompt_ids for request in script.requests[:6]}) == 6, "each problem is asked before any is asked again"


def test_equal_texts_are_scored_once(coder: Coder) -> None:
    asked: list[tuple[str, list[str]]] = []

    def scorer(question: str, texts: Sequence[str]) -> list[float]:
        asked.append((question, list(texts)))
        return [len(text) / 100 for text in texts]

    texts: dict[str, Sequence[str | None]] = {"p1": ["#### 2", "so #### 2", "#### 2", None]}
    samples = drawn(Script(coder, says(texts), Clock()), PROBLEMS[1:2], Solving(n=4), scorer=scorer)
    assert asked == [("1 + 1", ["#### 2", "so #### 2"])]
    assert [each.score for each in samples] == [0.06, 0.09, 0.06, None]


def test_prompts_show_examples_and_fill_a_template() -> None:
    shots = (Shot("1 + 2", "1 + 2 = 3\n#### 3"),)
    assert Prompting(None, shots).text("4 + 5") == ("Question: 1 + 2\nAnswer: 1 + 2 = 3\n#### 3\n\nQuestion: 4 + 5\nAnswer:")
    assert Prompting("<q>{question}</q>").text("{question}") == "<q>{question}</q>"
    for template in ("no place", "{question} {question}"):
        with pytest.raises(UserError, match="places for the question"):
            Prompting(template)


@pytest.mark.parametrize("wrong", [{"n": 0}, {"batch": 0}, {"max_tokens": 0}, {"at_once": 0}])
def test_numbers_below_one_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(UserError, match="is 0"):
        Solving(**wrong)


def test_the_engine_that_measures_is_one() -> None:
    assert {"submit", "cancel", "step"} <= set(dir(MeasuredEngine))
