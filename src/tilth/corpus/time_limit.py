"""Calls a function in a child process that the kernel ends when it takes too long, whatever C code it is in.

What it guarantees: a call returns, raises or is ended after `max_seconds` of its own processor time (ITIMER_PROF with
the default action, which no code of the child can hold up), and after `WALL_FACTOR` times as long by the clock even if
the child sleeps; with at most `MAX_MEMORY_BYTES` of address space.
The first call of a child has `LOAD_SECONDS` more, for its imports. A crash (segmentation fault, no memory) ends the
child, not this process. Works in any thread, and in daemonic processes, which Dask's workers are. Processor time rather
than the clock decides, so that a busy machine rejects no more than an idle one.
"""

from __future__ import annotations

import atexit
import fcntl
import importlib
import mmap
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
from typing import Any, BinaryIO

WALL_FACTOR = 10
MAX_MEMORY_BYTES = 1 << 30
PIPE_BYTES = 1 << 20
HEADER = struct.Struct("<QQd")
MIN_SHARED_BYTES = 1 << 20
NO_MEMORY = 77  # the exit code that says so
LOAD_SECONDS = 60.0  # to import what the function needs
READ_BYTES = 1 << 20


class TooSlowError(Exception):
    """The call took longer than it may."""


class DiedError(Exception):
    """The process of the call ended: a crash in C code, or no memory."""


def call_limited(function: str, data: bytes, *arguments: Any, max_seconds: float) -> Any:
    """Call `function` ("module:name") with `data` and arguments that can be pickled, and return or raise what it does.

    `data` goes through shared memory: it is what is large. Raises TooSlowError after `max_seconds` (seconds of
    processor time, from 0.05 up) and DiedError if the child crashed.
    """
    request = pickle.dumps((function, arguments), pickle.HIGHEST_PROTOCOL)
    for attempt in (1, 2):
        child = _take()
        try:
            ok, value = child.ask(request, data, max_seconds)
        except BrokenPipeError:  # it had ended before it was asked: somebody else's signal
            child.end()
            if attempt == 2:
                raise DiedError("the child process cannot be kept running") from None
            continue
        except BaseException:
            child.end()
            raise
        _put(child)
        if ok:
            return value
        raise value
    raise AssertionError("not reached")


