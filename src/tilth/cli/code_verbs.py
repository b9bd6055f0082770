"""swhid: the names of a repository's objects, without a project."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from tilth.cli.tables import as_json, record, say, table

REF_POLICIES = ("git-loader", "all-refs", "no-pull-requests")


@click.command()
@click.argument("path", metavar="REPO", type=click.Path(path_type=Path))
@click.option(
    "--refs", "policy", type=click.Choice(REF_POLICIES), default="git-loader", show_default=True, help="What snp holds."
)
@click.option("--origin", metavar="URL", help="The origin in qualified SWHIDs; the remote's otherwise.")
@click.option("--json", "as_data", is_flag=True, help="All of it as JSON, with qualified SWHIDs.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def swhid(path: Path, policy: str, origin: str | None, as_data: bool, debug: bool) -> None:
    """Name a repository's objects by SWHID.

    Prints rev, dir and snp, the releases, and the cnt of every file at HEAD, each read and hashed. REPO may also be a path in a
    repository, or a file or folder on disk. A missing object keeps its name and has the status `missing`.
    """
    from tilth.corpus.identify import identify
    from tilth.corpus.records import printable

    found = identify(path, policy, origin)
    if as_data:
        print(as_json(_as_data(found)))
        return
    fields = {name: getattr(found, name) for name in ("origin", "path", "rev", "dir", "snp", "ref_policy")}
    if shown := {name: value for name, value in fields.items() if value}:
        print(record(shown))
    if found.rel:
        print(
            "\n"
            + table(["rel", "name", "target"], [(one.swhid, printable(one.name), one.target) for one in found.rel], cut=False)
        )
    if files := [*found.cnt, *found.others]:
        rows = [(one.swhid, "" if one.status == "ok" else one.status, printable(one.path)) for one in files]
        print("\n" + table(["cnt", "status", "path"], rows, cut=False))
    for status, n in Counter(one.status for one in files if one.status != "ok").items():
        say(f"{n:,} of {len(files):,} paths: {status}")
    for name, what in found.problems:
        say(f"{printable(name)}: {what}")


def _as_data(found: Any) -> dict[str, Any]:
    """For JSON, which holds only Unicode: other bytes of a name are written as Python prints them, and whole in `qualified`."""
    from tilth.corpus.records import printable

    lists = {
        "rel": [one._asdict() | {"name": printable(one.name)} for one in found.rel],
        "cnt": [one._asdict() | {"path": printable(one.path)} for one in found.cnt],
        "others": [one._asdict() | {"path": printable(one.path)} for one in found.others],
        "problems": [{"name": printable(name), "what": what} for name, what in found.problems],
    }
    return {**vars(found), **lists}
