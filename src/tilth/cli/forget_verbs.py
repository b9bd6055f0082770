"""forget: what people ask to be forgotten, and the scan and the removal afterwards."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import click

from tilth.cli.tables import as_json, say, size, table

_ASK = {
    "user": "An account, as in the URLs of its repositories.",
    "repo": "A repository: its URL, or user/name.",
    "commit": "A commit, all 40 digits: what it brought (what HEAD has, where no history was read).",
    "path": "REPO:PATH, one file; the path exactly as it is.",
    "swhid": "A SWHID: cnt, dir, rev or snp.",
    "email": "An address: documents that hold it, and what its commits brought into git repositories.",
}


def _asking(command: Any) -> Any:
    for kind in reversed(_ASK):
        command = click.option(f"--{kind}", multiple=True, help=_ASK[kind])(command)
    return command


@click.command()
@click.argument("recipe", metavar="CORPUS")
@click.argument("overrides", nargs=-1, metavar="[NAME=VALUE]...")
@_asking
@click.option("--requests", "file", type=click.Path(path_type=Path), help="A file of requests, `user octocat` a line.")
@click.option(
    "--scope", type=click.Choice(["content", "occurrence"]), default="content", show_default=True,
    help="The content wherever it occurs, or only the named occurrences of it.",
)  # fmt: skip
@click.option("--near/--no-near", default=True, show_default=True, help="With near-duplicates, by the clusters of the corpus.")
@click.option("--refit", is_flag=True, help="Fit the tokenizer and the models of the corpus anew, which changes all shards.")
@click.option("--dry-run", is_flag=True, help="Show what would be forgotten; change nothing.")
@click.option("--verify", is_flag=True, help="Look for all that was ever forgotten; exit 1 where anything is left.")
@click.option("--purge", is_flag=True, help="Remove old outputs that still hold it, and the names that point to them.")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes that build.")
@click.option("--json", "as_data", is_flag=True, help="As JSON.")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def forget(recipe: str, overrides: tuple[str, ...], as_data: bool, debug: bool, **options: Any) -> None:
    """Forget what people ask to be forgotten.

    CORPUS is the recipe that built it. Finds all copies, builds the shards that held them anew and leaves a signed tombstone
    in `optout/`, which belongs to the project. Without a request it goes on where it was stopped, and forgets what has come
    since of all that was asked before.
    """
    from tilth.pipeline.project import Project
    from tilth.pipeline.recipe import Corpus
    from tilth.pipeline.recipes import load_recipe

    if sum(options[name] for name in ("dry_run", "verify", "purge")) > 1:
        raise click.UsageError("--dry-run, --verify and --purge exclude each other.")
    project = Project.find()
    loaded = load_recipe(recipe, overrides, Corpus, project.folder)
    requests = _requests(options)
    if (options["verify"] or options["purge"]) and requests:
        raise click.UsageError("--verify and --purge are about all that was forgotten; they take no request.")
    if options["refit"] and any(options[name] for name in ("dry_run", "verify", "purge")):
        raise click.UsageError("--refit builds; it goes with none of --dry-run, --verify and --purge.")
    if options["verify"]:
        _verify(project, loaded.name, as_data)
    elif options["purge"]:
        _purge(project, loaded.name, as_data)
    else:
        _forget(project, loaded, requests, as_data, options)


def _requests(options: dict[str, Any]) -> list[Any]:
    from tilth.corpus.optout.requests import Request, read_requests

    asked = [Request.parse(kind, text) for kind in _ASK for text in options[kind]]
    return [*asked, *(read_requests(options["file"]) if options["file"] else [])]


def _forget(project: Any, loaded: Any, requests: list[Any], as_data: bool, options: dict[str, Any]) -> None:
    from tilth.pipeline import forget as forgetting

    how = {"scope": options["scope"], "near": options["near"]}
    show = (lambda found: None) if as_data else _say_found
    if options["dry_run"]:
        found = forgetting.find(project, loaded.name, loaded.description, requests, **how)
        print(as_json(dataclasses.asdict(found))) if as_data else show(found)
        say("nothing was changed")
        return
    how |= {"refit": options["refit"], "n_workers": options["workers"], "show": show}
    done = forgetting.forget(project, loaded.name, loaded.description, requests, **how)
    if as_data:
        tombstones = [path.relative_to(project.folder) for path in done.tombstones]
        told = {"n_made": done.n_made, "tombstones": list(map(str, tombstones)), "fitted": done.fitted}
        print(as_json({"found": dataclasses.asdict(done.found), **told}))
    if done.corpus is None:
        say("nothing answers to this; what was asked is kept, and `tilth forget` without a request looks again")
        return
    say(f"{done.corpus.label}: {done.n_made} outputs made, {len(done.corpus.parts) - done.n_made} stayed as they were")
    for path in done.tombstones:
        say(f"signed {path.relative_to(project.folder)}")
    for one in done.fitted:
        say(f"{one} was fitted on texts that held it, and stays, so that other shards do; `--refit` makes it new")


def _say_found(found: Any) -> None:
    if found.rows:
        print(table(["shard", "found", "documents", "occurrences", "rejects"], [list(row.values()) for row in found.rows]))
    print(f"  {found.n_documents:,} documents and {found.n_occurrences:,} occurrences of others in {found.n_shards:,} shards")
    if found.n_widely_held:
        say(f"{found.n_widely_held:,} of the contents lie in many shards, as licence texts do; `--scope occurrence` spares them")
    if found.seen:
        cells = [(f"{one.kind}/{one.name}", one.n_documents, one.through or "") for one in found.seen]
        print(table(["had seen them", "documents", "through"], cells))


def _verify(project: Any, name: str, as_data: bool) -> None:
    from tilth.pipeline.forget_verify import verify

    findings = verify(project, name)
    if as_data:
        print(as_json([dataclasses.asdict(finding) for finding in findings]))
    else:
        print(table(["what", "state", "detail"], [(one.what, one.state, one.detail) for one in findings], cut=False))
    states = {one.state for one in findings}
    if states & {"bad", "old"}:
        say("`tilth forget` again goes on" if "bad" in states else "`--purge` removes what is old")
        raise SystemExit(1)


def _purge(project: Any, name: str, as_data: bool) -> None:
    from tilth.pipeline.forget_purge import purge

    done = purge(project, name)
    if as_data:
        print(as_json(dataclasses.asdict(done)))
        return
    say(f"{done.n_outputs:,} outputs removed, {size(done.n_bytes)}")
    if done.names:
        say(f"names that are gone: {', '.join(done.names)}")
    if done.models:
        say(f"models that had seen it and stay, without their data: {', '.join(done.models)}")
