"""A student made of its teacher: layers that stay are copied, and the attention of the others becomes a state space.

Softmax attention without its softmax is a linear recurrence of its own queries, keys and values (Katharopoulos et al. 2020),
which is the scan of Mamba-2 with C = q, B = k, x = v and no decay. So the weights of a layer's attention are where the layer
that replaces it begins (Wang et al. 2024, "The Mamba in the Llama").
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tilth.errors import RecipeError, did_you_mean
from tilth.models.block import make_mixer
from tilth.models.config import ModelConfig
from tilth.models.decoder import Decoder, mark_parameters
from tilth.models.mixers.discrete_mamba2 import GATE_OF_ONE
from tilth.models.pattern import parse_pattern
from tilth.models.weights import load_config
from tilth.trainer.config import OF_TEACHER, TrainConfig, differences

SHAPES = ("d_state", "expand", "ssm_head_dim", "n_groups", "d_conv")
"""Settings that give the recurrent layers of a model their shapes; those of all its layers are the same."""
SHARE_OF_SCORES = 0.1
"""What D takes of a score q . k / sqrt(head_dim): a sum of scores, unlike one of their softmax, is as large as they are.

Measured on character models of 116,000 parameters, by the cross entropy of the student (of the teacher: 1.57) at once and after
60 steps of alignment: 1 gives 4.9 and 1.94, 0.3 gives 3.7 and 1.84, 0.1 gives 2.5 and 1.84; drawn mixers give 3.7 and 2.30.
"""
SHARE_OF_INPUTS = 0.3
"""What M takes of v, k and q: its activation, silu, is a line near 0, and its norm takes the scale away.

On the same models, after 60 steps at a rate of 1e-2: drawn mixers give 2.08, with the rows of v, k and q 2.05, with also a
convolution near the identity, D = 0 and this share 1.96, and with an open gate, too, 1.82.
"""
SHARE_OF_DRAWN = 0.3
"""What is left of M's drawn gate and convolution, so that its channels are not all alike."""
SAMPLED = (32, 64)
RIDGE = 0.1
CHANGEABLE = ("layers", *SHAPES, "chunk_size", "residual", "residual_from")
"""Settings in which a student may differ from its teacher."""


def student_config(teacher: ModelConfig, layers: str, changes: Mapping[str, Any] | None = None) -> ModelConfig:
    """The config of a student with the mixers of `layers`; `changes` are CHANGEABLE settings of its own.

    Unless the teacher has recurrent layers that stay, the shapes of the new ones are those of its attention: a state of head_dim
    by head_dim for each head, and keys and queries of its own for each head, the grouped keys repeated. Raises RecipeError.
    """
    changes = dict(changes or {})
    for name in changes:
        if name not in CHANGEABLE or name == "layers":
            known = [name for name in CHANGEABLE if name != "layers"]
            is_setting = name in teacher.to_dict()
            what = f"a student has the `{name}` of its teacher" if is_setting else f"a model has no setting `{name}`"
            raise RecipeError(what, "the student's model", did_you_mean(name, known))
    pattern = parse_pattern(layers)
    check_depth(teacher.pattern, pattern)
    replaced = _different(teacher.pattern, pattern)
    keeps_recurrent = any(letter != "A" for number, letter in enumerate(pattern) if number not in replaced)
    shapes = {} if keeps_recurrent or not replaced else _attention_shapes(teacher)
    if shapes and shapes["expand"] == 0 and "expand" not in changes:
        problem = f"{teacher.n_heads} heads of {teacher.attention_head_dim} are no multiple of d_model={teacher.d_model}"
        raise _unfit(replaced[0], problem, "Give expand and the other shapes, and draw the layers anew: from_attention=False.")
    return ModelConfig.from_dict(teacher.to_dict() | {"layers": layers} | shapes | changes)


def replaced_layers(teacher: ModelConfig, student: ModelConfig) -> tuple[int, ...]:
    """The layers, counted from 0, whose mixer is of another kind than the teacher's. Raises RecipeError for another number."""
    check_depth(teacher.pattern, student.pattern)
    return _different(teacher.pattern, student.pattern)


def freeze(model: Decoder, config: TrainConfig, teacher: Path | None) -> None:
    """Leave gradients to what the run trains. Raises RecipeError when that would be nothing."""
    if config.objective not in OF_TEACHER or not config.trains_mixers_only:
        return
    if teacher is None:
        raise RecipeError("without a teacher no mixer differs from its", "TrainConfig.trained", "Give the teacher.")
    known = load_config(teacher)
    numbers = replaced_layers(known, model.config)
    if not numbers:
        raise RecipeError(
            f"all mixers are of the teacher's kind ({known.layers}): none is to be trained",
            where="TrainConfig.trained",
            fix="Give the student other layers, or train 'all' with objective='distillation'.",
        )
    model.requires_grad_(False)
    for number in numbers:
        model.get_submodule(f"blocks.{number}.mixer").requires_grad_(True)


