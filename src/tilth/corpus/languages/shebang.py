"""The interpreter that a script's first line names."""

from __future__ import annotations

import re

LONGEST_LINE = 1024
COMMAND = re.compile(rb"#!\s*(\S+)\s*")
# what `env` takes before the command: options, then assignments to variables
ENV_ARGUMENT = re.compile(rb"(?:-[i0uCSv]*|--\S+|\S+=\S+)\s+")
VERSION = re.compile(rb"\.\d+$")
EXEC = re.compile(rb"exec (\w+)[\s\"']+\$0[\s\"']+\$@")


def interpreter(content: bytes) -> str | None:
    """The name without folder and minor version ("python2" for python2.7), None without a shebang.

    A shell that only calls `exec` on itself within five lines stands for the interpreter it calls; `osascript -l` runs
    whatever its option says, which no interpreter's name tells.
    """
    if not content.startswith(b"#!"):
        return None
    line = content[:LONGEST_LINE].partition(b"\n")[0]
    command = COMMAND.match(line)
    if not command:
        return None
    script, rest = command[1].rpartition(b"/")[2], line[command.end() :]
    if script == b"env":
        while argument := ENV_ARGUMENT.match(rest):
            rest = rest[argument.end() :]
        words = rest.split(None, 1)
        if not words:
            return None
        script, rest = words[0], words[1] if len(words) > 1 else b""
    script = VERSION.sub(b"", script)
    if script == b"sh":
        lines = content[: 5 * LONGEST_LINE].splitlines()[:5]
        script = next((found[1] for line in lines if (found := EXEC.search(line))), script)
    if script == b"osascript" and b"-l" in rest:
        return None
    return script.rpartition(b"/")[2].decode("utf-8", "replace")
