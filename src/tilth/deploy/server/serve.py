"""tilth serve, without the command line: one process from a model's folder and its deltas to two ports."""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tilth.deploy.server.limits import Limits
from tilth.deploy.server.ports import Ports, check_ports
from tilth.deploy.server.running import run_process
from tilth.deploy.server.service import Served
from tilth.deploy.server.state_room import StateRoom
from tilth.deploy.store import DeltaStore, check_name
from tilth.inference.devices import current_device, find_device
from tilth.inference.engine.engine import Engine
from tilth.inference.engine.limits import EngineLimits
from tilth.inference.tenants.bank import TenantBank
from tilth.models.decoder import Decoder
from tilth.models.weights import load_config, load_model, saved_dtype, weights_digest
from tilth.tokenize.bpe import Tokenizer


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What to serve and how. base is a folder of model.safetensors, config.json and tokenizer.json, under `name` (default:
    the folder's). deltas are loaded at the start, by name; those in delta_folder can be loaded by the admin port.

    delta_bytes caps what deltas hold in memory; engine says what requests and the prefix cache may hold, and how long a text
    may be, which limits.max_context_tokens follows. An empty admin token makes a new one, which is in the ready line.
    """

    base: Path
    name: str = ""
    deltas: Mapping[str, Path] = field(default_factory=dict)
    delta_folder: Path | None = None
    delta_bytes: int = 4 << 30
    ports: Ports = field(default_factory=Ports)
    limits: Limits = field(default_factory=Limits)
    engine: EngineLimits = field(default_factory=EngineLimits)
    uses_cache: bool = True
    device: str = "cpu"
    n_threads: int | None = None


def serve(options: ServeOptions, say: Callable[[str], None] = print) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Says one line of JSON when ready: ports, models, admin token.

    Raises what check_before_loading raises, and loading the model or a delta.
    """
    _set_logging()
    ports = options.ports if options.ports.admin_token else replace(options.ports, admin_token=secrets.token_urlsafe(24))
    device = check_before_loading(replace(options, ports=ports))
    if options.n_threads is not None:
        torch.set_num_threads(options.n_threads)
    with current_device(device):  # the engine tries the model before its own thread runs
        served, store = open_served(options, load_model(options.base).to(device))
    assert served.room is not None
    longest = served.room.new_tokens(0, 1)
    limits = replace(options.limits, max_context_tokens=longest, max_samples=options.engine.max_rows)

    def on_ready(port: int, admin_port: int | None) -> None:
        ready: dict[str, Any] = {"ready": True, "url": f"http://{ports.host}:{port}/v1", "port": port, "admin_port": admin_port}
        ready |= {"models": [served.name, *options.deltas], "max_context_tokens": limits.max_context_tokens}
        if not options.ports.admin_token:
            ready["admin_token"] = ports.admin_token
        say(json.dumps(ready))

    return run_process(served, limits, ports, store=store, tenants=options.deltas, on_ready=on_ready)


def check_before_loading(options: ServeOptions) -> torch.device:
    """Find what is wrong with the options before the model is loaded; returns the device.

    Raises UserError for a device that is not there, a port that is taken, and too little memory; DeltaError for a name that
    no delta can have; what `load_config` raises.
    """
    device = find_device(options.device)
    check_ports(options.ports)
    for name in options.deltas:
        check_name(name)
    StateRoom.of(load_config(options.base), saved_dtype(options.base).itemsize, options.engine)
    return device


def open_served(options: ServeOptions, model: Decoder) -> tuple[Served, DeltaStore]:
    """The engine over a model, with what a server must know of it, and the store of its deltas."""
    digest = weights_digest(model.state_dict())
    engine = Engine(
        model,
        limits=options.engine,
        tenants=TenantBank(model, digest),
        base_digest=digest,
        uses_cache=options.uses_cache,
    )
    store = DeltaStore(
        model.state_dict(),
        folder=options.delta_folder,
        capacity_bytes=options.delta_bytes,
        base_digest=digest,
    )
    served = Served(
        engine=engine,
        name=options.name or options.base.resolve().name,
        tokenizer=Tokenizer.open(options.base, end_of_text(options.base)),
        vocab_size=model.config.vocab_size,
        size_bytes=sum(parameter.nbytes for parameter in model.parameters()),
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        folder=options.base,
        room=StateRoom.of(model.config, model.embedding.weight.element_size(), options.engine),
    )
    return served, store


def end_of_text(folder: Path) -> str | None:
    """The end-of-text token of an imported model, as its tokenizer_config.json says; None for a model of Tilth."""
    path = folder / "tokenizer_config.json"
    token = json.loads(path.read_text(encoding="utf-8")).get("eos_token") if path.is_file() else None
    return token.get("content") if isinstance(token, dict) else token


def _set_logging() -> None:
    """What an operator should see on stderr: of kernels and uvicorn, which tell each step of their own, warnings alone."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in ("tilth.kernels", "uvicorn"):
        logging.getLogger(name).setLevel(logging.WARNING)
