"""Where to listen: addresses that are taken are found before anything slow is done, and told by the option that named them."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from tilth.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where to listen; port 0 takes a free one. Without admin_token there is no admin port."""

    host: str = "127.0.0.1"
    port: int = 8000
    admin_host: str = "127.0.0.1"
    admin_port: int = 8001
    admin_token: str = ""
    api_keys: Sequence[str] = ()

    def addresses(self) -> list[tuple[str, str, int]]:
        """(the option that says where, host, port) of each."""
        public = ("--port", self.host, self.port)
        return [public, ("--admin-port", self.admin_host, self.admin_port)] if self.admin_token else [public]


def check_ports(ports: Ports) -> None:
    """Raises UserError for an address that cannot be listened on, or that both ports would have."""
    if ports.admin_token and ports.port == ports.admin_port != 0:
        raise UserError(f"both ports are {ports.port}", "--admin-port", "take another port, or 0 for a free one")
    with ExitStack() as stack:
        for option, host, port in ports.addresses():
            stack.enter_context(_bind(option, host, port))


def open_ports(ports: Ports, write_seconds: float) -> list[socket.socket]:
    """Sockets that listen: the public one, and that of the admin port if there is one. Raises UserError as check_ports."""
    with ExitStack() as stack:
        opened = [stack.enter_context(_bind(*address)) for address in ports.addresses()]
        for found in opened:
            # taken over by each connection: peers that vanished, or read nothing, are dropped by the kernel
            found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                found.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * write_seconds))
            found.listen(2048)
            found.setblocking(False)
        stack.pop_all()
        return opened


def _bind(option: str, host: str, port: int) -> socket.socket:
    found = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
    except OSError as error:
        found.close()
        what = f"{host}:{port} cannot be listened on: {error.strerror or error}"
        raise UserError(what, option, f"take another with `{option}`, or 0 for a free one") from error
    return found
