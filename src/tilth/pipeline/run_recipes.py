"""The recipes of runs: a model that is trained on a subset, and a student that is distilled from a teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tilth.errors import RecipeError


@dataclass(frozen=True)
class Train:
    """A training run on a subset: a new `model`, or the weights of the run `initial` to begin from.

    With `initial`, `model` may change what the same weights allow: `residual`, `residual_from`, and `n_classes` and
    `pooling`, whose head begins anew. With `settings={"objective": "classify"}` each subset is a class.

    Several subsets are a mixture, `{"web": 0.8, "code": 0.2}`: these shares of the tokens, each subset read in epochs of its
    own; `settings={"max_repeats": 4}` refuses a run that would read one of them more often.
    `model` holds the settings of `tilth.models.ModelConfig` but `vocab_size`, which the tokenizer gives, as it does
    `complement` where that is "tokenizer" or `rcps` is True; `preset` among them names a configuration of
    tilth/models/presets.py that the others change;
    `settings` holds those of `tilth.trainer.config.TrainConfig`.
    """

    subset: str | Mapping[str, float]
    settings: Mapping[str, Any]
    model: Mapping[str, Any] | None = None
    initial: str | None = None

    def __post_init__(self) -> None:
        for name, example in (("settings", '{"steps": 100, ...}'), ("model", '{"preset": "tiny-llama"}')):
            value = getattr(self, name)
            if not isinstance(value, Mapping) and (name == "settings" or value is not None):
                raise RecipeError(
                    f"`{name}` of Train is {value!r}", f"Train({name}=...)", f"Give a mapping, such as `{example}`."
                )
        _check_subset("Train", self.subset)
        if self.model is None and self.initial is None:
            raise RecipeError("a run needs `model` settings or an `initial` run to begin from", fix="Give one of them.")


@dataclass(frozen=True)
class Distill:
    """A student of the run `teacher`, trained in `stages` on a subset (or a mixture, as in Train).

    `layers` has a letter for each layer of the teacher: an equal one is copied with its weights, and attention (A) that becomes a
    state space (D or M) begins as that attention, or, with `from_attention=False`, as `seed` draws it. `model` holds other
    settings of the student: shapes of its state spaces, `residual` and `residual_from`. `initial` is an earlier student of the
    same teacher to begin from, of which more layers may be replaced.

    A stage is a mapping of `tilth.trainer.config.TrainConfig` with its `objective`: "orientation", "alignment" and
    "distillation" (MOHAWK), "next_token", or "answers". Each is a run of its own, `<name>-<objective>`, and the last is `<name>`.
    `cached_logits` stores what the teacher predicts, of so many of the likeliest ids or of "all", before the student is
    trained on it: of another student with the same stage the teacher is not asked again.
    """

    subset: str | Mapping[str, float]
    teacher: str
    layers: str
    stages: Sequence[Mapping[str, Any]]
    model: Mapping[str, Any] = field(default_factory=dict)
    initial: str | None = None
    from_attention: bool = True
    cached_logits: int | Literal["all"] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        _check_subset("Distill", self.subset)
        for name in ("teacher", "layers"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                example = {"teacher": "the name of a run", "layers": 'letters such as "DDAD"'}[name]
                raise RecipeError(f"the {name} of Distill is {getattr(self, name)!r}", f"Distill({name}=...)", f"Give {example}.")
        stages = self.stages if isinstance(self.stages, Sequence) and not isinstance(self.stages, str) else ()
        if not stages or not all(isinstance(stage, Mapping) for stage in stages):
            example = 'Such as `[{"objective": "distillation", "steps": 100, ...}]`.'
            raise RecipeError(f"the stages of Distill are {self.stages!r}", "Distill(stages=...)", example)
        if not isinstance(self.model, Mapping):
            raise RecipeError(f"`model` of Distill is {self.model!r}", "Distill(model=...)", 'Such as `{"residual": "ladder"}`.')
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or self.seed < 0:
            raise RecipeError(f"`seed` of Distill is {self.seed!r}", "Distill(seed=...)", "Give a whole number from 0 on.")
        k = self.cached_logits
        if k is not None and k != "all" and (not isinstance(k, int) or isinstance(k, bool) or k < 1):
            fix = 'Give a number of ids, such as 64, or "all".'
            raise RecipeError(f"`cached_logits` is {k!r}", "Distill(cached_logits=...)", fix)
        if k is not None and all(stage.get("objective") != "distillation" for stage in stages):
            fix = "Leave it out, or add such a stage."
            raise RecipeError("no stage reads `cached_logits`: none is a distillation", "Distill(cached_logits=...)", fix)


def _check_subset(kind: str, subset: object) -> None:
    """One subset, or shares of several."""
    if isinstance(subset, str):
        return
    example = 'Such as `{"web": 0.8, "code": 0.2}`.'
    if not isinstance(subset, Mapping):
        raise RecipeError(f"the subset of {kind} is {subset!r}", f"{kind}(subset=...)", example)
    weights = list(subset.values())
    numbers = [isinstance(weight, int | float) and 0 < weight < float("inf") for weight in weights]
    if not numbers or not all(numbers):
        raise RecipeError(f"the weights of `{kind}(subset={dict(subset)})` are no shares", fix=example)
