"""Verbs as a user would type them, for recipes that are scripts, too."""

from __future__ import annotations

import shlex
import subprocess
import sys


def typed(*words: str) -> None:
    """Show `tilth WORDS`, run it in a process of its own, and end with its exit code where it fails."""
    print(f"\n$ {shlex.join(['tilth', *words])}", flush=True)
    running = subprocess.Popen([sys.executable, "-m", "tilth", *words])
    try:
        code = running.wait()
    except KeyboardInterrupt:  # which the verb has got, too: it may take a while to leave a checkpoint
        running.wait()
        raise
    if code:
        sys.exit(code)
