"""Calls a function in a child process that the kernel ends when it takes too long, whatever C code it is in.

What it guarantees: a call returns, raises or is ended after `max_seconds` of its own processor time (ITIMER_PROF with
the default action, which no code of the child can hold up), and after `WALL_FACTOR` to twice as many times as long by the
clock even if the child sleeps; with at most `MAX_MEMORY_BYTES` of address space. A child has `LOAD_SECONDS` for its
imports. A crash (segmentation fault, no memory) ends the child, not this process. Works in any thread, and in daemonic
processes, which Dask's workers are. Processor time rather than the clock decides, so that a busy machine rejects no more
than an idle one.

Calls go to a child many at a time, because what costs is not the data but waking the two processes (0.2 ms a call).
Data lies in a file in memory, outcomes in another, written one by one: what was done before a child ended is not lost.
"""

from __future__ import annotations

import atexit
import importlib
import os
import pickle
import resource
import select
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

WALL_FACTOR = 10
MAX_MEMORY_BYTES = 1 << 30
LOAD_SECONDS = 60.0  # to import what the function needs
MIN_SECONDS = 0.05
KEPT_BYTES = 16 << 20  # of the file of data, from one request to the next
HEADER = struct.Struct("<QQ")  # bytes and calls of a request
SIZE = struct.Struct("<Q")
NO_MEMORY = 77  # the exit code that says so


class TooSlowError(Exception):
    """The call took longer than it may."""


class DiedError(Exception):
    """The process of the call ended: a crash in C code, or no memory."""


class Outcome(NamedTuple):
    """What a call returned, or what it raised or was ended for."""

    value: Any
    error: Exception | None = None

    def get(self) -> Any:
        """The value. Raises the error if there is one."""
        if self.error is not None:
            raise self.error
        return self.value


Call = tuple[bytes, tuple[Any, ...]]


def call_limited(function: str, data: bytes, *arguments: Any, max_seconds: float) -> Any:
    """Call `function` ("module:name") with `data` and arguments that can be pickled, and return or raise what it does.

    Raises TooSlowError after `max_seconds` (seconds of processor time, from 0.05 up) and DiedError if the child crashed.
    """
    return calls_limited(function, [(data, arguments)], max_seconds)[0].get()


def calls_limited(function: str, calls: Sequence[Call], max_seconds: float) -> list[Outcome]:
    """Call `function` for each (data, arguments), one after the other, each with its own `max_seconds`.

    A call that is ended (TooSlowError, DiedError in its outcome) takes none of the others with it.
    """
    outcomes: list[Outcome] = []
    n_broken = 0
    while len(outcomes) < len(calls):
        child = _take()
        try:
            done, end = child.ask(function, calls[len(outcomes) :], max_seconds)
        except BrokenPipeError:  # it had ended before it was asked: somebody else's signal
            child.end()
            n_broken += 1
            if n_broken == 2:
                raise DiedError("the child process cannot be kept running") from None
            continue
        except BaseException:
            child.end()
            raise
        n_broken = 0
        outcomes += done
        if end is None:
            _put(child)
        else:
            child.end()
            outcomes.append(Outcome(None, end))
    return outcomes


class _Child:
    """A process that answers one request after the other."""

    def __init__(self) -> None:
        path = os.pathsep.join(part for part in sys.path if part)
        command = [sys.executable, "-P", "-c", "from tilth.corpus.time_limit import serve; serve()"]
        self.owner, self.is_loaded = os.getpid(), False
        self._data, self._answers = _file_in_memory(), _file_in_memory()
        shared = [self._data.fileno(), self._answers.fileno()]
        environment = {**os.environ, "PYTHONPATH": path, "TILTH_SHARED": " ".join(map(str, shared))}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0, pass_fds=shared
        )

    def ask(self, function: str, calls: Sequence[Call], max_seconds: float) -> tuple[list[Outcome], Exception | None]:
        """The outcomes of the calls that were done, and what ended the process in the next one."""
        assert self.process.stdin is not None
        n_bytes = 0
        for data, _ in calls:
            n_bytes += _write_at(self._data.fileno(), data, n_bytes)
        described = [(len(data), arguments) for data, arguments in calls]
        request = pickle.dumps((function, max_seconds, described), pickle.HIGHEST_PROTOCOL)
        view = memoryview(HEADER.pack(len(request), len(calls)) + request)
        while view:
            view = view[os.write(self.process.stdin.fileno(), view) :]
        end = self._wait(max_seconds)
        self.is_loaded = True
        outcomes = _outcomes(self._answers.fileno())
        os.ftruncate(self._answers.fileno(), 0)
        if n_bytes > KEPT_BYTES:
            os.ftruncate(self._data.fileno(), 0)
        return outcomes, end if len(outcomes) < len(calls) else None

    def _wait(self, max_seconds: float) -> Exception | None:
        """Until all is answered, the process has ended, or no answer has come for too long by the clock."""
        assert self.process.stdout is not None
        watch = select.poll()
        watch.register(self.process.stdout.fileno(), select.POLLIN)
        patience, n_before = WALL_FACTOR * max_seconds + (0 if self.is_loaded else LOAD_SECONDS), 0
        while not watch.poll(patience * 1000):
            patience, n_now = WALL_FACTOR * max_seconds, os.fstat(self._answers.fileno()).st_size
            if n_now == n_before:
                self.process.kill()
                self.process.wait()
                return TooSlowError(f"more than {patience:g} s by the clock")
            n_before = n_now
        if os.read(self.process.stdout.fileno(), 1):
            return None
        code = self.process.wait()
        if code in (-signal.SIGPROF, -signal.SIGXCPU):
            return TooSlowError(f"more than {max_seconds:g} s of processor time")
        if code == NO_MEMORY:
            return DiedError(f"no memory left, at most {MAX_MEMORY_BYTES >> 20} MB")
        return DiedError(f"the process ended with {_named(code)}")

    def end(self) -> None:
        for file in (self.process.stdin, self.process.stdout, self._data, self._answers):
            if file is not None:
                file.close()
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()