def make_student(origin: Decoder, config: ModelConfig, from_attention: bool = True) -> Decoder:
    """A student of `config` with the weights of `origin`, its teacher or an earlier student: no memory is shared.

    Embedding, norms, MLPs and head are copied, and mixers of the same kind. A mixer that becomes D or M begins with the weights
    of the attention that it replaces, or, without `from_attention`, as torch's generator draws it. The student is on the
    origin's device, in fp32 at least, whatever the origin is in. Raises RecipeError, naming the layer that does not fit.
    """
    _check(origin, config, from_attention)
    replaced = replaced_layers(origin.config, config)
    # fp32 for a teacher in half precision, too: its student is trained
    values = {
        name: t.detach().to(torch.promote_types(t.dtype, torch.float32), copy=True) for name, t in origin.state_dict().items()
    }
    read = _read_by_mixers(origin, [i for i in replaced if config.pattern[i] == "M"]) if from_attention else {}
    for number in replaced:
        prefix, letter = f"blocks.{number}.mixer.", config.pattern[number]
        old = {name.removeprefix(prefix): values.pop(name) for name in list(values) if name.startswith(prefix)}
        mixer = _new_mixer(letter, config, like=origin.embedding.weight)
        if from_attention:
            _copy_attention(letter, mixer, config, old)
        if number in read:
            _open_gate(mixer, config, read[number])
        values |= {prefix + name: parameter.detach() for name, parameter in mixer.named_parameters()}
    # built without memory: drawing all of its weights would cost time
    with torch.device("meta"):
        student = Decoder(config)
    student.load_state_dict(values, assign=True)
    mark_parameters(student)
    return student


def check_layers(teacher: Decoder, student: Decoder) -> tuple[int, ...]:
    """The replaced layers of a student, to be compared with those of its teacher one by one. Raises RecipeError."""
    check_depth(teacher.config.pattern, student.config.pattern)
    if (old := teacher.config.d_model) != (new := student.config.d_model):
        raise RecipeError(f"the student's d_model is {new}, its teacher's {old}", "ModelConfig.d_model")
    if student.ranks.size > 1:
        problem = "layers cannot be compared with those of a teacher where each process holds a slice of them"
        raise RecipeError(problem, "TrainConfig.tensor_parallel", "Use more processes with tensor_parallel=1.")
    if not (replaced := replaced_layers(teacher.config, student.config)):
        fix = "Give the student other layers than its teacher's."
        raise RecipeError("the student has the mixers of its teacher, so there is nothing to make alike", "layers", fix)
    return replaced


def _different(old: str, new: str) -> tuple[int, ...]:
    return tuple(number for number, letters in enumerate(zip(old, new, strict=True)) if letters[0] != letters[1])


def _attention_shapes(teacher: ModelConfig) -> dict[str, int]:
    """The shapes of a recurrence with the heads of the teacher's attention; expand is 0 where there is none."""
    if "A" not in teacher.pattern:
        return {}
    head_dim, width = teacher.attention_head_dim, teacher.n_heads * teacher.attention_head_dim
    expand = 0 if width % teacher.d_model else width // teacher.d_model
    return {"d_state": head_dim, "ssm_head_dim": head_dim, "n_groups": teacher.n_heads, "expand": expand}


def _new_mixer(letter: str, config: ModelConfig, like: Tensor) -> nn.Module:
    mixer = make_mixer(letter, config)
    with torch.no_grad():
        # as Decoder does: what writes to the stream is smaller the more writes there are
        mixer.get_parameter("out_proj.weight").div_(math.sqrt(config.n_sublayers))
    return mixer.to(like.device, torch.promote_types(like.dtype, torch.float32))


