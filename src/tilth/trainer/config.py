"""What a training run is asked to do: every setting, checked before anything is read; free of torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tilth.errors import RecipeError, did_you_mean
from tilth.tokenize.question_form import ANSWER, REJECTED

DECAYS = ("cosine", "wsd")
DEVICES = ("auto", "cpu", "cuda")
OBJECTIVES = (
    "next_token", "masked", "classify", "conditional", "orientation", "alignment", "distillation", "answers", "preferences",
)  # fmt: skip
KINDS_OF_KL = ("forward", "reverse")
TRAINED = (None, "all", "mixers")
OPTIMIZERS = ("adamw", "muon")
PRECISIONS = ("float32", "bfloat16")
_CHOICES = {
    "decay": DECAYS,
    "device": DEVICES,
    "kl": KINDS_OF_KL,
    "objective": OBJECTIVES,
    "optimizer": OPTIMIZERS,
    "precision": PRECISIONS,
    "trained": TRAINED,
}
# These say when to look, and where and how to compute, not what: a resumed run may change them, within rounding.
FREE = (
    "checkpoint_every", "eval_every", "eval_batches", "device", "shard", "max_repeats", "wandb_project", "micro_batch",
    "recompute", "compile",
)  # fmt: skip
OF_LAYERS = ("orientation", "alignment")  # objectives that ask the student's layers for what the teacher's do, one by one
OF_TEACHER = (*OF_LAYERS, "distillation")
OF_ANSWERS = ("answers", "preferences")
OF_DOCUMENTS = ("classify", "conditional", *OF_ANSWERS)  # of which a sequence is a whole document instead of a window
# Settings that some objectives alone read: others refuse them, and their runs have the identity that they had without.
READ_BY = {
    "kl": ("distillation",),
    "temperature": ("distillation",),
    "ce_weight": ("distillation",),
    "trained": OF_TEACHER,
    "answers_after": OF_ANSWERS,
    "rejected_after": ("preferences",),
    "beta": ("preferences",),
}


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One run. Batches are counted in sequences of `seq_len` tokens. Raises RecipeError.

    `micro_batch` is how many sequences one process takes at a time (None = its whole share): it changes memory
    and speed, and the loss within rounding. `decay_share` is the part of all steps over which "wsd" decays.
    `reverse_complement` is the share of sequences that are read from the other strand of DNA, for tokens of nucleotides.
    0 for `checkpoint_every` or `eval_every` means only at the end. One evaluation reads `eval_batches` global batches.
    `objective` is described in objectives.py; "masked" needs a bidirectional model. `optimizer` "muon" is Muon on the
    hidden matrices, which shares lr and weight_decay with AdamW on the rest. `skip_spikes` leaves out the update of a
    step whose loss or gradient norm lies this many standard deviations above the last 128 steps (0 = never). `precision`
    "bfloat16" makes the matrix products bf16, and nothing else. `recompute` keeps only the input of each sublayer for the
    backward pass; `compile` compiles each sublayer. `wandb_project` shows the curves on Weights & Biases, too.
    A run that would read one of its sources more often than `max_repeats` times (None = no limit) is refused.
    `document_losses` writes the loss of each document in each step beside the metrics. `tensor_parallel` is how many
    processes share one model, each with a slice of every layer. With `shard` the processes that share a batch also share
    the parameters (FSDP2): less memory, the same run, and it may be changed when a run is resumed.

    Distillation (see `distill/`): `kl` is "forward", teacher against student, or "reverse"; `temperature` divides the logits
    of both; `ce_weight` is the share of the targets' cross entropy in the loss. `trained` "mixers" trains only the mixers of
    another kind than the teacher's, which is what None means for "orientation" and "alignment"; for others it means "all".
    `answers_after` is the text after which the answer of a document begins, `rejected_after` that before an answer that is to
    become less likely, and `beta` the weight of the reference in DPO (Rafailov et al. 2023).
    """

    steps: int
    seq_len: int
    global_batch: int
    micro_batch: int | None = None
    objective: str = "next_token"
    reverse_complement: float = 0.0
    optimizer: str = "adamw"
    lr: float = 1e-3
    min_lr_ratio: float = 0.1
    warmup_steps: int = 0
    decay: str = "cosine"
    decay_share: float = 0.1
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    clip_norm: float = 1.0
    skip_spikes: float = 0.0
    precision: str = "float32"
    recompute: bool = False
    compile: bool = False
    tensor_parallel: int = 1
    shard: bool = False
    document_losses: bool = False
    kl: str = "forward"
    temperature: float = 1.0
    ce_weight: float = 0.0
    trained: str | None = None
    answers_after: str = ANSWER
    rejected_after: str = REJECTED
    beta: float = 0.1
    max_repeats: float | None = None
    seed: int = 0
    checkpoint_every: int = 100
    eval_every: int = 0
    eval_batches: int = 8
    device: str = "auto"
    wandb_project: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "seq_len", "global_batch", "eval_batches"):
            self._require_int(name, 1)
        for name in ("warmup_steps", "checkpoint_every", "eval_every"):
            self._require_int(name, 0)
        self._require_int("tensor_parallel", 1)
        if self.tensor_parallel > 1 and self.optimizer == "muon":
            raise _bad("tensor_parallel", self.tensor_parallel, "must be 1 with optimizer='muon', which needs whole matrices")
        if self.micro_batch is not None:
            self._require_int("micro_batch", 1)
        if not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**63:
            raise _bad("seed", self.seed, "must be an integer from 0 to 2**63 - 1")
        if self.max_repeats is not None:
            self._require_number("max_repeats", above=0, at_most=float("inf"))
        if self.warmup_steps >= self.steps > 1:
            raise _bad("warmup_steps", self.warmup_steps, f"must be below steps={self.steps}")
        for name in ("lr", "clip_norm"):
            self._require_number(name, above=0, at_most=float("inf"))
        self._require_number("decay_share", above=0, at_most=1)
        self._require_number("reverse_complement", above=None, at_most=1)
        self._require_number("min_lr_ratio", above=None, at_most=1)
        self._require_number("weight_decay", above=None, at_most=float("inf"))
        for name in ("beta1", "beta2"):
            self._require_number(name, above=None, at_most=0.999999)
        self._require_number("skip_spikes", above=None, at_most=float("inf"))
        self._require_number("ce_weight", above=None, at_most=1)
        for name in ("temperature", "beta"):
            self._require_number(name, above=0, at_most=float("inf"))
        for name in ("answers_after", "rejected_after"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                raise _bad(name, repr(getattr(self, name)), "must be the text that comes before an answer")
        if self.wandb_project is not None and (not isinstance(self.wandb_project, str) or not self.wandb_project):
            raise _bad("wandb_project", repr(self.wandb_project), "must be the name of a project, or None")
        for name in ("recompute", "compile", "shard", "document_losses"):
            if not isinstance(getattr(self, name), bool):
                raise _bad(name, repr(getattr(self, name)), "must be True or False")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise _bad(name, repr(getattr(self, name)), did_you_mean(str(getattr(self, name)), filter(None, known)))
        self._check_objective()

    def _check_objective(self) -> None:
        """Nothing is set that the objective does not read, or that it cannot be computed with."""
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        for name, objectives in READ_BY.items():
            if self.objective not in objectives and getattr(self, name) != defaults[name]:
                read = " and ".join(f"'{objective}'" for objective in objectives)
                raise _bad(name, repr(getattr(self, name)), f"is read by objective={read} alone; leave it out")
        if self.objective in OF_TEACHER and self.tensor_parallel > 1:
            raise _bad("tensor_parallel", self.tensor_parallel, "must be 1 in distillation: a teacher is not cut into slices")

    @property
    def trains_mixers_only(self) -> bool:
        """Whether everything but the mixers of another kind than the teacher's stays as it is."""
        return (self.trained or ("mixers" if self.objective in OF_LAYERS else "all")) == "mixers"

    def _require_int(self, name: str, minimum: int) -> None:
        value = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise _bad(name, repr(value), f"must be an integer of at least {minimum}")

    def _require_number(self, name: str, above: float | None, at_most: float) -> None:
        """`above=None` means at least 0. Neither end lets NaN or infinity pass."""
        value = getattr(self, name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (value >= 0 if above is None else value > above) or value > at_most or value == float("inf"):
            low = "at least 0" if above is None else f"above {above}"
            raise _bad(
                name, repr(value), f"must be a finite number {low}" + (f", at most {at_most}" if at_most != float("inf") else "")
            )

    def to_dict(self) -> dict[str, Any]:
        """All fields; from_dict gives an equal config."""
        return dataclasses.asdict(self)

    def identity(self) -> dict[str, Any]:
        """The fields that decide what is computed: those that a resumed run must share."""
        return {name: value for name, value in self.read_settings().items() if name not in FREE}

    def read_settings(self) -> dict[str, Any]:
        """All fields but those that other objectives read."""
        return {name: value for name, value in self.to_dict().items() if self.objective in READ_BY.get(name, OBJECTIVES)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainConfig:
        """The config of a mapping; raises RecipeError for an unknown or missing key."""
        fields = {field.name: field for field in dataclasses.fields(cls)}
        for key in values:
            if key not in fields:
                raise RecipeError(f"a run has no setting `{key}`", fix=did_you_mean(str(key), fields))
        for name, field in fields.items():
            if field.default is dataclasses.MISSING and name not in values:
                raise _bad(name, "nothing", "must be given")
        return cls(**values)


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """`train.lr: 0.001 -> 0.01` for each value that differs, nested mappings included."""
    lines: list[str] = []
    for key in sorted({*old, *new}):
        was, now = old.get(key), new.get(key)
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            lines += differences(was, now, f"{prefix}{key}.")
        elif was != now:
            lines.append(f"{prefix}{key}: {was} -> {now}")
    return lines


def _bad(name: str, value: object, problem: str) -> RecipeError:
    return RecipeError(f"the run's {name} is {value}", where=f"TrainConfig.{name}", fix=problem)