_idle: list[_Child] = []
_lock = threading.Lock()


def _take() -> _Child:
    with _lock:
        while _idle:
            child = _idle.pop()
            if child.owner == os.getpid() and child.process.poll() is None:
                return child
            if child.owner == os.getpid():
                child.end()
    return _Child()


def _put(child: _Child) -> None:
    with _lock:
        _idle.append(child)


@atexit.register
def end_children() -> None:
    """End the children that wait; the next call starts another."""
    with _lock:
        children, _idle[:] = list(_idle), []
    for child in children:
        child.end()


def serve() -> None:
    """What the child does: answer until nobody can ask any more."""
    requests, ready = os.fdopen(os.dup(0), "rb"), os.dup(1)
    os.dup2(2, 1)  # what a library prints must not become an answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    data, answers = map(int, os.environ["TILTH_SHARED"].split())
    functions: dict[str, Any] = {}
    while len(head := requests.read(HEADER.size)) == HEADER.size:
        n_bytes, n_calls = HEADER.unpack(head)
        request = requests.read(n_bytes)
        if len(request) < n_bytes:
            return
        _answer(functions, request, n_calls, data, answers)
        os.write(ready, b".")


def _answer(functions: dict[str, Any], request: bytes, n_calls: int, data: int, answers: int) -> None:
    n_read = n_written = 0
    try:
        signal.setitimer(signal.ITIMER_PROF, LOAD_SECONDS)
        name, max_seconds, calls = pickle.loads(request)
        if name not in functions:
            module, _, attribute = name.partition(":")
            functions[name] = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # none of the calls can be made
        for _ in range(n_calls):
            n_written += _write_answer(answers, _pickled(Outcome(None, error)), n_written)
        return
    for n_bytes, arguments in calls:
        signal.setitimer(signal.ITIMER_PROF, max(MIN_SECONDS, max_seconds))
        try:
            answer = _pickled(Outcome(functions[name](_read_at(data, n_bytes, n_read), *arguments)))
        except MemoryError:
            os._exit(NO_MEMORY)
        except Exception as error:  # whatever it is, it goes to the caller
            answer = _pickled(Outcome(None, error))
        signal.setitimer(signal.ITIMER_PROF, 0)
        n_read += n_bytes
        n_written += _write_answer(answers, answer, n_written)


def _pickled(outcome: Outcome) -> bytes:
    """Raises what pickling a value raises; an error that cannot be pickled is told by a RuntimeError."""
    if outcome.error is None:
        return pickle.dumps(tuple(outcome), pickle.HIGHEST_PROTOCOL)
    try:
        answer = pickle.dumps(tuple(outcome))
        pickle.loads(answer)
        return answer
    except Exception:
        return pickle.dumps((None, RuntimeError(f"{type(outcome.error).__name__}: {outcome.error}")))


def _write_answer(file: int, answer: bytes, at: int) -> int:
    return _write_at(file, SIZE.pack(len(answer)) + answer, at)


def _outcomes(file: int) -> list[Outcome]:
    """The answers that were written to their end."""
    found, at, n_bytes = [], 0, os.fstat(file).st_size
    while at + SIZE.size <= n_bytes:
        (size,) = SIZE.unpack(_read_at(file, SIZE.size, at))
        at += SIZE.size + size
        if at > n_bytes:
            break
        found.append(Outcome(*pickle.loads(_read_at(file, size, at - size))))
    return found


def _write_at(file: int, data: bytes, at: int) -> int:
    view = memoryview(data)
    while view:
        n_bytes = os.pwrite(file, view, at)
        view, at = view[n_bytes:], at + n_bytes
    return len(data)


def _read_at(file: int, n_bytes: int, at: int) -> bytes:
    data = os.pread(file, n_bytes, at)
    while len(data) < n_bytes:
        part = os.pread(file, n_bytes - len(data), at + len(data))
        if not part:
            raise EOFError(f"{len(data)} of {n_bytes} bytes")
        data += part
    return data


def _file_in_memory() -> Any:
    return os.fdopen(os.memfd_create("tilth"), "r+b") if hasattr(os, "memfd_create") else tempfile.TemporaryFile()


def _named(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"code {code}"
    except ValueError:
        return f"signal {-code}"


def processor_seconds(data: bytes = b"") -> float:
    """What the process that answers has used so far, for measurements."""
    return time.process_time()
