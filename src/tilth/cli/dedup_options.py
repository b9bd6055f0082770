"""The options of `dedup` as parameters; what would not be heeded is refused."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tilth.dedup.minhash.parameters import MinHashParameters

REDPAJAMA = "redpajama-v2"
PRESETS = ("fineweb", "stack-v2", REDPAJAMA)


def minhash_parameters(preset: str | None, given: dict[str, Any]) -> MinHashParameters:
    """The preset with what was given instead; new bands follow from a new threshold or recall.

    Raises UsageError for what `redpajama-v2` leaves open nothing to choose in, RecipeError for values that cannot be.
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
