"""Asks a ClamAV daemon about bytes: the INSTREAM command of clamd's protocol (man 8 clamd), over TCP or a Unix socket."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress
from typing import NamedTuple

from tilth.errors import SourceError

_PIECE = 1 << 16
_FIX = "start clamd and give its address: `unix:/run/clamav/clamd.ctl` or `tcp:127.0.0.1:3310`"


class Verdict(NamedTuple):
    """What clamd says of bytes; `name` is that of the signature that matched. None: it did not scan them, since too many."""

    is_infected: bool | None
    name: str = ""


class Clamd:
    """A daemon at `address`, `unix:PATH` or `tcp:HOST:PORT`. Raises SourceError where it cannot be reached or refuses."""

    def __init__(self, address: str, seconds: float = 60.0) -> None:
        kind, _, place = address.partition(":")
        host, _, port = place.rpartition(":")
        if not place or kind not in ("unix", "tcp") or (kind == "tcp" and not (host and port.isdigit())):
            raise SourceError(f"`{address}` is no address of clamd", where="clamd", fix=_FIX)
        self.address, self.seconds = address, seconds
        self._target: str | tuple[str, int] = place if kind == "unix" else (host, int(port))

    @property
    def version(self) -> str:
        """Of the engine and of its signatures, such as `ClamAV 1.0.3/27123/Thu ...`."""
        return self._ask(b"zVERSION\0", [])

    def scan(self, data: bytes | memoryview) -> Verdict:
        """The verdict on some bytes. Raises SourceError for any other answer, and where there is none."""
        view = memoryview(data)
        pieces = [view[first : first + _PIECE] for first in range(0, len(view), _PIECE)]
        answer = self._ask(b"zINSTREAM\0", [*pieces, memoryview(b"")])
        _, _, said = answer.partition(": ")
        if said == "OK":
            return Verdict(False)
        if said.endswith(" FOUND"):
            return Verdict(True, said.removesuffix(" FOUND"))
        if "size limit exceeded" in answer:
            return Verdict(None)
        raise SourceError(f"clamd did not scan: {answer}", where=self.address, fix=_FIX)

    def _ask(self, command: bytes, pieces: list[memoryview]) -> str:
        """Send a command and length-prefixed pieces on a connection of their own; the answer ends in a zero byte."""
        family = socket.AF_UNIX if isinstance(self._target, str) else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_STREAM) as connection:
                connection.settimeout(self.seconds)
                connection.connect(self._target)
                connection.sendall(command)
                with suppress(BrokenPipeError, ConnectionResetError):  # past its limit the daemon answers and hangs up
                    for piece in pieces:
                        connection.sendall(struct.pack("!I", len(piece)))
                        connection.sendall(piece)
                answer = b""
                while not answer.endswith(b"\0") and (more := connection.recv(4096)):
                    answer += more
        except OSError as error:
            raise SourceError(f"clamd cannot be asked: {error}", where=self.address, fix=_FIX) from error
        return answer.rstrip(b"\0").decode("utf-8", "replace").strip()
