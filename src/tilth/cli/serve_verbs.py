"""serve: a base and its deltas over HTTP."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tilth.cli.byte_sizes import ByteSize
from tilth.cli.option_groups import GroupedCommand, option
from tilth.cli.tables import say

MODELS, PLACE, BOUNDS, ANSWER = "The models", "Where", "The bounds", "The answer"


@click.command(cls=GroupedCommand)
@click.argument("base")
@option("--delta", "deltas", group=MODELS, multiple=True, metavar="NAME[=FILE]", help="A tenant; by default all of the project.")
@option(
    "--delta-folder", group=MODELS, type=click.Path(path_type=Path, exists=True, file_okay=False), help="More, to load later."
)
@option("--device", group=MODELS, default="cpu", show_default=True, help="Where the model lies, such as cuda.")
@option("--threads", group=MODELS, type=click.IntRange(min=1), metavar="N", help="Of the products on the CPU.")
@option("--host", group=PLACE, default="127.0.0.1", show_default=True, help="The address to listen on.")
@option("--port", group=PLACE, type=click.IntRange(0, 65535), default=8000, show_default=True, help="0 takes a free one.")
@option("--admin-port", group=PLACE, type=click.IntRange(0, 65535), default=8001, show_default=True, help="To load and unload.")
@option("--admin-token", group=PLACE, envvar="TILTH_ADMIN_TOKEN", default="", help="Also $TILTH_ADMIN_TOKEN; else a new one.")
@option("--api-key", "api_keys", group=PLACE, multiple=True, envvar="TILTH_API_KEYS", help="Also $TILTH_API_KEYS; else none.")
@option("--memory", group=BOUNDS, type=ByteSize(), default="1GB", show_default=True, help="For requests and the prefix cache.")
@option("--delta-memory", group=BOUNDS, type=ByteSize(), default="4GB", show_default=True, help="For deltas.")
@option("--max-tokens", group=BOUNDS, type=click.IntRange(min=2), metavar="N", help="Of a prompt and its answer.")
@option("--max-rows", group=BOUNDS, type=click.IntRange(min=1), metavar="N", help="Answers in the making at once.")
@option("--max-waiting", group=BOUNDS, type=click.IntRange(min=1), metavar="N", help="Requests that wait; more are refused.")
@option("--no-cache", is_flag=True, group=BOUNDS, help="Read every prompt whole.")
@option("--json", "as_data", is_flag=True, group=ANSWER, help="The facts in one line, when it is ready.")
@option("--debug", is_flag=True, group=ANSWER, help="Show tracebacks.")
def serve(
    base: str,
    deltas: tuple[str, ...],
    delta_folder: Path | None,
    device: str,
    threads: int | None,
    host: str,
    port: int,
    admin_port: int,
    admin_token: str,
    api_keys: tuple[str, ...],
    memory: int,
    delta_memory: int,
    max_tokens: int | None,
    max_rows: int | None,
    max_waiting: int | None,
    no_cache: bool,
    as_data: bool,
    debug: bool,
) -> None:
    """Serve BASE and its deltas over HTTP, as OpenAI's interface.

    BASE is a run of this project or the folder of a model; each tenant is a model of its name. Ends on SIGTERM or Ctrl-C when
    what runs is answered.
    """
    from tilth.deploy.server.ports import Ports
    from tilth.deploy.server.serve import ServeOptions
    from tilth.deploy.server.serve import serve as run
    from tilth.inference.engine.limits import EngineLimits
    from tilth.pipeline.served_models import find_models

    found = find_models(base, deltas)
    if found.outdated:
        say(f"left out, for `{base}` was trained anew since: {', '.join(found.outdated)}; deploy them again")
    given = {"max_tokens": max_tokens, "max_rows": max_rows, "max_waiting": max_waiting}
    options = ServeOptions(
        base=found.folder,
        name=found.name,
        deltas=found.deltas,
        delta_folder=delta_folder,
        delta_bytes=delta_memory,
        ports=Ports(host=host, port=port, admin_port=admin_port, admin_token=admin_token, api_keys=api_keys),
        engine=EngineLimits(capacity_bytes=memory, **{name: value for name, value in given.items() if value is not None}),
        uses_cache=not no_cache,
        device=device,
        n_threads=threads,
    )

    def tell(line: str) -> None:
        if as_data:
            click.echo(line)
            return
        ready = json.loads(line)
        say(f"{', '.join(ready['models'])} at {ready['url']}; admin port {ready['admin_port']}")
        if "admin_token" in ready:
            say(f"admin token {ready['admin_token']}")

    code = run(options, tell)
    if code:
        raise SystemExit(code)
