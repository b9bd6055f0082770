"""Python's own documentation server on a loopback port, as a website that needs no network; it never outlives the `with`."""

from __future__ import annotations

import importlib.util
import os
import pydoc
import re
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO
from urllib.parse import parse_qs, unquote, urlsplit

from tilth.errors import SourceError

READY = re.compile(r"Server ready at (http://\S+)")
MAX_START_SECONDS = 30.0
# The server imports what it documents. These open windows, browsers or files when imported, or are tests;
# `lib2to3` and `distutils` warn that they are deprecated, `this` prints a poem.
REFUSED = frozenset({
    "antigravity", "distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "this", "tkinter", "turtle",
    "turtledemo", "venv",
})  # fmt: skip
PUBLIC = (name for name in sys.stdlib_module_names if not name.startswith("_") and name not in REFUSED)
# some modules exist on other systems only
MODULES = frozenset(name for name in PUBLIC if importlib.util.find_spec(name) is not None)
TOPICS = frozenset(pydoc.Helper.topics) | frozenset(pydoc.Helper.keywords)
INDEXES = frozenset({"/", "/index.html", "/topics.html", "/keywords.html"})


def allow(url: str) -> bool:
    """Whether a page may be fetched: the indexes, topics and keywords, and public standard modules that import quietly."""
    parts = urlsplit(url)
    path = unquote(parts.path)
    if parts.query:
        keys = parse_qs(parts.query, keep_blank_values=True)
        return path == "/topic" and set(keys) == {"key"} and keys["key"][0] in TOPICS
    return path in INDEXES or (path.endswith(".html") and _is_module(path[1:].removesuffix(".html")))


def _is_module(name: str) -> bool:
    first, *rest = name.split(".")
    return first in MODULES and all(
        part.isidentifier() and not part.startswith("_") and part not in ("test", "tests") for part in rest
    )


@contextmanager
def pydoc_site() -> Iterator[str]:
    """Start the server in an empty folder and give the URL of its topics, from which everything else is linked.

    Raises SourceError if it does not answer within 30 s.
    """
    command = [sys.executable, "-I", "-S", "-m", "pydoc", "-p", "0", "-n", "127.0.0.1"]
    env = {"PATH": os.defpath, "BROWSER": "true", "PYTHONUNBUFFERED": "1", "LC_ALL": "C.UTF-8"}
    with tempfile.TemporaryDirectory(prefix="pydoc-") as folder:
        env["HOME"] = folder
        # stdin stays open: the server ends when it reads the end of its input
        server = subprocess.Popen(
            command, cwd=folder, env=env, text=True, bufsize=1,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            yield _wait_until_ready(server) + "topics.html"
        finally:
            server.kill()
            server.wait()
            for stream in (server.stdin, server.stdout):
                if stream is not None:
                    stream.close()


def _wait_until_ready(server: subprocess.Popen[str]) -> str:
    assert server.stdout is not None
    said: list[str] = []
    announced = threading.Event()
    threading.Thread(target=_listen, args=(server.stdout, said, announced), daemon=True).start()
    deadline = time.monotonic() + MAX_START_SECONDS
    announced.wait(MAX_START_SECONDS)
    match = READY.search("".join(said))
    if match is None:
        raise SourceError(
            "pydoc did not start",
            where="".join(said).strip()[-200:] or "no output",
            fix="try `python -m pydoc -p 0 -n 127.0.0.1`",
        )
    while time.monotonic() < deadline:
        try:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(match[1] + "topics.html", timeout=5).close()
        except (OSError, urllib.error.URLError):
            time.sleep(0.05)
        else:
            return match[1]
    raise SourceError("pydoc started but does not answer", where=match[1], fix="is the loopback interface up?")


def _listen(output: IO[str], said: list[str], announced: threading.Event) -> None:
    """Read what the server says to its end, so that it never blocks on a full pipe."""
    try:
        for line in output:
            if not announced.is_set():
                said.append(line)
                if READY.search(line):
                    announced.set()
    except ValueError:  # the stream was closed under us: the server is being stopped
        pass
    finally:
        announced.set()
