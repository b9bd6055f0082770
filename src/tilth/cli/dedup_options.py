"""Which options go with which method of `dedup`; what would not be heeded is refused with the reason."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from tilth.dedup.minhash.parameters import MinHashParameters

REDPAJAMA = "redpajama-v2"
PRESETS = ("fineweb", "stack-v2", REDPAJAMA)
KEYS = ("exact", "normal_text", "url", "simhash")
PASSAGES = ("lines", "paragraphs", "sentences", "substring")
DOCUMENTS = ("minhash", *KEYS, "semantic")
METHODS = (*DOCUMENTS, *PASSAGES)


class Rule(NamedTuple):
    """The methods that heed an option, and why others do not."""

    methods: tuple[str, ...]
    reason: str


RULES = {
    "preset": Rule(("minhash",), "the published parameters are those of MinHash"),
    "threshold": Rule(("minhash", "semantic"), "it compares no similarity that one could choose"),
    "recall": Rule(("minhash",), "it finds everything there is"),
    "n_tokens": Rule(("minhash", "simhash", "sentences"), "it looks at no sequences of n"),
    "unit": Rule(("minhash", "simhash"), "its units are given with the method"),
    "embeddings": Rule(("semantic",), "it compares texts"),
    "url": Rule(("url",), "it compares the text"),
    "keep": Rule(DOCUMENTS, "it cuts passages and keeps documents; `--mode` says which copies go"),
    "mode": Rule(("lines", "paragraphs", "substring"), "the first copy of a passage stays, the first of a cluster by `--keep`"),
    "min_tokens": Rule(("substring",), "its passages have the length that they have"),
    "index": Rule(("minhash",), "it keeps nothing that the next search could use"),
    "remove": Rule(("minhash",), "it keeps no index from which documents could be taken; leave them out of the files"),
    "workers": Rule(("minhash", *PASSAGES), "it runs in one pass and one process"),
    "explain": Rule(("minhash",), "what it takes is not estimated"),
}


def refuse_unheeded(context: click.Context, method: str) -> None:
    """Raise UsageError for an option that was typed and that `method` does not heed, and for one that it cannot do without."""
    for name, rule in RULES.items():
        typed = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if typed and method not in rule.methods:
            (option,) = (parameter.opts[0] for parameter in context.command.params if parameter.name == name)
            said = f"`--method {method}` does not heed `{option}`: {rule.reason}"
            raise click.UsageError(f"{said}. `{option}` goes with {', '.join(rule.methods)}", context)
    if method == "semantic" and not context.params["embeddings"]:
        raise click.UsageError("`--method semantic` compares embeddings: give them with `--embeddings FILE`", context)


def minhash_parameters(preset: str | None, given: dict[str, Any]) -> MinHashParameters:
    """The preset with what was given instead; new bands follow from a new threshold or recall.

    Raises UsageError for what `redpajama-v2` leaves no choice of, RecipeError for values that cannot be.
    """
    from tilth.dedup.minhash.parameters import PRESETS as PUBLISHED
    from tilth.dedup.minhash.parameters import MinHashParameters

    if preset == REDPAJAMA:
        from tilth.pipeline.interchange.redpajama_v2_minhash import RedPajamaMinHash

        fixed = [option for name, option in (("n", "--n"), ("unit", "--unit"), ("recall", "--recall")) if name in given]
        if fixed:
            reason = "it has 13-grams of words and published bands, which only `--threshold` chooses"
            raise click.UsageError(f"`--preset {REDPAJAMA}` leaves no choice of {', '.join(fixed)}: {reason}")
        return RedPajamaMinHash(**given)
    base = PUBLISHED[preset] if preset else MinHashParameters()
    if {"threshold", "recall"} & given.keys():
        given = {"bands": None, **given}
    return dataclasses.replace(base, **given)