class _Child:
    """A process that answers one call after the other."""

    def __init__(self) -> None:
        path = os.pathsep.join(part for part in sys.path if part)
        command = [sys.executable, "-P", "-c", "from tilth.corpus.time_limit import serve; serve()"]
        environment = {**os.environ, "PYTHONPATH": path}
        self.owner, self.is_loaded = os.getpid(), False
        self._shared = _shared_file()
        self._window = _window(self._shared.fileno(), MIN_SHARED_BYTES)
        environment["TILTH_SHARED"] = str(self._shared.fileno())
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0, pass_fds=[self._shared.fileno()]
        )
        self.requests, self.replies = self.process.stdin, self.process.stdout
        for pipe in (self.requests, self.replies):
            _widen(pipe)

    def ask(self, request: bytes, data: bytes, max_seconds: float) -> tuple[bool, Any]:
        """(whether it returned, what it returned or raised)."""
        assert self.requests is not None
        if len(data) > len(self._window):
            self._window.close()
            self._window = _window(self._shared.fileno(), 2 * len(data))
        self._window[: len(data)] = data
        self._write(HEADER.pack(len(request), len(data), max_seconds) + request)
        deadline = time.monotonic() + WALL_FACTOR * max_seconds + (0 if self.is_loaded else LOAD_SECONDS)
        head = self._read(8, deadline, max_seconds)
        self.is_loaded = True
        return pickle.loads(self._read(int.from_bytes(head, "little"), deadline, max_seconds))

    def _write(self, data: bytes) -> None:
        assert self.requests is not None
        view = memoryview(data)
        while view:
            view = view[os.write(self.requests.fileno(), view) :]

    def _read(self, n_bytes: int, deadline: float, max_seconds: float) -> bytes:
        assert self.replies is not None
        handle = self.replies.fileno()
        parts, n_left = [], n_bytes
        watch = select.poll()
        watch.register(handle, select.POLLIN)
        while n_left:
            left = deadline - time.monotonic()
            if left <= 0 or not watch.poll(left * 1000):
                raise TooSlowError(f"more than {WALL_FACTOR * max_seconds:g} s by the clock")
            part = os.read(handle, min(n_left, READ_BYTES))
            if not part:
                code = self.process.wait()
                if code in (-signal.SIGPROF, -signal.SIGXCPU):
                    raise TooSlowError(f"more than {max_seconds:g} s of processor time")
                if code == NO_MEMORY:
                    raise DiedError(f"no memory left, at most {MAX_MEMORY_BYTES >> 20} MB")
                raise DiedError(f"the process ended with {_named(code)}")
            parts.append(part)
            n_left -= len(part)
        return b"".join(parts)

    def end(self) -> None:
        for pipe in (self.requests, self.replies):
            if pipe is not None:
                pipe.close()
        self._window.close()
        self._shared.close()
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
    requests, replies = os.fdopen(os.dup(0), "rb", PIPE_BYTES), os.fdopen(os.dup(1), "wb", 0)
    os.dup2(2, 1)  # what a library prints must not become an answer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    functions: dict[str, Any] = {}
    shared = int(os.environ["TILTH_SHARED"])
    window = mmap.mmap(shared, 0, access=mmap.ACCESS_READ)
    while len(head := requests.read(HEADER.size)) == HEADER.size:
        n_bytes, n_data, max_seconds = HEADER.unpack(head)
        request = requests.read(n_bytes)
        if len(request) < n_bytes:
            return
        if n_data > len(window):
            window.close()
            window = mmap.mmap(shared, 0, access=mmap.ACCESS_READ)
        reply = _answer(functions, request, window[:n_data], max_seconds)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _send(replies, reply)


def _answer(functions: dict[str, Any], request: bytes, data: bytes, max_seconds: float) -> bytes:
    try:
        signal.setitimer(signal.ITIMER_PROF, LOAD_SECONDS)
        name, arguments = pickle.loads(request)
        if name not in functions:
            module, _, attribute = name.partition(":")
            functions[name] = getattr(importlib.import_module(module), attribute)
        signal.setitimer(signal.ITIMER_PROF, max(0.05, max_seconds))
        return pickle.dumps((True, functions[name](data, *arguments)), pickle.HIGHEST_PROTOCOL)
    except MemoryError:
        os._exit(NO_MEMORY)
    except Exception as error:  # whatever it is, it goes to the caller
        try:
            return pickle.dumps((False, pickle.loads(pickle.dumps(error)) and error))
        except Exception:
            return pickle.dumps((False, RuntimeError(f"{type(error).__name__}: {error}")))


def _send(replies: BinaryIO, reply: bytes) -> None:
    view = memoryview(len(reply).to_bytes(8, "little") + reply)
    while view:
        view = view[replies.write(view) :]


def _shared_file() -> Any:
    in_memory = hasattr(os, "memfd_create")
    return os.fdopen(os.memfd_create("tilth"), "r+b") if in_memory else tempfile.TemporaryFile()


def _window(handle: int, n_bytes: int) -> mmap.mmap:
    os.ftruncate(handle, n_bytes)
    return mmap.mmap(handle, n_bytes)


def _widen(pipe: Any) -> None:
    try:
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except (AttributeError, OSError):  # not Linux, or the user's pipes are used up: then it takes more switches
        return


def _named(code: int) -> str:
    try:
        return signal.Signals(-code).name if code < 0 else f"code {code}"
    except ValueError:
        return f"signal {-code}"


def processor_seconds(data: bytes = b"") -> float:
    """What the process that answers has used so far, for measurements."""
    return time.process_time()
