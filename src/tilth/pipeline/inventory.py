"""What there is in a project, and how each thing was made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tilth.artifacts import Named
from tilth.artifacts.naming import KINDS
from tilth.errors import NotFoundError, did_you_mean
from tilth.pipeline.build import count_by_source
from tilth.pipeline.project import Project

Row = dict[str, Any]

PLURALS = {"corpora": "corpus", "subsets": "subset", "tokens": "tokens", "runs": "run", "deltas": "delta", "replays": "replay"}
PLURALS |= {"evaluations": "evaluation"}
PLURALS |= {"signals": "signal", "sources": "source", "contracts": "contract", "policies": "policy", "recipes": "recipe"}


def inventory(project: Project, kind: str | None) -> list[Row]:
    """Everything of `kind` (singular or plural), or of the kinds that builds make; a row is kind, name and a few words."""
    wanted = PLURALS.get(kind, kind) if kind else None
    if wanted is not None and wanted not in (*KINDS, *_LISTS):
        raise NotFoundError(f"there is no kind `{kind}`", fix=did_you_mean(str(kind), PLURALS))
    if wanted in _LISTS:
        return [{"kind": wanted, "name": name, "what": what} for name, what in _LISTS[str(wanted)](project).items()]
    named = [named for each in ([wanted] if wanted else KINDS) for named in project.store.named(str(each))]
    return [{"kind": item.kind, "name": item.name, "what": _words(project, item)} for item in named]


def describe(project: Project, label: str) -> Row:
    """How `kind/name` was made; `rows` hold its parts, columns or fields."""
    kind, slash, name = (f"policy/{label[1:]}" if label.startswith("@") else label).partition("/")
    kind = PLURALS.get(kind, kind)
    if not slash:
        raise NotFoundError(f"`{label}` is not `kind/name`", "tilth show", _with_kind(project, label))
    name, _, digest = name.partition("@")
    if kind in KINDS:
        named = project.store.get_named(kind, name)
        if not named.digest.startswith(digest):
            raise NotFoundError(f"`{kind}/{name}` no longer stands for that", label, f"It is now `{named.label}`.")
        return _describe_named(project, named)
    if kind not in _LISTS:
        raise NotFoundError(f"there is no kind `{kind}`", fix=did_you_mean(kind, [*KINDS, *_LISTS]))
    known = _LISTS[kind](project)
    if name not in known:
        raise NotFoundError(f"there is no {kind} `{name}`", fix=did_you_mean(name, known))
    more = _beyond(name) if kind == "policy" else {}
    return {"kind": kind, "name": name, "what": known[name], **more, "rows": _ROWS[kind](project, name)}


def _with_kind(project: Project, name: str) -> str:
    """What `name` alone may have meant."""
    meant = [f"{kind}/{name}" for kind in KINDS if name in project.store.names(kind)]
    meant += [f"{kind}/{name}" for kind, names in _LISTS.items() if name in names(project)]
    if meant:
        return f"Did you mean `{'` or `'.join(meant)}`?"
    return f"Such as corpus/demo; kinds: {', '.join([*KINDS, *_LISTS])}."


def _describe_named(project: Project, named: Named) -> Row:
    rows: dict[str, Row] = {}
    for part in named.parts:
        artifact = project.store.artifact(part)
        row = rows.setdefault(
            part.step,
            {"step": part.step, "version": artifact.spec.version, "outputs": 0, "size_bytes": 0, "digest": part.digest[:12]},
        )
        row["outputs"] += 1
        row["size_bytes"] += artifact.size_bytes
    facts = {
        "name": named.label,
        **{key: value for key, value in named.meta.items() if not isinstance(value, dict | list) and value is not None},
    }
    if named.kind == "corpus":
        from tilth.catalog.keepers import keeper_rule_of

        facts["keepers"] = keeper_rule_of(project.store, named)
        facts |= {source: _counted(counts) for source, counts in count_by_source(project.store, named).items()}
    return {**facts, "rows": list(rows.values())}


def _words(project: Project, named: Named) -> str:
    meta = named.meta
    if named.kind == "corpus":
        totals = count_by_source(project.store, named).values()
        return f"{sum(total['n_documents'] for total in totals):,} documents from {len(totals)} sources"
    if named.kind == "subset":
        return f"{meta['n_documents']:,} documents of {meta['corpus']} where {meta['where']}"
    if named.kind == "run" and "imported" in meta:
        return f"{meta['n_parameters']:,} parameters, imported as {meta['imported']}"
    if named.kind == "run":
        base = f", from {meta['base']}" if meta.get("base") else ""
        loss = f"loss {meta['start_loss']:.3f} -> {meta['end_loss']:.3f}"
        return f"{meta['n_parameters']:,} parameters on {meta['subset']}{base}: {loss}"
    if named.kind == "delta":
        return f"{meta['run']} against {meta['base']}: {meta['size_bytes']:,} of {meta['full_size_bytes']:,} bytes"
    if named.kind == "replay":
        return f"{meta['n_requests']:,} requests through {len(meta['cells']):,} caches of {meta['model']}"
    if named.kind == "evaluation":
        return f"{meta['run']} on {meta['n_problems']:,} problems of {meta['problems']}, {meta['n']:,} samples each"
    return f"token shards of subset {meta['subset']}"


def _counted(counts: dict[str, int]) -> str:
    return f"{counts['n_documents']:,} documents, {counts['n_rejected']:,} rejected, {counts['n_bytes']:,} bytes"


def _recipes(project: Project) -> dict[str, str]:
    return {path.stem: str(path.relative_to(project.folder)) for path in sorted((project.folder / "recipes").glob("*.py"))}


def _recipe_functions(project: Project, name: str) -> list[Row]:
    from tilth.pipeline.recipes import recipe_functions

    return [
        {"function": function, "makes": makes, "parameters": parameters}
        for function, makes, parameters in recipe_functions(project.folder / "recipes" / f"{name}.py")
    ]


def _signals(project: Project) -> dict[str, str]:
    from tilth.quality_signals.registry import families

    return {name: ", ".join(family.columns) for name, family in families().items()}


def _sources(project: Project) -> dict[str, str]:
    from tilth.corpus.registry import sources

    return {name: _first_line(kind) for name, kind in sources().items()}


def _policies(project: Project) -> dict[str, str]:
    from tilth.catalog.policies import POLICIES

    return {name: policy.source for name, policy in POLICIES.items()}


def _policy_clauses(project: Project, name: str) -> list[Row]:
    from tilth.catalog.policies import POLICIES

    clauses = [one for clause in POLICIES[name].clauses for one in (clause, *clause.others)]
    return [{"clause": clause.sql, "asks for": clause.word, "signals": clause.family} for clause in clauses]


def _beyond(name: str) -> dict[str, str]:
    from tilth.catalog.policies import POLICIES

    return {"besides": POLICIES[name].beyond} if POLICIES[name].beyond else {}


def _contracts(project: Project) -> dict[str, str]:
    return {contract.name: ", ".join(contract.schema.names) for contract in _all_contracts()}


def _all_contracts() -> list[Any]:
    from tilth import contracts

    return [getattr(contracts, name) for name in contracts.__all__ if name.isupper()]


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]


def _signal_columns(project: Project, name: str) -> list[Row]:
    from tilth.quality_signals.registry import families

    return [{"column": column, "type": str(kind)} for column, kind in families()[name].columns.items()]


def _source_fields(project: Project, name: str) -> list[Row]:
    import dataclasses

    from tilth.corpus.registry import sources

    fields = dataclasses.fields(sources()[name])
    return [
        {
            "field": field.name,
            "type": str(field.type),
            "default": "" if field.default is dataclasses.MISSING else repr(field.default),
        }
        for field in fields
    ]


def _contract_columns(project: Project, name: str) -> list[Row]:
    (contract,) = [contract for contract in _all_contracts() if contract.name == name]
    return [{"column": field.name, "type": str(field.type), "null": field.nullable} for field in contract.schema]


_LISTS: dict[str, Callable[[Project], dict[str, str]]] = {
    "recipe": _recipes,
    "signal": _signals,
    "source": _sources,
    "contract": _contracts,
    "policy": _policies,
}
_ROWS: dict[str, Callable[[Project, str], list[Row]]] = {
    "recipe": _recipe_functions,
    "signal": _signal_columns,
    "source": _source_fields,
    "contract": _contract_columns,
    "policy": _policy_clauses,
}
