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
from tilth.deploy.server.running import Ports, run_process
from tilth.deploy.server.service import Served
from tilth.deploy.store import DeltaStore
from tilth.errors import UserError
from tilth.inference.cache.costs import StateCosts
from tilth.inference.engine.engine import Engine
from tilth.inference.engine.limits import EngineLimits
from tilth.inference.tenants.bank import TenantBank
from tilth.models.decoder import Decoder
from tilth.models.weights import load_model, weights_digest
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

    Raises what loading the model or a delta raises, and UserError for a port that is taken.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if options.n_threads is not None:
        torch.set_num_threads(options.n_threads)
    model = load_model(options.base).to(options.device)
    served, store = open_served(options, model)
    limits = replace(options.limits, max_context_tokens=longest_text(model, options.engine))
    ports = options.ports if options.ports.admin_token else replace(options.ports, admin_token=secrets.token_urlsafe(24))

    def on_ready(port: int, admin_port: int | None) -> None:
        ready: dict[str, Any] = {"ready": True, "url": f"http://{ports.host}:{port}/v1", "port": port, "admin_port": admin_port}
        ready |= {"models": [served.name, *options.deltas], "max_context_tokens": limits.max_context_tokens}
        if not options.ports.admin_token:
            ready["admin_token"] = ports.admin_token
        say(json.dumps(ready))

    return run_process(served, limits, ports, store=store, tenants=options.deltas, on_ready=on_ready)


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
    )
    return served, store


def longest_text(model: Decoder, limits: EngineLimits) -> int:
    """Tokens of prompt and answer that one request may have: what the engine allows, and its memory holds for it alone.

    Raises UserError where that is no token.
    """
    costs = StateCosts.of(model.config, model.embedding.weight.element_size())
    # the engine keeps room for a request's own states, those it reads with, begins from, and cuts
    room = limits.capacity_bytes - 4 * costs.checkpoint_bytes
    longest = min(limits.max_tokens, room // costs.kv_bytes) if costs.kv_bytes else limits.max_tokens
    if room < 0 or longest < 2:
        raise UserError(
            f"{limits.capacity_bytes:,} bytes of states are too few for one request of this model", fix="give the engine more"
        )
    return longest


def end_of_text(folder: Path) -> str | None:
    """The end-of-text token of an imported model, as its tokenizer_config.json says; None for a model of Tilth."""
    path = folder / "tokenizer_config.json"
    token = json.loads(path.read_text(encoding="utf-8")).get("eos_token") if path.is_file() else None
    return token.get("content") if isinstance(token, dict) else token