@torch.no_grad()
def _copy_attention(letter: str, mixer: nn.Module, config: ModelConfig, attention: Mapping[str, Tensor]) -> None:
    """x <- v, B <- k, C <- q, each head its own and to scale, and the output projection; D adds nothing, nor does attention."""
    head_dim, n_heads, n_kv_heads = config.attention_head_dim, config.n_heads, config.kv_heads
    heads = attention["qkv_proj.weight"].unflatten(0, (-1, head_dim)).split([n_heads, n_kv_heads, n_kv_heads])
    q_HPD, k_HPD, v_HPD = (part.repeat_interleave(n_heads // len(part), dim=0) for part in heads)
    parts, start = (v_HPD, k_HPD, q_HPD * (SHARE_OF_SCORES / math.sqrt(head_dim))), 0
    if letter == "M":
        parts, start = tuple(SHARE_OF_INPUTS * part for part in (v_HPD, k_HPD, q_HPD / math.sqrt(head_dim))), config.d_inner
    rows_RD = torch.cat([part.flatten(0, 1) for part in parts])
    mixer.get_parameter("in_proj.weight")[start : start + len(rows_RD)] = rows_RD
    mixer.get_parameter("out_proj.weight").copy_(attention["out_proj.weight"])
    mixer.get_parameter("D").zero_()
    if letter == "M":
        taps_CK = mixer.get_parameter("conv_weight").mul_(SHARE_OF_DRAWN)
        taps_CK[:, -1] += 1
        mixer.get_parameter("conv_bias").zero_()


@torch.no_grad()
def _open_gate(mixer: nn.Module, config: ModelConfig, read_ND: Tensor) -> None:
    """Add to the gate of M what makes it 1 on the inputs read_ND, as nearly as a product with them can: it has no bias.

    The direction w is that of ridge regression on a constant, (E[u u^T] + r I)^-1 E[u], scaled so that E[w . u] is 1.
    """
    read_ND = read_ND.double()
    moment_DD, mean_D = read_ND.mT @ read_ND / len(read_ND), read_ND.mean(0)
    ridge_D = (RIDGE * moment_DD.diagonal().mean()).expand(len(mean_D))
    direction_D = torch.linalg.solve(moment_DD + ridge_D.diag(), mean_D)
    gate_ID = mixer.get_parameter("in_proj.weight")[: config.d_inner]
    gate_ID.mul_(SHARE_OF_DRAWN).add_((GATE_OF_ONE * direction_D / (direction_D @ mean_D)).to(gate_ID.dtype))


@torch.no_grad()
def _read_by_mixers(model: Decoder, numbers: Sequence[int]) -> dict[int, Tensor]:
    """What the mixers of these layers read, (N, D) each, of rows of random ids, the same at every call.

    The constant part of it is nearly that of text: gates opened on text gave 1.81 where those opened on random ids gave 1.82.
    """
    read: dict[int, Tensor] = {}
    if not numbers:
        return read

    def note(number: int, given: tuple[Any, ...]) -> None:
        read[number] = given[0].flatten(0, 1)

    ids_BT = torch.randint(model.config.vocab_size, SAMPLED, generator=torch.Generator().manual_seed(0))
    mixers = [(number, model.get_submodule(f"blocks.{number}.mixer")) for number in numbers]
    hooks = [mixer.register_forward_pre_hook(lambda _, given, i=number: note(i, given)) for number, mixer in mixers]
    try:
        model.hidden(ids_BT.to(model.embedding.weight.device))
    finally:
        for hook in hooks:
            hook.remove()
    return read


def _check(origin: Decoder, config: ModelConfig, from_attention: bool) -> None:
    old = origin.config
    check_depth(old.pattern, config.pattern)
    was, now = old.to_dict(), config.to_dict()
    if others := differences(was, now | {name: was[name] for name in CHANGEABLE}, "model."):
        fix = "Change only " + ", ".join(CHANGEABLE) + "."
        raise RecipeError("the student is not made like its teacher: " + "; ".join(others), "the student's model", fix)
    if origin.ranks.size > 1 or old.bidirectional or old.rcps or old.desync_ranks > 1 or config.desync_ranks > 1:
        fix = "Give a whole decoder that reads one way."
        raise RecipeError("a model that is cut into shards or reads both ways has no student", "the teacher", fix)
    shapes = [f"{name}={was[name]} -> {now[name]}" for name in SHAPES if was[name] != now[name]]
    for number, (before, after) in enumerate(zip(old.pattern, config.pattern, strict=True)):
        if before == after and after != "A" and shapes:
            fix = "Leave these settings as they are, and draw the other layers anew: from_attention=False."
            raise _unfit(number, f"it is copied, and has other shapes: {', '.join(shapes)}", fix)
        if before != after and from_attention:
            _check_attention_fits(number, before, after, config)


def _check_attention_fits(number: int, before: str, after: str, config: ModelConfig) -> None:
    if before != "A" or after not in "DM":
        raise _unfit(
            number, f"{before} cannot become {after}: attention (A) becomes D or M", "Or draw it anew: from_attention=False."
        )
    wanted = {
        "d_state": config.head_dim,
        "ssm_head_dim": config.head_dim,
        "n_groups": config.n_heads,
        "n_ssm_heads": config.n_heads,
    }
    if wrong := [
        f"{name}={getattr(config, name)}, not {value}" for name, value in wanted.items() if getattr(config, name) != value
    ]:
        fix = "Leave the shapes to student_config, or draw the layers anew: from_attention=False."
        raise _unfit(
            number, f"the attention of {config.n_heads} heads of {config.head_dim} does not fit: {', '.join(wrong)}", fix
        )


def check_depth(old: str, new: str) -> None:
    """Raise RecipeError for a student whose pattern has more or fewer letters than its teacher's."""
    if len(old) != len(new):
        fix = f"Give one letter for each layer of the teacher, {old}."
        raise RecipeError(f"the student has {len(new)} layers, its teacher {len(old)}", "layers", fix)


def _unfit(number: int, problem: str, fix: str) -> RecipeError:
    return RecipeError(f"layer {number} of the student does not fit its teacher: {problem}", f"layers, layer {number}", fix)
