"""The engine: requests come from any thread, one thread takes all of them on together, a token at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from tilth.inference.cache.policies.policy import Policy
from tilth.inference.cache.quantized import Exact
from tilth.inference.devices import current_device
from tilth.inference.engine.batch import DecodeBatch
from tilth.inference.engine.choosing import Chosen, choose
from tilth.inference.engine.counts import Counts
from tilth.inference.engine.desk import Desk, check_request
from tilth.inference.engine.fairness import FairQueue
from tilth.inference.engine.jobs import Branch, Job, Reading, message_of
from tilth.inference.engine.limits import EngineLimits, EngineStats
from tilth.inference.engine.memory import Memory
from tilth.inference.engine.reading import next_end, read_chunk
from tilth.inference.engine.requests import (
    BranchFinished,
    Event,
    FinishReason,
    MissReason,
    NewToken,
    OnEvent,
    Request,
    RequestFinished,
)
from tilth.inference.engine.resumable import form_for, why_not_resumable
from tilth.inference.engine.tenancy import Bank, Tenancy, root
from tilth.inference.tenants.weights import TenantWeights
from tilth.kernels.products import rows_apart
from tilth.models.decoder import Decoder

IDLE_SECONDS = 0.2
"""How long an idle engine waits before it looks whether it should stop; a request wakes it at once."""
NOT_FINITE = "the model's logits are not finite"
_LOG = logging.getLogger("tilth.engine")


class Engine:
    """Continuous batching over one model: an iteration takes every branch on by a token, then reads about one chunk of prompts.

    What a request gets does not depend on what else runs: chunks end where they would end alone, each branch draws with its
    own chances, and on the CPU (one thread, fp32 or bf16, widths that are multiples of 32, layers A, M and S) even the bits of
    its logits are the same; otherwise they are to rounding. Where the cache cuts a text, or gives back what was cut elsewhere,
    they agree to 1e-5 of the largest logit in fp32. base_digest tells the base's weights from others; policy orders the
    cache's victims.
    checkpoints_in_8_bits: states at rest take half or less, at an error that is measured and refused above 2 % of the largest
    logit (`stats().notes`). A model whose logits change when it is read in pieces is served without a cache
    (`stats().off_reason`). Raises RecipeError for a model that keeps no states.
    """

    def __init__(
        self,
        model: Decoder,
        *,
        limits: EngineLimits | None = None,
        tenants: Bank | None = None,
        base_digest: str = "",
        uses_cache: bool = True,
        policy: Policy | None = None,
        checkpoints_in_8_bits: bool = False,
    ) -> None:
        self.limits = limits or EngineLimits()
        self._model, self._base_digest = model.eval(), base_digest
        form, self._note = form_for(model, checkpoints_in_8_bits)
        self._counts = Counts()
        self._memory = Memory(model, self.limits.capacity_bytes, policy, form, self._note_fault)
        self._batch = DecodeBatch(model, self._memory.pool)
        self._queue = FairQueue(self.limits.chunk_tokens)
        self._desk = Desk(self.limits)
        self._tenancy = Tenancy(tenants, self._desk.changed)
        self._jobs: dict[int, Job] = {}
        self._pass = threading.Lock()
        self._n_visitors = 0
        self._off_reason = why_not_resumable(model) if uses_cache else "it was not asked for"
        if uses_cache and self._off_reason:
            _LOG.warning("the prefix cache is off: %s", self._off_reason)
        if self._note:
            _LOG.log(logging.WARNING if isinstance(form, Exact) else logging.INFO, self._note)

    def submit(self, request: Request, on_event: OnEvent) -> int:
        """Queue a request, from any thread; returns its number. on_event is called in the engine's thread.

        Raises QueueFullError, UnknownTenantError, TooLongError, DrainingError, and UserError for what is wrong in it.
        """
        most_bytes = self._memory.most_bytes(len(request.prompt_ids), request.max_tokens, request.n)
        check_request(request, self._model, self.limits, most_bytes)
        slot, owner = self._tenancy.enter(request.tenant)
        try:
            states_of = root(self._base_digest, owner, self._model.embedding.weight.dtype, request.salt)
            is_cached = request.uses_cache and not self._off_reason
            return self._desk.leave(Job(0, request, on_event, states_of if is_cached else None, slot))
        except Exception:
            self._tenancy.leave(request.tenant)
            raise

    def cancel(self, request_id: int, branch: int | None = None, *, is_done: bool = False) -> None:
        """End a request, or one branch of it, from any thread: the next iteration frees its state and says CANCELLED.

        is_done: it has said all that was wanted, so it says STOP, and the cache keeps it. One that has ended stays so.
        """
        self._desk.give_up(request_id, branch, FinishReason.STOP if is_done else FinishReason.CANCELLED)

    def drain(self) -> None:
        """Take nothing new, and finish what is there."""
        self._desk.is_draining = True

    def load_tenant(self, name: str, weights: TenantWeights) -> None:
        """Load a fine-tune between two iterations, from any thread. Raises DeltaError, and UserError without a bank."""
        with self._between_steps():
            self._tenancy.load(name, weights)

    def unload_tenant(self, name: str, timeout_seconds: float = 30.0) -> None:
        """Take no more requests for a fine-tune, wait for those there are, and drop it; from any thread but the engine's.

        Raises UnknownTenantError, and UserError where some are still running after the time: then it stays.
        """
        self._tenancy.close(name, timeout_seconds)
        with self._between_steps():
            self._tenancy.unload(name)

    def clear_cache(self) -> None:
        """Drop all that no running request uses, from any thread."""
        with self._between_steps():
            self._memory.cache.clear()

    def run(self, stop: threading.Event) -> None:
        """The engine's thread: iterate, or wait for a request, until stop is set; what then is unfinished is cancelled."""
        with current_device(self._model.embedding.weight.device):
            self._iterate(stop)
        self._end_all(FinishReason.CANCELLED, "the engine has stopped")

    def _iterate(self, stop: threading.Event) -> None:
        while not stop.is_set():
            with self._desk.changed:
                self._desk.changed.wait_for(lambda: not self._n_visitors, IDLE_SECONDS)
            try:
                has_worked = self.step()
            except Exception as error:  # none is known; what runs ends, and what comes is served
                self._note_fault(error)
                self._end_all(FinishReason.ERROR, message_of(error))
                has_worked = True
            if not has_worked:
                with self._desk.changed:
                    self._desk.changed.wait_for(lambda: self._desk.has_news or stop.is_set(), IDLE_SECONDS)

    def step(self) -> bool:
        """One iteration; False when there was nothing to do."""
        with self._pass, torch.inference_mode(), rows_apart():
            self._take_in()
            has_decoded = self._decode()
            has_read = self._read()
            self._counts.n_reading = sum(reading.states is not None for reading in self._queue)
            return has_decoded or has_read

    def stats(self) -> EngineStats:
        """How things stand, from any thread."""
        found = self._counts.stats(self._memory.cache, self._desk.n_waiting, len(self._batch.branches))
        return replace(found, off_reason=self._off_reason, notes=(self._note,) if self._note else ())

    @contextmanager
    def _between_steps(self) -> Iterator[None]:
        """While no iteration runs; the engine's thread lets those who wait for this go first."""
        with self._desk.changed:
            self._n_visitors += 1
        try:
            with self._pass:
                yield
        finally:
            with self._desk.changed:
                self._n_visitors -= 1
                self._desk.changed.notify_all()

    def _take_in(self) -> None:
        arrived, given_up = self._desk.collect()
        for job in arrived:
            self._jobs[job.id] = job
            self._queue.push(Reading(list(job.branches), job.branches[0].tokens()))
        for job_id, number, reason in given_up:
            for branch in self._jobs[job_id].branches if job_id in self._jobs else ():
                if number in (None, branch.number) and not branch.has_ended:
                    self._end(branch, reason, "cancelled" if reason is FinishReason.CANCELLED else "")
        now = time.monotonic()
        for job in [job for job in self._jobs.values() if job.request.deadline is not None and job.request.deadline < now]:
            self._end_job(job, FinishReason.CANCELLED, "the deadline has passed")

    def _decode(self) -> bool:
        """Take every branch on by one token."""
        for branch in sorted(self._batch.branches, key=lambda branch: branch.age):
            if branch.row >= 0:  # it may have been preempted for an older one
                self._provide(branch)
        branches = list(self._batch.branches)
        if not branches:
            return False
        if any(branch.is_suspect for branch in branches):
            for branch in branches:
                self._step_apart(branch)
            return True
        try:
            with self._tenancy.rows(branches):
                chosen = choose(self._batch.step(), branches)
        except Exception as error:
            self._note_fault(error)
            for branch in branches:
                branch.is_suspect = True
                self._set_back(branch, keeps=False)
            return True
        self._say(branches, chosen)
        return True

    def _step_apart(self, branch: Branch) -> None:
        """A pass failed in which this branch was: alone it harms nobody else."""
        try:
            with self._tenancy.rows([branch]):
                chosen = choose(self._batch.step_apart(branch), [branch])
        except Exception as error:
            self._note_fault(error)
            self._end(branch, FinishReason.ERROR, message_of(error))
            return
        branch.is_suspect = False
        self._say([branch], chosen)

    def _provide(self, branch: Branch) -> None:
        """See that there is a slot for the branch's next token: the youngest are preempted until there is."""
        assert branch.prefix is not None
        if branch.n_read < len(branch.prefix.slots) + len(branch.tail):
            return
        try:
            while (slots := self._memory.extend(branch)) is None:
                if self._preempt_youngest() is branch:
                    return
        except Exception as error:
            self._note_fault(error)
            self._end(branch, FinishReason.ERROR, message_of(error))
            return
        self._batch.extend(branch, slots)

    def _preempt_youngest(self) -> Branch | Reading:
        begun = [reading for reading in self._queue if reading.states is not None]
        running: list[Branch | Reading] = [*self._batch.branches, *begun]
        youngest = max(running, key=lambda each: each.age)
        self._counts.n_preempted += 1
        if isinstance(youngest, Reading):
            self._memory.drop_reading(youngest, keeps=True)
        else:
            self._set_back(youngest)
        return youngest

    def _set_back(self, branch: Branch, keeps: bool = True) -> None:
        """Take a branch out of the batch, to be read again with what it has said; keeps: if the cache has not lost it by then."""
        self._release(branch, keeps)
        self._queue.push(Reading([branch], branch.tokens()), is_first=True)

    def _read(self) -> bool:
        """Read chunks while they fit into the tokens of one; each ends where it would end alone."""
        n_left, has_read = self.limits.chunk_tokens, False
        while (reading := self._queue.next(self._begin)) is not None:
            end = next_end(reading, self.limits.chunk_tokens)
            n_tokens = end - reading.n_read
            if has_read and n_tokens > n_left:
                break
            n_left, has_read = n_left - n_tokens, True
            self._queue.charge(reading.job.request.tenant, n_tokens)
            self._read_chunk(reading, end)
        return has_read

    def _begin(self, reading: Reading) -> bool:
        n_rows = len(self._batch.branches) + sum(len(each.branches) for each in self._queue if each.states is not None)
        if n_rows + len(reading.branches) > self.limits.max_rows:
            return False
        try:
            has_begun = self._memory.begin(reading, reading.job.root)
        except Exception as error:
            self._fail(reading, error)
            return False
        if has_begun and not reading.job.has_begun:
            self._note_begun(reading)
        return has_begun

    def _note_begun(self, reading: Reading) -> None:
        job, match = reading.job, reading.prefix.match if reading.prefix else None
        job.has_begun, job.n_cached_tokens = True, reading.n_read
        job.queue_seconds = time.monotonic() - job.came
        job.miss_reason = match.miss_reason if match else MissReason.OFF
        self._desk.note_left()
        self._counts.begun(job)

    def _read_chunk(self, reading: Reading, end: int) -> None:
        branches = list(reading.branches)
        try:
            with self._tenancy.rows(branches[:1]):
                logits_1V = read_chunk(self._model, self._memory.pool, reading, end)
            if reading.n_read == reading.cut:
                self._memory.keep_cut(reading)
            if logits_1V is None:
                return
            chosen = choose(logits_1V.expand(len(branches), -1), branches)
            if any(choice.token_id is None for choice in chosen):  # before the cache gets what made them
                raise ArithmeticError(NOT_FINITE)
            states = self._memory.share(reading)
        except Exception as error:
            self._fail(reading, error)
            return
        self._queue.remove(reading)
        for branch, choice in zip(branches, chosen, strict=True):
            try:
                self._batch.join(branch, states)
            except Exception as error:
                self._note_fault(error)
                self._end(branch, FinishReason.ERROR, message_of(error))
            else:
                self._say([branch], [choice])

    def _fail(self, reading: Reading, error: Exception) -> None:
        self._note_fault(error)
        for branch in list(reading.branches):
            self._end(branch, FinishReason.ERROR, message_of(error))

    def _say(self, branches: Iterable[Branch], chosen: Iterable[Chosen]) -> None:
        for branch, choice in zip(branches, chosen, strict=True):
            request = branch.job.request
            if choice.token_id is None:
                self._end(branch, FinishReason.ERROR, NOT_FINITE)
            elif choice.token_id in request.stopping.stop_ids:
                self._end(branch, FinishReason.STOP)
            else:
                branch.ids.append(choice.token_id)
                self._queue.charge(request.tenant, 1)
                self._counts.new[request.tenant] += 1
                self._tell(branch.job, NewToken(branch.number, choice.token_id, choice.log_p, choice.likeliest))
                if request.stopping.goes_in_circles(branch.ids):
                    self._end(branch, FinishReason.STOP)
                elif len(branch.ids) == request.max_tokens:
                    self._end(branch, FinishReason.LENGTH)

    def _end_all(self, reason: FinishReason, message: str) -> None:
        with self._pass, torch.inference_mode():
            self._take_in()
            for job in tuple(self._jobs.values()):
                self._end_job(job, reason, message)

    def _end_job(self, job: Job, reason: FinishReason, message: str) -> None:
        for branch in job.branches:
            if not branch.has_ended:
                self._end(branch, reason, message)

    def _end(self, branch: Branch, reason: FinishReason, message: str = "") -> None:
        """Free what a branch holds, wherever it is, and say that it has ended; the request with its last one."""
        job = branch.job
        if branch.prefix is None:
            self._leave_reading(branch)
        else:
            self._release(branch, keeps=reason in (FinishReason.STOP, FinishReason.LENGTH))
        branch.has_ended = True
        self._counts.finished[reason.value] += 1
        self._tell(job, BranchFinished(branch.number, reason, message))
        if job.has_ended:
            del self._jobs[job.id]
            self._tenancy.leave(job.request.tenant)
            if not job.has_begun:
                self._desk.note_left()
            n_new = sum(len(each.ids) for each in job.branches)
            n_prompt = len(job.request.prompt_ids)
            self._tell(job, RequestFinished(n_prompt, job.n_cached_tokens, n_new, job.miss_reason, job.queue_seconds))

    def _release(self, branch: Branch, keeps: bool) -> None:
        """Take a branch out of the batch and give back what it holds; keeps: what it has read goes to the cache."""
        states = None
        if branch.row >= 0:
            states = self._batch.states_of(branch) if keeps and branch.job.root is not None else None
            self._batch.leave(branch)
        self._memory.drop(branch, states)

    def _leave_reading(self, branch: Branch) -> None:
        reading = next(each for each in self._queue if branch in each.branches)
        if len(reading.branches) > 1:
            self._memory.drop_branch(reading, branch)
        else:
            self._queue.remove(reading)
            self._memory.drop_reading(reading)

    def _tell(self, job: Job, event: Event) -> None:
        try:
            job.on_event(event)
        except Exception:
            _LOG.exception("the receiver of request %d failed; it is cancelled", job.id)
            self._desk.give_up(job.id)

    def _note_fault(self, error: Exception) -> None:
        self._counts.n_faults += 1
        _LOG.error("a pass failed", exc_info=error)
